"""Time, as one object that tests replace: wall time, monotonic time, timers and sleeping.

Everything in the runtime that waits or stamps does it through a Clock; nothing here decides.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Never make the call; does nothing if it was made."""


class Clock(Protocol):
    """What the runtime needs of time. Delays and monotonic times are seconds."""

    def now(self) -> datetime:
        """Wall time, in UTC: for what people and other machines read."""

    def monotonic(self) -> float:
        """A time that never goes backwards: for every decision about durations."""

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Make the call after ``delay`` on the event loop."""

    async def sleep(self, delay: float) -> None:
        """Suspend the task for ``delay``."""


class LoopClock:
    """The real one. Its timers need a running event loop."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, call)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


def format_time(moment: datetime) -> str:
    """RFC 3339 with microseconds in UTC, the form of Kubernetes' MicroTime."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
