"""Building the fallback: train the CNN, write it in float32, let the server's own export make INT8 of it.

Responsible for the order of the steps and for what is kept of them. Must not know layers (``cnn``), nor
quantise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.pizza.artifact import choose_golden, write_json
from examples.pizza.cnn import BUDGET, PizzaCnn, classify, make_cnn_config, train_cnn
from examples.pizza.dataset import HOLDOUT_SIZE, Dataset, make_dataset
from examples.pizza.scenes import LABELS, SIZE, Split
from examples.pizza.training import reproducible
from sluice_inference.artifact.push import write_manifest
from sluice_inference.export.exporter import INT8_LIMITS, Options, export_artifact
from sluice_inference.export.graphs import Entrances, write_graphs
from sluice_inference.export.report import Report
from sluice_inference.export.samples import Picture, Samples

PROCESSES = 2  # that render
CALIBRATION = 256  # pictures, of those it was trained on

Say = Callable[[str], None]


class FallbackPoorError(RuntimeError):
    """The INT8 export is no stand-in for what was trained."""


def build_fallback(folder: Path, say: Say) -> Report:
    """Build ``folder``/float32 and, from it, ``folder``/artifact; the export's report beside them."""
    say(f"rendering {BUDGET.scenes} scenes to train on and {HOLDOUT_SIZE} held out")
    training = make_dataset(Split.TRAIN, BUDGET.scenes, processes=PROCESSES)
    holdout = make_dataset(Split.HOLDOUT, HOLDOUT_SIZE, processes=PROCESSES)
    with reproducible(BUDGET.seed):
        model = PizzaCnn()
        train_cnn(
            model,
            training,
            BUDGET,
            lambda epoch, loss: say(f"epoch {epoch} of {BUDGET.epochs}, loss {loss:.3f}"),
        )
        logits = classify(model, holdout.pixels)
    say(f"accuracy {(logits.argmax(axis=1) == holdout.labels).mean():.3f} in float32")
    write_float(folder / "float32", model, logits, holdout)
    report = export_artifact(
        folder / "float32",
        folder / "artifact",
        Options(int8=True, limits=INT8_LIMITS),
        samples=choose_samples(training, holdout),
        say=say,
    )
    if report.problems:
        raise FallbackPoorError("; ".join(report.problems))
    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    return report


def write_float(
    folder: Path, model: PizzaCnn, logits: NDArray[np.float32], holdout: Dataset
) -> None:
    """The float32 artifact: graph, config, and golden samples of ``holdout`` whose logits [N,C] are given."""
    (folder / "golden").mkdir(parents=True)
    write_json(folder / "config.json", make_cnn_config())
    write_graphs(Entrances(size=SIZE, outputs=("logits",), image=model), folder)
    samples = []
    for number, row in enumerate(choose_golden(logits, holdout.labels)):
        name = f"golden/{number}.png"
        Image.fromarray(holdout.pixels[row]).save(folder / name)
        samples.append({"image": name, "label": LABELS[int(logits[row].argmax())]})
    write_json(folder / "golden" / "golden.json", {"schema": 1, "samples": samples})
    write_manifest(folder)


def choose_samples(training: Dataset, holdout: Dataset) -> Samples:
    """Calibrated on scenes it was trained on, compared on those it never saw."""
    pictures = [
        Picture(f"{row:04d}", holdout.pixels[row], LABELS[int(label)])
        for row, label in enumerate(holdout.labels)
    ]
    return Samples(list(training.pixels[:CALIBRATION]), pictures, texts=[])
