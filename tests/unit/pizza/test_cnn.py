"""The fallback's network: shapes, what its artifact says, and that training teaches it something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.pizza.cnn import PizzaCnn, classify, make_cnn_config, train_cnn
from examples.pizza.dataset import Dataset, make_dataset
from examples.pizza.fallback import choose_samples, write_float
from examples.pizza.registration import make_cnn_modelversion
from examples.pizza.scenes import LABELS, SIZE, Split
from examples.pizza.training import reproducible
from examples.pizza.versions import Budget
from sluice.api.modelversion import ModelVersion
from sluice_inference.artifact.config import read_config
from sluice_inference.artifact.manifest import compute_digest, verify_folder

SEED = 5
BUDGET = Budget(scenes=96, epochs=6, batch=32, learning_rate=3e-3, seed=SEED)


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return make_dataset(Split.TRAIN, 96)


def train(scenes: Dataset) -> tuple[PizzaCnn, list[float]]:
    losses: list[float] = []
    with reproducible(SEED):
        model = PizzaCnn()
        train_cnn(model, scenes, BUDGET, lambda epoch, loss: losses.append(loss))
    return model, losses


def test_training_learns_and_is_the_same_each_time(scenes: Dataset) -> None:
    one, losses = train(scenes)
    assert losses[-1] < losses[0] - 0.1
    other, _ = train(scenes)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_picture_gets_a_logit_for_each_label_whatever_its_company(scenes: Dataset) -> None:
    model = PizzaCnn().eval()
    logits = classify(model, scenes.pixels[:5])
    assert logits.shape == (5, len(LABELS))
    assert classify(model, scenes.pixels[2:3])[0] == pytest.approx(logits[2], abs=1e-4)


def test_its_artifact_has_labels_and_no_embeddings(scenes: Dataset, tmp_path: Path) -> None:
    model = PizzaCnn().eval()
    # As if it were right about everything: golden samples are those it is right about.
    logits = np.eye(len(LABELS), dtype=np.float32)[scenes.labels]
    write_float(tmp_path / "float32", model, logits, scenes)
    folder = tmp_path / "float32"
    verify_folder(folder, compute_digest((folder / "manifest.json").read_bytes()))
    config = read_config(folder)
    assert (config.architecture, config.labels, config.image.size) == ("CNN", LABELS, SIZE)
    assert (config.embedding, config.text, config.tasks) == (None, None, ("Classification",))
    golden = json.loads((folder / "golden" / "golden.json").read_text())
    assert len({sample["label"] for sample in golden["samples"]}) == 6
    assert make_cnn_config()["labels"] == list(LABELS)


def test_it_is_calibrated_on_other_scenes_than_it_is_compared_on(scenes: Dataset) -> None:
    samples = choose_samples(scenes, scenes.take(4))
    assert (len(samples.calibration), len(samples.pictures)) == (96, 4)
    assert [one.label for one in samples.pictures] == [LABELS[label] for label in scenes.labels[:4]]
    assert not samples.is_shared


def test_the_api_takes_its_manifest() -> None:
    uri, digest = "oci://registry.testbed:5000/models/pizza-cnn:1.0.0", "sha256:" + "0f" * 32
    written = make_cnn_modelversion(uri, digest, 300_000, {"accuracy": "0.830"})
    assert ModelVersion.model_validate(written).spec.requirements.precision == "int8"
