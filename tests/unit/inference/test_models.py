"""Backends on real artifacts: a tiny ONNX model whose every answer can be worked out by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sluice_inference.artifact.config import read_config
from sluice_inference.artifact.push import write_manifest
from sluice_inference.engine.backend import Kind, Output, Prompt
from sluice_inference.errors import LoadError, NoDeviceError, RunError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.models.artifact_model import batch_sizes, make_tokenizer, tokenize
from sluice_inference.models.fake_backend import FakeBackend
from sluice_inference.models.golden import check_golden
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.models.outputs import compute_softmax, make_outputs, normalise
from sluice_inference.models.registry import choose_backend, make_backend
from sluice_inference.models.zero_shot import compute_zero_shot
from sluice_inference.settings import read_settings

SIZE = 8
TASKS = ["ImageEmbedding", "TextEmbedding", "Classification"]
CONFIG: dict[str, Any] = {
    "schema": 1,
    "architecture": "SpatialDualEncoder",
    "image": {"size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "embedding": {"space": "colour-1", "dimension": 3},
    "labels": ["red", "green", "blue"],
    "tasks": TASKS,
    "text": {"max_length": 4, "pad_id": 0},
    "model": {},
}
GOLDEN: dict[str, Any] = {
    "schema": 1,
    "min_cosine": "0.999",
    "samples": [
        {"image": "golden/0.png", "embedding": [1, 0, 0], "label": "red"},
        {"text": "one two", "embedding": [1, 2, 0]},
    ],
}


def make_graph(input_info: Any, nodes: list[Any], outputs: list[str], extra: list[Any]) -> bytes:
    infos = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["n", "w"]) for one in outputs]
    graph = helper.make_graph(nodes, "tiny", [input_info], infos, extra)
    opset = [helper.make_opsetid("", 18)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return data


def make_image_graph(factor: float = 1) -> bytes:
    """The mean of each channel, times `factor`, as embedding and as logits."""
    info = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    axes = onnx.numpy_helper.from_array(np.asarray([1, 2], dtype=np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "factor"], ["embedding"]),
        helper.make_node("Identity", ["embedding"], ["logits"]),
    ]
    times = onnx.numpy_helper.from_array(np.asarray(factor, dtype=np.float32), "factor")
    return make_graph(info, nodes, ["embedding", "logits"], [axes, times])


def make_text_graph(width: int = 3) -> bytes:
    """The first `width` token ids, as embedding."""
    info = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", "l"])
    bounds = {"starts": 0, "ends": width, "axis": 1}
    extra = [
        onnx.numpy_helper.from_array(np.asarray([value], dtype=np.int64), name)
        for name, value in bounds.items()
    ]
    nodes = [
        helper.make_node("Slice", ["tokens", "starts", "ends", "axis"], ["first"]),
        helper.make_node("Cast", ["first"], ["embedding"], to=TensorProto.FLOAT),
    ]
    return make_graph(info, nodes, ["embedding"], extra)


def make_png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "golden").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "image.onnx").write_bytes(make_image_graph())
    (tmp_path / "text.onnx").write_bytes(make_text_graph())
    tokenizer = Tokenizer(
        WordLevel({"[PAD]": 0, "one": 1, "two": 2, "[UNK]": 3}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "golden" / "0.png").write_bytes(make_png((200, 0, 0)))
    (tmp_path / "golden" / "golden.json").write_text(json.dumps(GOLDEN))
    return tmp_path


def make_onnx(folder: Path, **env: str) -> OnnxBackend:
    values = {"MODEL_PATH": str(folder), "BATCH_SIZE": "4", "DEVICE": "cpu", **env}
    return OnnxBackend(read_settings(values).model)


def edit(folder: Path, file: str, change: Callable[[Any], None]) -> None:
    path = folder / file
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def get_output(outcome: Output | RunError) -> Output:
    assert isinstance(outcome, Output)
    return outcome


def test_an_artifact_is_loaded_warmed_up_and_answers(folder: Path) -> None:
    digest = write_manifest(folder)
    backend = make_onnx(
        folder, MODEL_DIGEST=digest, EMBEDDING_SPACE="colour-1", EMBEDDING_DIMENSION="3"
    )
    facts = backend.load()
    backend.warmup()
    assert (facts.backend, facts.device, facts.tasks) == ("onnx", "cpu", tuple(TASKS))
    green = np.full((SIZE, SIZE, 3), (0, 50, 0), dtype=np.uint8)
    blue = np.full((SIZE, SIZE, 3), (0, 0, 50), dtype=np.uint8)
    outputs = [get_output(one) for one in backend.run(Kind.IMAGE, [green, blue])]
    assert [facts.labels[int(np.argmax(one.scores))] for one in outputs] == ["green", "blue"]
    assert outputs[0].embedding == pytest.approx([0, 1, 0])
    (text,) = backend.run(Kind.TEXT, ["two"])
    assert get_output(text).embedding == pytest.approx([1, 0, 0])
    assert get_output(text).scores is None


def test_a_text_embeds_the_same_alone_and_in_company(folder: Path) -> None:
    backend = make_onnx(folder)
    backend.load()
    alone = get_output(backend.run(Kind.TEXT, ["one"])[0])
    both = backend.run(Kind.TEXT, ["one", "two two two two two two"])
    assert (alone.embedding == get_output(both[0]).embedding).all()


def raise_min_cosine(golden: Any) -> None:
    golden["samples"][1]["embedding"] = [1, 2.3, 0]


@pytest.mark.parametrize(
    ("change", "env", "words"),
    [
        pytest.param(
            lambda f: edit(f, "golden/golden.json", raise_min_cosine),
            {},
            ["'one two'", "cosine 0.998", "< 0.999"],
            id="an embedding drifts",
        ),
        pytest.param(
            lambda f: (f / "golden" / "0.png").write_bytes(make_png((0, 99, 0))),
            {},
            ["golden/0.png", "cosine 0.000000"],
            id="another picture",
        ),
        pytest.param(
            lambda f: edit(f, "golden/golden.json", lambda g: g["samples"][0].update(label="blue")),
            {},
            ["label 'red'", "expected 'blue'"],
            id="another label",
        ),
        pytest.param(
            lambda f: edit(f, "golden/golden.json", lambda g: g["samples"][0].pop("image")),
            {},
            ["image or a text"],
            id="a sample without input",
        ),
        pytest.param(
            lambda f: edit(f, "golden/golden.json", lambda g: g["samples"][0].update(image="../x")),
            {},
            ["outside the artifact"],
            id="a sample outside",
        ),
        pytest.param(
            lambda f: None,
            {"EMBEDDING_SPACE": "colour-2"},
            ["'colour-2'", "'colour-1'"],
            id="space",
        ),
        pytest.param(
            lambda f: None, {"EMBEDDING_DIMENSION": "512"}, ["512", "config.json 3"], id="dimension"
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c.update(tasks=["Classification"])),
            {"MODEL_TASKS": "TextEmbedding"},
            ["TextEmbedding", "Classification"],
            id="a task that the artifact does not have",
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c["image"].update(size="big")),
            {},
            ["config.json", "image.size"],
            id="a config of the wrong type",
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c.update(schema=2)),
            {},
            ["schema 2"],
            id="a config of tomorrow",
        ),
        pytest.param(
            lambda f: (f / "image.onnx").unlink(), {}, ["image.onnx is missing"], id="gone"
        ),
        pytest.param(
            lambda f: (f / "image.onnx").write_bytes(b"x" * 99), {}, ["image.onnx"], id="no graph"
        ),
        pytest.param(
            lambda f: (f / "image.onnx").write_bytes(make_text_graph()),
            {},
            ["takes tokens", "must take pixels"],
            id="another graph",
        ),
        pytest.param(
            lambda f: (f / "tokenizer.json").write_text("{}"),
            {},
            ["tokenizer.json"],
            id="tokenizer",
        ),
        pytest.param(
            lambda f: None,
            {"MODEL_DIGEST": "sha256:" + "0" * 64},
            ["the version names sha256:000"],
            id="another version's folder",
        ),
        pytest.param(
            lambda f: None, {"DEVICE": "cuda"}, ["no CUDA provider"], id="a GPU that is not there"
        ),
    ],
)
def test_what_is_not_the_registered_model_does_not_become_ready(
    folder: Path, change: Callable[[Path], object], env: dict[str, str], words: list[str]
) -> None:
    write_manifest(folder)
    change(folder)
    backend = make_onnx(folder, **env)
    with pytest.raises(LoadError) as caught:
        load(backend)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def without_golden(folder: Path) -> Path:
    """The samples would find it too, but an artifact need not have any."""
    (folder / "golden" / "golden.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda f: (f / "image.onnx").write_bytes(make_image_graph(np.nan)),
            ["warm-up with 1 inputs (image)", "not finite"],
            id="weights that are not numbers",
        ),
        pytest.param(
            lambda f: (f / "image.onnx").write_bytes(make_image_graph(0)),
            ["warm-up with 1 inputs (image)", "not finite"],
            id="weights of nothing but zeros",
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c["embedding"].update(dimension=4)),
            ["have 3 numbers", "says 4 (embedding.dimension)"],
            id="another embedding width",
        ),
        pytest.param(
            lambda f: (f / "text.onnx").write_bytes(make_text_graph(2)),
            ["(text)", "have 2 numbers", "says 3 (embedding.dimension)"],
            id="texts in another space than images",
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c.update(labels=["red", "green"])),
            ["logits have 3 numbers", "has 2 labels"],
            id="more logits than labels",
        ),
        pytest.param(
            lambda f: edit(f, "config.json", lambda c: c.update(labels=[])),
            ["logits have 3 numbers", "has 0 labels"],
            id="a classifier without labels",
        ),
    ],
)
def test_a_model_that_can_not_answer_does_not_become_ready(
    folder: Path, change: Callable[[Path], object], words: list[str]
) -> None:
    change(without_golden(folder))
    with pytest.raises(LoadError) as caught:
        load(make_onnx(folder))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def load(backend: OnnxBackend) -> None:
    backend.load()
    backend.warmup()


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_only_a_device_that_was_asked_for_must_be_there(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CUDA build on a machine without a GPU: it has the provider, drops it and goes on with the CPU.
    session = onnxruntime.InferenceSession

    def drop_cuda(*args: Any, providers: list[str]) -> Any:
        return session(*args, providers=[one for one in providers if one.startswith("CPU")])

    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", drop_cuda)
    backend = make_onnx(folder, DEVICE=device)
    if device == "auto":
        assert backend.load().device == "cpu"
    else:
        with pytest.raises(NoDeviceError, match="DEVICE: cuda, but no GPU"):
            backend.load()


def test_a_file_cut_after_the_fetch_is_noticed(folder: Path) -> None:
    digest = write_manifest(folder)
    (folder / "text.onnx").write_bytes(make_text_graph()[:-5])
    with pytest.raises(LoadError, match=r"text\.onnx: .* bytes, the manifest says"):
        make_onnx(folder, MODEL_DIGEST=digest).load()


def test_values_that_are_not_finite_fail_their_item_only() -> None:
    embeddings = np.asarray([[3, 4], [np.nan, 1], [0, 0]], dtype=np.float32)
    outcomes = make_outputs(embeddings, None)
    assert [isinstance(one, Output) for one in outcomes] == [True, False, False]
    assert get_output(outcomes[0]).embedding == pytest.approx([0.6, 0.8])


def test_the_arithmetic() -> None:
    scores = compute_softmax(np.asarray([[1000, 1000, 0]], dtype=np.float32))
    assert scores[0] == pytest.approx([0.5, 0.5, 0])
    units = normalise(np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32))
    assert np.linalg.norm(units, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert (list(batch_sizes(1)), list(batch_sizes(6))) == ([1], [1, 2, 4, 6])


@pytest.mark.parametrize(
    ("env", "backend"),
    [
        ({"MODEL_FORMAT": "ONNX"}, "onnx"),
        ({"MODEL_FORMAT": "Safetensors"}, "torch"),
        ({"MODEL_FORMAT": "Safetensors", "BACKEND": "fake"}, "fake"),
        ({"BACKEND": "torch"}, "torch"),
    ],
)
def test_the_format_chooses_the_backend_unless_told(env: dict[str, str], backend: str) -> None:
    settings = read_settings(env).model
    assert choose_backend(settings) == backend
    assert type(make_backend(settings)).__name__.lower() == f"{backend}backend"


def test_zero_shot_scores_are_a_softmax_of_scaled_cosines() -> None:
    images = np.asarray([[1, 0], [0.6, 0.8]], dtype=np.float32)
    labels = np.asarray([[1, 0], [0, 1]], dtype=np.float32)
    scores = compute_zero_shot(images, labels, 10.0, None)
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-10)))
    assert scores[1, 1] == pytest.approx(1 / (1 + np.exp(-2)))
    assert scores.sum(axis=1) == pytest.approx([1, 1])


def test_with_a_bias_each_score_is_a_probability_of_its_own() -> None:
    images = np.asarray([[1, 0], [-1, 0]], dtype=np.float32)
    labels = np.asarray([[1, 0], [0, 1]], dtype=np.float32)
    scores = compute_zero_shot(images, labels, 1000.0, -5.0)
    assert scores[0] == pytest.approx([1, 1 / (1 + np.exp(5))])
    assert scores[1, 0] == pytest.approx(0)


@pytest.mark.parametrize(
    ("text", "given", "tokens"),
    [
        pytest.param({}, "One two", [3, 2, 0, 0], id="as it comes"),
        pytest.param({"lowercase": True}, "One, two", [1, 3, 2, 0], id="lower case"),
        pytest.param(
            {"lowercase": True, "drop_punctuation": True},
            " One,  [Two]! ",
            [1, 2, 0, 0],
            id="without punctuation",
        ),
        pytest.param({"pad_left": True}, "one two", [0, 0, 1, 2], id="padded on the left"),
    ],
)
def test_texts_are_cleaned_as_config_says(
    folder: Path, text: dict[str, Any], given: str, tokens: list[int]
) -> None:
    edit(folder, "config.json", lambda c: c["text"].update(text))
    settings = make_onnx(folder)._settings
    assert tokenize(make_tokenizer(settings, read_config(folder)), [given]).tolist() == [tokens]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"tasks": ["OCR"]}, "OCR can't be answered by architecture", id="a task"),
        pytest.param(
            {"image": {**CONFIG["image"], "fit": "crop", "edge": 4}},
            "image.edge 4 is not within 8",
            id="an edge smaller than the crop",
        ),
        pytest.param({"image": {**CONFIG["image"], "std": [1, 0, 1]}}, "has a 0", id="std"),
        pytest.param(
            {"text": {"max_length": 4, "template": "a photo"}}, "has no {}", id="the template"
        ),
    ],
)
def test_a_config_that_can_not_be_meant_is_refused(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    edit(folder, "config.json", lambda c: c.update(change))
    with pytest.raises(LoadError, match=words):
        make_onnx(folder).load()


def test_a_model_without_words_takes_no_question(folder: Path) -> None:
    backend = make_onnx(folder)
    facts = backend.load()
    pixels = np.zeros((facts.image.height, facts.image.width, 3), dtype=np.uint8)
    (outcome,) = backend.run(Kind.PROMPT, [Prompt(pixels, "what?", "OCR")])
    assert isinstance(outcome, RunError)


def test_a_golden_answer_is_held_to_the_word(tmp_path: Path) -> None:
    backend = FakeBackend(read_settings({"BACKEND": "fake", "MODEL_TASKS": "OCR"}).model)
    facts = backend.load()
    (tmp_path / "0.png").write_bytes(make_png((200, 0, 0)))
    pixels = decode_image(
        (tmp_path / "0.png").read_bytes(), facts.image, max_bytes=999, max_pixels=64
    )
    (said,) = backend.run(Kind.PROMPT, [Prompt(pixels, "what?", "OCR")])
    sample = {"image": "0.png", "task": "OCR", "question": "what?", "answer": get_output(said).text}
    golden = tmp_path / "golden" / "golden.json"
    golden.parent.mkdir()
    golden.write_text(json.dumps({"schema": 1, "samples": [sample]}))
    assert check_golden(tmp_path, backend, facts) == 1
    golden.write_text(json.dumps({"schema": 1, "samples": [{**sample, "answer": "other"}]}))
    with pytest.raises(LoadError, match=r"answer 'OCR .*', expected 'other'"):
        check_golden(tmp_path, backend, facts)
