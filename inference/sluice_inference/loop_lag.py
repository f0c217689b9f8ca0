"""How late the event loop is: whatever holds it up (a long callback, the garbage collector, a starved
process) holds up every request. Measured by sleeping."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn, Protocol

_EVERY_S = 0.25


class Observer(Protocol):
    def observe(self, seconds: float) -> None:
        """Take in one measurement."""


async def watch_loop(observer: Observer, every_s: float = _EVERY_S) -> NoReturn:
    """Tell, four times a second, how much later than asked for the loop came back. Runs until cancelled."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(every_s)
        observer.observe(max(0.0, time.perf_counter() - started - every_s))
