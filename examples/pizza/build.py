"""Building all versions: render, train, measure, export, write.

Responsible for the order of the steps and for what is kept of them. Must not decide budgets
(``versions``), nor parse a command line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from examples.pizza.artifact import write_artifact
from examples.pizza.dataset import HOLDOUT_SIZE, Dataset, make_dataset
from examples.pizza.export import check_export, open_graph, run_images
from examples.pizza.scenes import LABELS, Split, write_prompt
from examples.pizza.summary import Built, Summary, write_summary
from examples.pizza.training import (
    Measured,
    make_config,
    measure_accuracy,
    reproducible,
    score_answers,
    train_model,
)
from examples.pizza.versions import RECIPES, TRAINED, Recipe
from examples.pizza.views import ShiftedViews
from examples.pizza.vocabulary import encode_texts, make_tokenizer
from sluice_inference.models.spatial import SpatialDualEncoder

PROCESSES = 2  # that render, and then train: one the versions, one the ablation
_TIMED_IMAGES = 200
_SHIFTED_SCENES = 16  # that a version of many views is held to torch on

Say = Callable[[str], None]


def build_all(folder: Path, say: Say) -> Summary:
    """Build every recipe into ``folder``/VERSION/artifact, and the ablation; write the summary.

    The ablation trains the whole line again, same scenes, same steps, with the geometry tower left
    out.
    """
    started = time.monotonic()
    count = max(budget.scenes for _, budget in TRAINED)
    say(f"rendering {count} scenes to train on and {HOLDOUT_SIZE} held out")
    training = make_dataset(Split.TRAIN, count, processes=PROCESSES)
    holdout = make_dataset(Split.HOLDOUT, HOLDOUT_SIZE, processes=PROCESSES)
    # The ablation trains beside the versions, each on one thread: that wastes less than two threads
    # which wait for each other.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        ablation = pool.submit(measure_without_geometry, training, holdout)
        built = _build_versions(_School(training, holdout, say), folder, say)
        without = ablation.result()
    say(f"without_geometry: accuracy {without.accuracy:.3f} with the same budget")
    summary = Summary(
        versions=tuple(built),
        holdout=len(holdout),
        without_geometry=without.accuracy,
        seconds=round(time.monotonic() - started, 1),
    )
    write_summary(folder, summary)
    return summary


def measure_without_geometry(training: Dataset, holdout: Dataset) -> Measured:
    """Train the whole line again without the geometry tower; what its last version gets right."""
    line = _School(training, holdout, lambda line: None).train_line(geometry=False)
    return line[TRAINED[-1][0].version].measured


def _build_versions(school: _School, folder: Path, say: Say) -> list[Built]:
    line = school.train_line(geometry=True)
    return [
        _build_trained(school, recipe, line[recipe.version], folder, say)
        if recipe.version in line
        else _build_shifted(school, recipe, line, folder, say)
        for recipe in RECIPES
    ]


def _build_trained(
    school: _School, recipe: Recipe, trained: _Trained, folder: Path, say: Say
) -> Built:
    target = _find_artifact(folder, recipe.version)
    digest = _write_version(school, recipe, trained.model, target, school.holdout, say)
    latency_ms = measure_latency(target / "image.onnx", school.holdout)
    return _describe(recipe, target, digest, trained.measured, latency_ms, school.holdout)


def _build_shifted(
    school: _School, recipe: Recipe, line: dict[str, _Trained], folder: Path, say: Say
) -> Built:
    """Build a version of its parent's weights. Its accuracy is that of the exported graph.

    The views are too slow in torch: samples and comparison take few scenes. And this is the mistake
    that the version stands for: its latency is measured on the network alone, which is the parent's.
    """
    parent = recipe.parent or ""
    model = ShiftedViews.of(line[parent].model, recipe.shift)
    target = _find_artifact(folder, recipe.version)
    few = school.holdout.take(_SHIFTED_SCENES)
    digest = _write_version(school, recipe, model, target, few, say)
    measured = school.measure_graphs(target)
    say(f"{recipe.version}: accuracy {measured.accuracy:.3f}, nothing trained")
    latency_ms = measure_latency(_find_artifact(folder, parent) / "image.onnx", school.holdout)
    return _describe(recipe, target, digest, measured, latency_ms, school.holdout)


def _find_artifact(folder: Path, version: str) -> Path:
    return folder / version / "artifact"


def _write_version(
    school: _School,
    recipe: Recipe,
    model: SpatialDualEncoder,
    target: Path,
    scenes: Dataset,
    say: Say,
) -> str:
    """Write the artifact and hold its graphs to the network, on ``scenes``; returns the digest."""
    seed = recipe.budget.seed if recipe.budget else 0
    with reproducible(seed):  # golden samples depend on the threads, too
        config = make_config(school.vocabulary)
        digest = write_artifact(target, config, model, school.tokenizer, scenes)
    captions = encode_texts(school.tokenizer, scenes.captions[:64])
    cosine = check_export(model, target, scenes.pixels, captions)
    say(f"{recipe.version}: exported, cosine of ONNX and torch at least {cosine:.6f}")
    return digest


@dataclass(frozen=True)
class _Trained:
    """A network after its training."""

    model: SpatialDualEncoder
    measured: Measured


class _School:
    """The data sets and the tokenizer that all runs share."""

    def __init__(self, training: Dataset, holdout: Dataset, say: Say) -> None:
        self.training, self.holdout, self.say = training, holdout, say
        prompts = [write_prompt(label) for label in LABELS]
        self.tokenizer = make_tokenizer([*training.captions, *prompts])
        self.tokens = encode_texts(self.tokenizer, training.captions)
        self.prompts = encode_texts(self.tokenizer, prompts)
        self.vocabulary = int(self.tokenizer.get_vocab_size())

    def train_line(self, geometry: bool) -> dict[str, _Trained]:
        """Train the recipes that have a budget one after the other, each from its parent's weights."""
        line: dict[str, _Trained] = {}
        for recipe, budget in TRAINED:
            with reproducible(budget.seed):
                model = SpatialDualEncoder.from_config(make_config(self.vocabulary, geometry))
                if recipe.parent is not None:
                    model.load_state_dict(line[recipe.parent].model.state_dict())
                name = recipe.version
                epochs = budget.epochs

                def report(epoch: int, loss: float, name: str = name, epochs: int = epochs) -> None:
                    self.say(f"{name}: epoch {epoch} of {epochs}, loss {loss:.3f}")

                train_model(
                    model,
                    self.training.take(budget.scenes),
                    self.tokens[: budget.scenes],
                    self.prompts,
                    budget,
                    text_frozen=recipe.parent is not None,
                    report=report,
                )
                measured = measure_accuracy(model, self.holdout, self.prompts)
            self.say(
                f"{name}: accuracy {measured.accuracy:.3f}, "
                f"by the nearest prompt {measured.zero_shot_accuracy:.3f}"
            )
            line[recipe.version] = _Trained(model, measured)
        return line

    def measure_graphs(self, folder: Path) -> Measured:
        """What the exported graphs in ``folder`` get right on the held-out scenes."""
        image = open_graph(folder / "image.onnx")
        # Shares, and not more threads for each: every picture's sums stay what one thread gives.
        shares = np.array_split(self.holdout.pixels, PROCESSES)
        with ThreadPoolExecutor(PROCESSES) as pool:
            answers = list(pool.map(lambda pixels: run_images(image, pixels, 8), shares))
        embeddings, logits = (np.concatenate(part) for part in zip(*answers, strict=True))
        text = open_graph(folder / "text.onnx")
        (prompts,) = text.run(["embedding"], {"tokens": self.prompts})
        return score_answers(embeddings, logits, prompts, self.holdout.labels)


def _describe(
    recipe: Recipe,
    folder: Path,
    digest: str,
    measured: Measured,
    latency_ms: int,
    holdout: Dataset,
) -> Built:
    return Built(
        version=recipe.version,
        digest=digest,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        correct=round(measured.accuracy * len(holdout)),
        accuracy=measured.accuracy,
        metrics={
            "accuracy": f"{measured.accuracy:.3f}",
            "zeroShotAccuracy": f"{measured.zero_shot_accuracy:.3f}",
            "latencyP95Ms": str(latency_ms),
        },
    )


def measure_latency(graph: Path, holdout: Dataset) -> int:
    """95th percentile of one image through the graph on one CPU thread, in whole ms, rounded up."""
    session = open_graph(graph)
    took = []
    for row in range(_TIMED_IMAGES):
        started = time.perf_counter()
        session.run(["embedding", "logits"], {"pixels": holdout.pixels[row : row + 1]})
        took.append(time.perf_counter() - started)
    return math.ceil(float(np.percentile(took, 95)) * 1000)
