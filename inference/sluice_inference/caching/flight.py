"""A computation that several requests wait for. It lives as long as one of them wants its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Flight(Generic[Result]):
    """Work in a task of its own, so that nobody's cancellation is anybody else's.

    `on_end` is called when nobody may board any more: it is over, or all have left.
    """

    def __init__(
        self, work: Coroutine[Any, Any, Result], on_end: Callable[[Flight[Result]], None]
    ) -> None:
        self._on_end = on_end
        self._aboard = 0
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._end)

    def board(self) -> None:
        """Want the result. Whoever boards must leave, whatever happens."""
        self._aboard += 1

    def leave(self) -> None:
        """Want it no more. The last one to leave ends the work."""
        self._aboard -= 1
        if not self._aboard and not self._task.done():
            self._task.cancel()
            self._on_end(self)

    async def land(self) -> Result | BaseException:
        """The result, or what ended the work instead. Cancels nothing when it is cancelled."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return asyncio.CancelledError()
        return self._task.exception() or self._task.result()

    def _end(self, task: asyncio.Task[Result]) -> None:
        if not task.cancelled():
            task.exception()  # seen: where all left in the same moment, nobody else looks
        self._on_end(self)
