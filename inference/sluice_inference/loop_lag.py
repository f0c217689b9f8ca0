"""How late the event loop is: whatever holds it up (a long callback, the garbage collector, a starved
process) holds up every request. Measured by sleeping."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NoReturn, Protocol

_EVERY_S = 0.25
_KEPT = 8


class Observer(Protocol):
    def observe(self, seconds: float) -> None:
        """Take in one measurement."""


class LoopLag:
    """How much later than asked for the event loop came back, looked at four times a second."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._seen: deque[float] = deque([0.0], maxlen=_KEPT)

    @property
    def recent_s(self) -> float:
        """The most in the last seconds: so long a request may have lain unread."""
        return max(self._seen)

    async def watch(self, every_s: float = _EVERY_S) -> NoReturn:
        """Look until cancelled."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(every_s)
            self.note(max(0.0, time.perf_counter() - started - every_s))

    def note(self, lag_s: float) -> None:
        """The loop came so late."""
        self._seen.append(lag_s)
        self._observer.observe(lag_s)
