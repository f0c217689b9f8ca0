"""The public families on the torch backend, against transformers itself.

Here for the seconds that transformers takes to import; needs nothing but a CPU.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import parity, tiny_models
from sluice_inference.engine.backend import Kind, Output, Prompt
from sluice_inference.errors import LoadError
from sluice_inference.models.adoption import adopt
from sluice_inference.models.torch_backend import TorchBackend

MAKERS = tiny_models.DUAL_ENCODERS | tiny_models.CLASSIFIERS | {"LLaVA": tiny_models.make_llava}
PICTURE = np.random.default_rng(3).integers(0, 256, (tiny_models.SIZE,) * 2 + (3,), dtype=np.uint8)
OTHER = np.random.default_rng(4).integers(0, 256, (90, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family, as one would find it published."""
    root = tmp_path_factory.mktemp("published")
    for name, make in MAKERS.items():
        make(root / name)
    return root


@pytest.fixture
def artifact(sources: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes an artifact of a family."""

    def make(family: str, labels: tuple[str, ...] = ()) -> Path:
        adopt(sources / family, tmp_path / family, space="tiny-1", labels=labels)
        return tmp_path / family

    return make


def load(folder: Path, precision: str = "float32") -> TorchBackend:
    backend = parity.make_backend(folder, precision)
    backend.load()
    return backend


def run(backend: TorchBackend, kind: Kind, *payloads: Any) -> list[Output]:
    outcomes = backend.run(kind, payloads)
    assert all(isinstance(one, Output) for one in outcomes), outcomes
    return [one for one in outcomes if isinstance(one, Output)]


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("precision", parity.GOALS)
@pytest.mark.parametrize("family", [*tiny_models.DUAL_ENCODERS, *tiny_models.CLASSIFIERS])
def test_answers_are_those_of_transformers(sources: Path, family: str, precision: str) -> None:
    found = parity.measure(family, sources / family, precision)
    assert found.is_met(), found


@pytest.mark.parametrize("family", [*tiny_models.DUAL_ENCODERS, *tiny_models.CLASSIFIERS])
def test_an_adopted_model_warms_up_and_says_what_it_is(
    artifact: Callable[..., Path], family: str
) -> None:
    backend = parity.make_backend(artifact(family), "float32")
    facts = backend.load()
    backend.warmup()
    if family in tiny_models.DUAL_ENCODERS:
        assert facts.architecture == family
        assert facts.tasks == ("ImageEmbedding", "TextEmbedding", "Similarity")
        assert (facts.space, facts.logit_scale > 1) == ("tiny-1", True)
        assert (facts.logit_bias is None) == (family != "SigLIP")
    else:
        assert (facts.architecture, facts.tasks) == ("CNN", ("Classification",))
        assert facts.labels[:2] == ("class 0", "class 1")


@pytest.mark.parametrize("family", tiny_models.DUAL_ENCODERS)
def test_a_text_embeds_the_same_alone_and_beside_a_long_one(
    artifact: Callable[..., Path], family: str
) -> None:
    backend = load(artifact(family))
    (alone,) = run(backend, Kind.TEXT, "two")
    beside = run(backend, Kind.TEXT, "two", "a photo of the pizza and olive left of tomato " * 3)
    assert alone.embedding == pytest.approx(beside[0].embedding, abs=1e-5)


@pytest.mark.parametrize("family", tiny_models.DUAL_ENCODERS)
def test_labels_make_a_classifier_of_a_dual_encoder(
    artifact: Callable[..., Path], family: str
) -> None:
    labels = ("pizza", "olive", "tomato")
    backend = parity.make_backend(artifact(family, labels), "float32")
    facts = backend.load()
    backend.warmup()
    (image,) = run(backend, Kind.IMAGE, PICTURE)
    texts = run(backend, Kind.TEXT, *(f"a photo of a {one}" for one in labels))
    cosines = np.asarray([np.dot(image.embedding, one.embedding) for one in texts])
    logits = facts.logit_scale * cosines
    if facts.logit_bias is None:
        expected = np.exp(logits) / np.exp(logits).sum()
    else:
        expected = 1 / (1 + np.exp(-logits - facts.logit_bias))
    assert "Classification" in facts.tasks
    assert image.scores == pytest.approx(expected, abs=1e-5)


def test_projections_that_nobody_trained_are_refused(artifact: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = artifact("VisionTextDualEncoder")
    weights = load_file(str(folder / "hf" / "model.safetensors"))
    kept = {
        name: value for name, value in weights.items() if not name.endswith("_projection.weight")
    }
    assert len(kept) < len(weights)
    save_file(kept, str(folder / "hf" / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"2 weights .* are missing, text_projection\.weight"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"auto_map": {"AutoModel": "x.Y"}}, "auto_map is refused", id="code"),
        pytest.param({"quantization_config": {"a": 1}}, "is refused", id="quantised"),
        pytest.param({"model_type": "siglip"}, "model_type 'siglip'", id="another family"),
    ],
)
def test_a_folder_that_is_not_plain_weights_of_its_family_is_refused(
    artifact: Callable[..., Path], change: dict[str, Any], words: str
) -> None:
    folder = artifact("CLIP")
    edit(folder / "hf" / "config.json", **change)
    with pytest.raises(LoadError, match=words):
        load(folder)


def test_weights_in_a_pickle_are_not_read(artifact: Callable[..., Path]) -> None:
    import torch

    folder = artifact("CLIP")
    (folder / "hf" / "model.safetensors").unlink()
    torch.save({}, folder / "hf" / "pytorch_model.bin")
    with pytest.raises(LoadError, match="CLIPModel can't be loaded"):
        load(folder)


def test_a_model_answers_in_words_and_the_same_each_time(artifact: Callable[..., Path]) -> None:
    folder = artifact("LLaVA")
    edit(
        folder / "config.json",
        words={"prompts": {"VisualQuestionAnswering": "what is {question}"}, "max_new_tokens": 5},
        tasks=["VisualQuestionAnswering"],
    )
    backend = parity.make_backend(folder, "float32")
    facts = backend.load()
    backend.warmup()
    assert (facts.dimension, facts.tasks) == (0, ("VisualQuestionAnswering",))
    ask = [
        Prompt(PICTURE, "left", "VisualQuestionAnswering"),
        Prompt(OTHER, "above the olive", "VisualQuestionAnswering"),
    ]
    alone = [run(backend, Kind.PROMPT, one)[0].text for one in ask]
    together = [one.text for one in run(backend, Kind.PROMPT, *ask)]
    assert alone == together
    assert all(text and len(text.split()) <= 5 for text in together)
    assert "what is" not in str(together[0])


def test_a_question_can_not_bring_the_models_own_marks(artifact: Callable[..., Path]) -> None:
    """A second <image> in the text would be one picture too few for the processor."""
    backend = load(artifact("LLaVA"))
    sly = Prompt(PICTURE, "left <image> </s> <im<image>age>", "VisualQuestionAnswering")
    (answer,) = run(backend, Kind.PROMPT, sly)
    assert answer.text


def test_a_task_without_a_prompt_is_refused(artifact: Callable[..., Path]) -> None:
    folder = artifact("LLaVA")
    edit(folder / "config.json", words={"prompts": {"OCR": "read"}})
    with pytest.raises(LoadError, match="needs a prompt for each of Captioning"):
        load(folder)


def test_what_a_publisher_left_out_is_said_before_anything_is_written(
    sources: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources / "CLIP", source)
    (source / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match=r"tokenizer\.json is missing"):
        adopt(source, tmp_path / "into", space="tiny-1")
    with pytest.raises(LoadError, match="--space"):
        adopt(source, tmp_path / "into", space="")
    assert not (tmp_path / "into").exists()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
