"""The way back: from the engine's threads to whoever awaits one request's outcomes on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sluice_inference.engine.backend import Output
from sluice_inference.engine.queue import Item
from sluice_inference.errors import EngineStoppedError, RunError
from sluice_inference.logs import log
from sluice_inference.trail import Trail

Outcome = Output | RunError


class Ticket:
    """The promise for one request's items: a future of all outcomes, in order. Event loop only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, count: int, trail: Trail | None = None
    ) -> None:
        self.loop = loop
        self.trail = trail
        self.future: asyncio.Future[list[Outcome]] = loop.create_future()
        self._outcomes: list[Outcome | None] = [None] * count
        self._missing = count

    def settle(self, index: int, outcome: Outcome) -> None:
        """Give one outcome; the last one resolves the future."""
        self._outcomes[index] = outcome
        self._missing -= 1
        if not self._missing and not self.future.done():
            self.future.set_result([one for one in self._outcomes if one is not None])

    def turn_away(self) -> None:
        """There will be no outcomes: the engine ends."""
        if not self.future.done():
            self.future.set_exception(EngineStoppedError())


def deliver(
    items: Sequence[Item], outcomes: Sequence[Outcome], started: float, ended: float
) -> None:
    """Settle a batch that ran from `started` to `ended`; one call into the event loop for all of it."""

    def settle() -> None:
        noted: Ticket | None = None  # a request's items stand together
        for item, outcome in zip(items, outcomes, strict=True):
            ticket: Ticket = item.ticket
            if ticket.trail is not None and ticket is not noted:
                noted = ticket
                ticket.trail.add("queue", item.entered, started)
                ticket.trail.add("run", started, ended)
            ticket.settle(item.index, outcome)

    _call(items, settle)


def turn_away(items: Sequence[Item]) -> None:
    """Tell whoever waits for these that they will not be run."""

    def settle() -> None:
        for item in items:
            item.ticket.turn_away()

    if items:
        _call(items, settle)


def _call(items: Sequence[Item], settle: Callable[[], None]) -> None:
    try:
        items[0].ticket.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        log("debug", "answers came after the event loop had closed", items=len(items))
