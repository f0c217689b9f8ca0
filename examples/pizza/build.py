"""Building all versions: render, train, measure, export, write.

Responsible for the order of the steps and for what is kept of them. Must not decide budgets
(``versions``), nor parse a command line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from examples.pizza.artifact import write_artifact
from examples.pizza.dataset import HOLDOUT_SIZE, Dataset, make_dataset
from examples.pizza.export import check_export, open_graph
from examples.pizza.scenes import LABELS, Split, write_prompt
from examples.pizza.summary import Built, Summary, write_summary
from examples.pizza.training import (
    Measured,
    make_config,
    measure_accuracy,
    reproducible,
    train_model,
)
from examples.pizza.versions import RECIPES, Recipe
from examples.pizza.vocabulary import encode_texts, make_tokenizer
from sluice_inference.models.spatial import SpatialDualEncoder

PROCESSES = 2  # that render, and then train: one the versions, one the ablation
_TIMED_IMAGES = 200

Say = Callable[[str], None]


def build_all(folder: Path, say: Say) -> Summary:
    """Build every recipe into ``folder``/VERSION/artifact, and the ablation; write the summary.

    The ablation trains the last recipe's whole line again, same scenes, same steps, with the geometry
    tower left out.
    """
    started = time.monotonic()
    count = max(recipe.budget.scenes for recipe in RECIPES)
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
    *_, (_, _, measured) = _School(training, holdout, lambda line: None).train_line(geometry=False)
    return measured


def _build_versions(school: _School, folder: Path, say: Say) -> list[Built]:
    built = []
    for recipe, model, measured in school.train_line(geometry=True):
        target = folder / recipe.version / "artifact"
        config = make_config(school.vocabulary)
        with reproducible(recipe.budget.seed):  # golden samples depend on the threads, too
            digest = write_artifact(target, config, model, school.tokenizer, school.holdout)
        captions = encode_texts(school.tokenizer, school.holdout.captions[:64])
        cosine = check_export(model, target, school.holdout.pixels, captions)
        say(f"{recipe.version}: exported, cosine of ONNX and torch at least {cosine:.6f}")
        built.append(_describe(recipe, target, digest, measured, school.holdout))
    return built


class _School:
    """The data sets and the tokenizer that all runs share."""

    def __init__(self, training: Dataset, holdout: Dataset, say: Say) -> None:
        self.training, self.holdout, self.say = training, holdout, say
        prompts = [write_prompt(label) for label in LABELS]
        self.tokenizer = make_tokenizer([*training.captions, *prompts])
        self.tokens = encode_texts(self.tokenizer, training.captions)
        self.prompts = encode_texts(self.tokenizer, prompts)
        self.vocabulary = int(self.tokenizer.get_vocab_size())

    def train_line(self, geometry: bool) -> list[tuple[Recipe, SpatialDualEncoder, Measured]]:
        """Train the recipes one after the other, each from its parent's weights."""
        trained: dict[str, SpatialDualEncoder] = {}
        line = []
        for recipe in RECIPES:
            with reproducible(recipe.budget.seed):
                model = SpatialDualEncoder.from_config(make_config(self.vocabulary, geometry))
                if recipe.parent is not None:
                    model.load_state_dict(trained[recipe.parent].state_dict())
                name = recipe.version
                epochs = recipe.budget.epochs

                def report(epoch: int, loss: float, name: str = name, epochs: int = epochs) -> None:
                    self.say(f"{name}: epoch {epoch} of {epochs}, loss {loss:.3f}")

                train_model(
                    model,
                    self.training.take(recipe.budget.scenes),
                    self.tokens[: recipe.budget.scenes],
                    self.prompts,
                    recipe.budget,
                    text_frozen=recipe.parent is not None,
                    report=report,
                )
                measured = measure_accuracy(model, self.holdout, self.prompts)
            self.say(
                f"{name}: accuracy {measured.accuracy:.3f}, "
                f"by the nearest prompt {measured.zero_shot_accuracy:.3f}"
            )
            trained[recipe.version] = model
            line.append((recipe, model, measured))
        return line


def _describe(
    recipe: Recipe, folder: Path, digest: str, measured: Measured, holdout: Dataset
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
            "latencyP95Ms": str(measure_latency(folder / "image.onnx", holdout)),
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
