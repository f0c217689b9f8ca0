"""The version that looks at every picture many times: the same weights, many times the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from examples.pizza import build
from examples.pizza.artifact import write_artifact
from examples.pizza.dataset import Dataset, make_dataset
from examples.pizza.export import MIN_COSINE, check_export, export_graphs
from examples.pizza.scenes import Split
from examples.pizza.training import Measured, encode_images, make_config, reproducible
from examples.pizza.versions import RECIPES, TRAINED, Recipe
from examples.pizza.views import ShiftedViews
from examples.pizza.vocabulary import encode_texts
from sluice_inference.models.onnx_backend import OnnxBackend
from sluice_inference.models.spatial import SpatialDualEncoder
from sluice_inference.settings import read_settings

SHIFT = 1
VIEWS = 9


@pytest.fixture(scope="module")
def school() -> build._School:
    """Untrained: what the network answers is taken for the truth, so that golden samples exist."""
    drawn = make_dataset(Split.HOLDOUT, 16)
    school = build._School(make_dataset(Split.TRAIN, 12), drawn, lambda line: None)
    answers = encode_images(make_network(school), drawn.pixels)[1].argmax(axis=1)
    school.holdout = Dataset(drawn.pixels, drawn.depth, answers, drawn.captions)
    return school


def make_network(school: build._School) -> SpatialDualEncoder:
    with reproducible(9):
        return SpatialDualEncoder.from_config(make_config(school.vocabulary)).eval()


def count_convolutions(graph: Path) -> int:
    return sum(node.op_type == "Conv" for node in onnx.load(graph).graph.node)


def test_the_answer_is_the_mean_over_the_shifted_views(school: build._School) -> None:
    network = make_network(school)
    pixels = school.holdout.pixels[:3]
    padded = np.pad(pixels, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    size = pixels.shape[1]
    views = [
        encode_images(network, padded[:, down : down + size, right : right + size])
        for down in range(2 * SHIFT + 1)
        for right in range(2 * SHIFT + 1)
    ]
    embeddings, logits = encode_images(ShiftedViews.of(network, SHIFT), pixels)
    mean = np.mean([embedding for embedding, _ in views], axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert len(views) == VIEWS
    np.testing.assert_allclose(embeddings, mean, atol=1e-5)
    np.testing.assert_allclose(logits, np.mean([given for _, given in views], axis=0), atol=1e-4)


def test_nothing_is_learned(school: build._School) -> None:
    network = make_network(school)
    shifted = ShiftedViews.of(network, SHIFT)
    before, after = network.state_dict(), shifted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    tokens = torch.from_numpy(school.prompts)
    assert torch.equal(network.encode_text(tokens), shifted.encode_text(tokens)), "one space"


def test_the_artifact_is_sound_and_its_graph_does_the_work_of_every_view(
    school: build._School, tmp_path: Path
) -> None:
    network = make_network(school)
    export_graphs(network, tmp_path)
    shifted, folder = ShiftedViews.of(network, SHIFT), tmp_path / "artifact"
    config = make_config(school.vocabulary)
    digest = write_artifact(folder, config, shifted, school.tokenizer, school.holdout)
    captions = encode_texts(school.tokenizer, school.holdout.captions)
    assert check_export(shifted, folder, school.holdout.pixels, captions) >= MIN_COSINE
    plain = count_convolutions(tmp_path / "image.onnx")
    assert count_convolutions(folder / "image.onnx") == VIEWS * plain > 0
    backend = OnnxBackend(
        read_settings(
            {
                "MODEL_PATH": str(folder),
                "MODEL_DIGEST": digest,
                "MODEL_TASKS": ",".join(config["tasks"]),
                "EMBEDDING_SPACE": config["embedding"]["space"],
                "BATCH_SIZE": "4",
                "DEVICE": "cpu",
            }
        ).model
    )
    backend.load()
    backend.warmup()  # raises where a golden sample comes out otherwise
    backend.close()


def test_its_accuracy_is_the_graphs_and_its_latency_the_networks(
    school: build._School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(school)
    line = {"1.1.0": build._Trained(network, Measured(0.5, 0.5))}
    timed: list[Path] = []

    def measure(graph: Path, holdout: Dataset) -> int:
        timed.append(graph)
        return 7

    monkeypatch.setattr(build, "measure_latency", measure)
    recipe = Recipe("1.2.0", "1.1.0", None, shift=SHIFT)
    built = build._build_shifted(school, recipe, line, tmp_path, lambda line: None)
    assert timed == [tmp_path / "1.1.0" / "artifact" / "image.onnx"]
    _, logits = encode_images(ShiftedViews.of(network, SHIFT), school.holdout.pixels)
    right = int((logits.argmax(axis=1) == school.holdout.labels).sum())
    assert (built.correct, built.accuracy) == (right, right / len(school.holdout))
    assert built.metrics["accuracy"] == f"{built.accuracy:.3f}"
    assert built.metrics["latencyP95Ms"] == "7"


def test_only_the_last_version_is_of_this_kind() -> None:
    *trained, last = RECIPES
    assert tuple(trained) == tuple(recipe for recipe, _ in TRAINED)
    assert last.parent == trained[-1].version
    assert last.budget is None
    assert (2 * last.shift + 1) ** 2 == 49
