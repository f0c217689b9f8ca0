"""Decides what runs next: which lane, how many items of it, and whether to wait for more.

Work-conserving: whoever is there runs as soon as the model is free. The one exception is by calculation
and not by a timer: more items are being decoded at this moment, all of them will be here in less time than
the fixed cost of the run that they save. Pure decisions over the queue's lanes; owns no thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from sluice_inference.engine.backend import Kind
from sluice_inference.engine.ceiling import Ceiling
from sluice_inference.engine.cost import Cost, CostModel
from sluice_inference.engine.queue import Coming, Lane


class Batcher:
    """The queue's `Chooser`. Knows what runs cost and how large they may be, by kind."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._costs = {kind: CostModel() for kind in Kind}
        self._ceilings = {kind: Ceiling(most, clock) for kind in Kind}

    def get_cost(self, kind: Kind) -> Cost:
        return self._costs[kind].cost

    def get_most(self, kind: Kind) -> int:
        """The largest batch of this kind, as of now."""
        return self._ceilings[kind].most

    def note_run(self, kind: Kind, count: int, seconds: float) -> None:
        """A run over `count` items went well."""
        self._costs[kind].observe(count, seconds)
        self._ceilings[kind].grow(count)

    def note_no_memory(self, kind: Kind, count: int) -> None:
        """There was no memory for `count` items together."""
        self._ceilings[kind].shrink(count)

    def estimate_s(self, waiting: Mapping[Kind, int]) -> float:
        """Seconds until so many items of each kind are worked off."""
        total = 0.0
        for kind, count in waiting.items():
            runs = -(-count // self.get_most(kind))
            total += runs * self.get_cost(kind).fixed_s + count * self.get_cost(kind).per_item_s
        return total

    def choose(self, lanes: Sequence[Lane], now: float) -> Lane:
        """The lane with the oldest item; or a full batch of another one, if the oldest can spare it.

        Nobody is passed over twice, and nobody whose deadline would not hold.
        """
        oldest = min(lanes, key=_get_age)
        if self.is_full(oldest) or oldest.passed_over:
            return oldest
        full = [lane for lane in lanes if self.is_full(lane)]
        if not full:
            return oldest
        first = min(full, key=_get_age)
        needed = self._predict(first) + self._predict(oldest)
        return first if now + needed <= oldest.items[0].deadline else oldest

    def is_full(self, lane: Lane) -> bool:
        return len(lane.items) >= self.get_most(lane.kind)

    def count(self, lane: Lane, now: float) -> int:
        """As many as there are room for, but not so many that a deadline among them would be missed.

        A deadline that even a run of one can't meet bounds nothing, and no deadline cuts a batch below the
        knee: under overload that would cost everybody else more than it saves.
        """
        cost = self.get_cost(lane.kind)
        most = min(len(lane.items), self.get_most(lane.kind))
        least = min(most, cost.knee)
        tightest = float("inf")
        for count, item in enumerate(lane.items, start=1):
            if count > most:
                break
            left = item.deadline - now
            if left >= cost.predict(1):
                tightest = min(tightest, left)
            if count > least and cost.predict(count) > tightest:
                return count - 1
        return most

    def get_patience(self, lane: Lane, coming: Coming, waited_s: float, now: float) -> float:
        """Seconds that waiting for more pays; 0 means run now.

        It saves one run's fixed cost, and only if all that is announced (or a full batch of it) gets here:
        a part of it would leave as many runs to do. So the wait, with what was already waited, must be
        shorter than that, and every deadline must still hold.
        """
        cost = self.get_cost(lane.kind)
        missing = min(coming.count, self.get_most(lane.kind) - len(lane.items))
        if missing <= 0:
            return 0.0
        budget = cost.fixed_s - waited_s
        if missing * coming.gap_s > budget:
            return 0.0
        ends = now + budget + cost.predict(len(lane.items) + missing)
        return budget if ends <= min(item.deadline for item in lane.items) else 0.0

    def _predict(self, lane: Lane) -> float:
        count = min(len(lane.items), self.get_most(lane.kind))
        return self.get_cost(lane.kind).predict(count)


def _get_age(lane: Lane) -> float:
    return lane.items[0].entered
