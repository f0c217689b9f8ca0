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
    """How a version is made. With a parent, training goes on from its weights, text tower frozen."""

    version: str
    parent: str | None
    budget: Budget


# 1.1.0 keeps 1.0.0's text tower as it is: its images learn to lie where the same texts already lie, so
# both versions share one embedding space and their vectors may be mixed.
RECIPES = (
    Recipe("1.0.0", None, Budget(scenes=2500, epochs=5, batch=128, learning_rate=3e-3, seed=1)),
    Recipe("1.1.0", "1.0.0", Budget(scenes=6000, epochs=4, batch=128, learning_rate=2e-3, seed=2)),
)
