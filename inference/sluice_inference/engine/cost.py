"""What a model run costs: seconds(n) = fixed + per_item * n, fitted to the runs there have been.

Pure arithmetic; reads no clock and knows no queue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# How much a new run counts against what is known of its size.
_WEIGHT = 0.25
# What is assumed of a model that has not run yet, in seconds for an item.
_GUESS_S = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """The fitted line, in seconds. Neither part is negative."""

    fixed_s: float
    per_item_s: float

    def predict(self, count: int) -> float:
        """Seconds of one run over `count` items."""
        return self.fixed_s + self.per_item_s * count

    @property
    def knee(self) -> int:
        """The batch at which half of the time goes into items; below it runs are mostly fixed cost."""
        if self.per_item_s <= 0:
            return 1 if self.fixed_s <= 0 else 1 << 30
        return max(1, math.ceil(self.fixed_s / self.per_item_s))


class CostModel:
    """Learns the line from runs as they end.

    Runs are kept as one moving mean for each class of sizes (1, 2 to 3, 4 to 7, …), and the line is
    their least-squares fit, each class weighed by its relative error. So a steady stream of full batches
    does not make it forget what a small one costs.
    """

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}
        self.cost = Cost(0.0, _GUESS_S)

    def observe(self, count: int, seconds: float) -> None:
        """Take in one run that went well."""
        seconds = max(seconds, 1e-6)
        known = self._means.get(count.bit_length())
        if known is None:
            self._means[count.bit_length()] = (float(count), seconds)
        else:
            self._means[count.bit_length()] = (
                known[0] + _WEIGHT * (count - known[0]),
                known[1] + _WEIGHT * (seconds - known[1]),
            )
        self.cost = fit_cost(list(self._means.values()))


def fit_cost(points: list[tuple[float, float]]) -> Cost:
    """The line through (items, seconds), least squares of the relative error, nothing below 0.

    Points of one size alone can't tell the two parts from each other: then all of it is by item.
    """
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    items = sum(w * n for w, (n, _) in zip(weights, points, strict=True)) / total
    seconds = sum(w * s for w, (_, s) in zip(weights, points, strict=True)) / total
    spread = sum(w * (n - items) ** 2 for w, (n, _) in zip(weights, points, strict=True))
    if spread <= 1e-9 * total * items**2:
        return Cost(0.0, seconds / items)
    slope = (
        sum(w * (n - items) * (s - seconds) for w, (n, s) in zip(weights, points, strict=True))
        / spread
    )
    fixed = seconds - slope * items
    if slope < 0:
        return Cost(seconds, 0.0)
    if fixed < 0:
        squares = sum(w * n * n for w, (n, _) in zip(weights, points, strict=True))
        return Cost(
            0.0, sum(w * n * s for w, (n, s) in zip(weights, points, strict=True)) / squares
        )
    return Cost(fixed, slope)
