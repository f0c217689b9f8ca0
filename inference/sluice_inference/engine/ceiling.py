"""How large a batch may be at most, when the device's memory turned out too small for the largest.

Halved at once and raised again step by step, as congestion control does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

HOLD_S = 60.0
"""How long a halved ceiling stays before it is raised again."""
_STEPS = 16


class Ceiling:
    """The largest batch of one kind. Owner thread writes, others read."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = most
        self._clock = clock
        self._raise_at = 0.0
        self.most = most

    def shrink(self, failed: int) -> None:
        """There was no memory for a run of `failed` items."""
        self.most = max(1, min(self.most, failed) // 2)
        self._raise_at = self._clock() + HOLD_S

    def grow(self, ran: int) -> None:
        """A run of `ran` items went well: a step up, if it was a full one and the hold is over."""
        if self.most < self._limit and ran >= self.most and self._clock() >= self._raise_at:
            self.most = min(self._limit, self.most + max(1, self._limit // _STEPS))
