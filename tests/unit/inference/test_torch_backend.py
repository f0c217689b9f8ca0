"""The torch backend on a small, untrained network of our own architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sluice_inference.engine.backend import Kind, Output
from sluice_inference.errors import LoadError
from sluice_inference.models.spatial import SpatialDualEncoder
from sluice_inference.models.torch_backend import TorchBackend
from sluice_inference.models.torch_graphs import GraphedForward
from sluice_inference.settings import read_settings
from tests.tiny_spatial import CONFIG, SIZE, write_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = write_artifact(tmp_path)
    with torch.inference_mode():
        embedding = model.encode_text(torch.tensor([[1, 2, 0, 0, 0, 0]]))[0].tolist()
    samples = [{"text": "one two", "embedding": embedding}]
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "golden.json").write_text(json.dumps({"schema": 1, "samples": samples}))
    return tmp_path


def make_torch(folder: Path, **env: str) -> TorchBackend:
    values = {"MODEL_FORMAT": "Safetensors", "DEVICE": "cpu", "BATCH_SIZE": "4"}
    return TorchBackend(read_settings({**values, "MODEL_PATH": str(folder), **env}).model)


def make_noise() -> list[Any]:
    noise = np.random.default_rng(5).integers(0, 255, (3, SIZE, SIZE, 3), dtype=np.uint8)
    return list(noise)


def test_a_safetensors_artifact_is_served(folder: Path) -> None:
    backend = make_torch(folder)
    facts = backend.load()
    backend.warmup()
    assert (facts.backend, facts.device, facts.dimension) == ("torch", "cpu", 8)
    images = make_noise()
    together = backend.run(Kind.IMAGE, images)
    for image, one in zip(images, together, strict=True):
        (alone,) = backend.run(Kind.IMAGE, [image])
        assert isinstance(one, Output)
        assert isinstance(alone, Output)
        assert one.embedding == pytest.approx(alone.embedding, abs=1e-5)
        assert one.scores is not None
        assert one.scores.sum() == pytest.approx(1)
        assert np.linalg.norm(one.embedding) == pytest.approx(1)


def test_half_precision_stays_close_and_leaves_in_float32(folder: Path) -> None:
    full, half = make_torch(folder), make_torch(folder, PRECISION="bfloat16")
    full.load()
    half.load()
    for one, other in zip(
        full.run(Kind.IMAGE, make_noise()), half.run(Kind.IMAGE, make_noise()), strict=True
    ):
        assert isinstance(one, Output)
        assert isinstance(other, Output)
        assert other.embedding.dtype == np.float32
        assert float(np.dot(one.embedding, other.embedding)) > 0.99


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    torch.manual_seed(1)
    other = {**CONFIG, "labels": ["a", "b", "c"]}
    weights = SpatialDualEncoder.from_config(other).state_dict()
    save_file(weights, str(folder / "model.safetensors"))
    with pytest.raises(LoadError, match=r"model\.safetensors: .*size mismatch"):
        make_torch(folder).load()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"x" * 100, "model.safetensors", id="no safetensors"),
        pytest.param(None, "is missing", id="no file"),
    ],
)
def test_weights_that_can_not_be_read_are_refused(
    folder: Path, content: bytes | None, word: str
) -> None:
    path = folder / "model.safetensors"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=word):
        make_torch(folder).load()


@pytest.mark.parametrize(
    ("change", "env", "word"),
    [
        pytest.param({"architecture": "ResNet"}, {}, "'ResNet' is not one of", id="architecture"),
        pytest.param({"model": {}}, {}, "vocabulary", id="a missing hyperparameter"),
        pytest.param({}, {"PRECISION": "int8"}, "ONNX graphs only", id="int8"),
    ],
)
def test_what_this_backend_does_not_serve_is_refused(
    folder: Path, change: dict[str, Any], env: dict[str, str], word: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(LoadError, match=word):
        make_torch(folder, **env).load()


def record(forward: Any, held: Any) -> Any:
    """In place of CUDA's: what a replay computes lands in the same memory each time."""
    first, _ = forward(held)
    memory = first.clone()

    def replay() -> tuple[Any, None]:
        memory.copy_(forward(held)[0])
        return memory, None

    return replay


def test_batches_run_in_the_next_larger_recording() -> None:
    seen: list[int] = []

    def double(batch: Any) -> tuple[Any, None]:
        seen.append(len(batch))
        return batch.float() * 2, None

    graphed = GraphedForward(double, record)
    graphed.prepare(torch.ones(1, 3, dtype=torch.uint8), [1, 4, 2])
    seen.clear()
    batches = [torch.full((size, 3), size, dtype=torch.uint8) for size in (3, 1, 2, 5)]
    answers = [graphed(batch)[0] for batch in batches]
    assert seen == [4, 1, 2, 5]  # more than the largest runs without a recording
    for batch, answer in zip(batches, answers, strict=True):
        assert torch.equal(answer, batch.float() * 2)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda forward, held: lambda: (held.float() * 3, None), id="other values"),
        pytest.param(lambda forward, held: 1 / 0, id="no recording"),
    ],
)
def test_a_recording_that_can_not_be_trusted_is_left_out(spoil: Any) -> None:
    def fail(forward: Any, held: Any) -> Any:
        try:
            return spoil(forward, held)
        except ZeroDivisionError:
            raise RuntimeError("operation not permitted when stream is capturing") from None

    graphed = GraphedForward(lambda batch: (batch.float() * 2, None), fail)
    graphed.prepare(torch.ones(1, 3, dtype=torch.uint8), [2])
    answer, _ = graphed(torch.ones(2, 3, dtype=torch.uint8))
    assert torch.equal(answer, torch.full((2, 3), 2.0))
