"""An untrained model's artifact: ONNX says what torch says, and the folder keeps the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from examples.pizza.artifact import GOLDEN_IMAGES, choose_golden, write_artifact
from examples.pizza.dataset import Dataset, make_dataset
from examples.pizza.export import (
    MIN_COSINE,
    ExportDiffersError,
    check_export,
    compare_rows,
    open_graph,
)
from examples.pizza.scenes import LABELS, Split, write_prompt
from examples.pizza.training import encode_images, make_config, reproducible
from examples.pizza.vocabulary import encode_texts, make_tokenizer
from sluice_inference.artifact.manifest import verify_folder
from sluice_inference.models.spatial import SpatialDualEncoder


class Made(NamedTuple):
    """A written artifact and what it was written from."""

    folder: Path
    digest: str
    model: SpatialDualEncoder
    tokenizer: Tokenizer
    config: dict[str, Any]
    holdout: Dataset


def make_artifact(folder: Path) -> Made:
    drawn = make_dataset(Split.HOLDOUT, 16)
    tokenizer = make_tokenizer([*drawn.captions, *map(write_prompt, LABELS)])
    config = make_config(tokenizer.get_vocab_size())
    with reproducible(9):
        model = SpatialDualEncoder.from_config(config).eval()
        # Nobody trained it: what it answers is taken for the truth, so that golden samples exist.
        answers = encode_images(model, drawn.pixels)[1].argmax(axis=1)
    holdout = Dataset(drawn.pixels, drawn.depth, answers, drawn.captions)
    digest = write_artifact(folder, config, model, tokenizer, holdout)
    return Made(folder, digest, model, tokenizer, config, holdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "made")


def test_the_folder_matches_its_manifest_and_holds_what_the_contract_names(made: Made) -> None:
    manifest = verify_folder(made.folder, made.digest)
    paths = [entry.path for entry in manifest.files]
    assert {
        "config.json",
        "model.safetensors",
        "image.onnx",
        "text.onnx",
        "tokenizer.json",
        "golden/golden.json",
    } <= set(paths)
    assert json.loads((made.folder / "config.json").read_text()) == made.config


def test_the_same_network_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    assert make_artifact(tmp_path / "again").digest == made.digest


@pytest.mark.parametrize("batch", [1, 8], ids=["batch-of-1", "batch-of-8"])
def test_onnx_says_what_torch_says(made: Made, batch: int) -> None:
    pixels = made.holdout.pixels[:batch]
    tokens = encode_texts(made.tokenizer, made.holdout.captions[:batch])
    embedding, logits = open_graph(made.folder / "image.onnx").run(
        ["embedding", "logits"], {"pixels": pixels}
    )
    (spoken,) = open_graph(made.folder / "text.onnx").run(["embedding"], {"tokens": tokens})
    with torch.inference_mode():
        wanted, wanted_logits = made.model.encode_image(torch.from_numpy(pixels))
        wanted_spoken = made.model.encode_text(torch.from_numpy(tokens))
    assert embedding.dtype == spoken.dtype == np.float32
    assert compare_rows(embedding, wanted.numpy()) >= MIN_COSINE
    assert compare_rows(spoken, wanted_spoken.numpy()) >= MIN_COSINE
    np.testing.assert_allclose(logits, wanted_logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("length", [1, 7, 32], ids=lambda length: f"{length}-tokens")
def test_the_text_graph_takes_any_length(made: Made, length: int) -> None:
    graph = open_graph(made.folder / "text.onnx")
    (vector,) = graph.run(None, {"tokens": np.full((2, length), 3, np.int64)})
    assert vector.shape == (2, 128)


def test_a_graph_that_says_something_else_is_not_let_through(made: Made) -> None:
    tokens = encode_texts(made.tokenizer, made.holdout.captions)
    assert check_export(made.model, made.folder, made.holdout.pixels, tokens) >= MIN_COSINE
    with reproducible(10):
        other = SpatialDualEncoder.from_config(made.config).eval()
    with pytest.raises(ExportDiffersError, match="smallest cosine"):
        check_export(other, made.folder, made.holdout.pixels, tokens)


def test_safetensors_hold_the_whole_network(made: Made) -> None:
    other = SpatialDualEncoder.from_config(made.config).eval()
    other.load_state_dict(load_file(made.folder / "model.safetensors"))
    pixels = torch.from_numpy(made.holdout.pixels[:2])
    assert torch.equal(other.encode_image(pixels)[0], made.model.encode_image(pixels)[0])


def test_golden_samples_are_what_the_network_answers(made: Made) -> None:
    golden = json.loads((made.folder / "golden" / "golden.json").read_text())
    assert (golden["schema"], golden["min_cosine"]) == (1, "0.999")
    kinds = {"image": 0, "text": 0}
    for sample in golden["samples"]:
        if "image" in sample:
            pixels = np.array(Image.open(made.folder / sample["image"]))[None]
            embedding, logits = encode_images(made.model, pixels)
            assert sample["label"] == LABELS[int(logits.argmax())]
            kinds["image"] += 1
        else:
            tokens = encode_texts(made.tokenizer, [sample["text"]])
            with torch.inference_mode():
                embedding = made.model.encode_text(torch.from_numpy(tokens)).numpy()
            kinds["text"] += 1
        expected = np.array([sample["embedding"]], np.float32)
        assert compare_rows(embedding, expected) > 0.99999
    assert kinds["image"] >= 1
    assert kinds["text"] == 4


def test_golden_rows_are_the_surest_right_answers_of_different_labels() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    logits = rng.normal(0, 0.1, (60, 12)).astype(np.float32)
    logits[np.arange(60), labels] += np.linspace(1, 5, 60, dtype=np.float32)
    logits[59, 3] = 50.0  # the surest of all, and wrong
    rows = choose_golden(logits, labels)
    assert len(rows) == GOLDEN_IMAGES
    assert len({int(labels[row]) for row in rows}) == GOLDEN_IMAGES
    assert 59 not in rows
    assert min(rows) > 40
