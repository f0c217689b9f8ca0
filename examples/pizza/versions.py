"""The model's versions as recipes: what each may spend, and what it descends from.

Responsible for the numbers that decide an artifact. Must not train, nor import
what trains.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "pizza-spatial"
ARCHITECTURE = "SpatialDualEncoder"
SPACE = "pizza-1"
DIMENSION = 128
TASKS = ("ImageEmbedding", "TextEmbedding", "Classification")


@dataclass(frozen=True)
class Budget:
    """What one run may spend. ``scenes`` are the first ones of the training split."""

    scenes: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How a version is made. With a parent, training goes on from its weights, text tower frozen.

    Without a budget nothing is trained: the parent's weights, and the answer to a picture is the mean
    over its views, shifted by up to ``shift`` pixels each way.
    """

    version: str
    parent: str | None
    budget: Budget | None
    shift: int = 0


# 1.1.0 keeps 1.0.0's text tower as it is: its images learn to lie where the same texts already lie, so
# both versions share one embedding space and their vectors may be mixed.
# 1.2.0 is the one that ought not to be shipped. Averaging 49 views makes it a little better on the
# held-out scenes and some thirty times as expensive; its registered latency is that of the network
# alone, because that is where training has always measured it.
RECIPES = (
    Recipe("1.0.0", None, Budget(scenes=2500, epochs=5, batch=128, learning_rate=3e-3, seed=1)),
    Recipe("1.1.0", "1.0.0", Budget(scenes=6000, epochs=4, batch=128, learning_rate=2e-3, seed=2)),
    Recipe("1.2.0", "1.1.0", None, shift=3),
)
TRAINED = tuple((recipe, recipe.budget) for recipe in RECIPES if recipe.budget is not None)
