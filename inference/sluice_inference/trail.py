"""What happened to one request on its way: which stages it went through, when, and what the cache gave.

Written by whoever does the work, read at the end for the headers of the answer and for traces. Plain
values; the clock is `time.monotonic`, in seconds. Event loop only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Span(NamedTuple):
    """One stage of one request; `start` and `end` on `time.monotonic`'s clock."""

    stage: str
    start: float
    end: float


@dataclass(slots=True)
class Trail:
    """The stages of one request, and how many of its inputs the cache knew."""

    spans: list[Span] = field(default_factory=list)
    cache_hits: int = 0
    cache_misses: int = 0
    _open: tuple[str, float] | None = None

    def add(self, stage: str, start: float, end: float) -> None:
        self.spans.append(Span(stage, start, end))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block, also where it fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, started, time.monotonic())

    def begin(self, stage: str) -> None:
        """Begin a stage that somebody else will end."""
        self._open = (stage, time.monotonic())

    def end(self) -> None:
        """End the stage that was begun, if there is one."""
        if self._open is not None:
            self.add(*self._open, time.monotonic())
            self._open = None

    def describe_times(self) -> str:
        """The Server-Timing header: milliseconds by stage, in the order of their beginning.

        A stage that a request went through several times (a fallback's queue, say) is summed up.
        """
        seconds: dict[str, float] = {}
        for span in sorted(self.spans, key=lambda span: span.start):
            seconds[span.stage] = seconds.get(span.stage, 0.0) + span.end - span.start
        return ", ".join(f"{stage};dur={1000 * each:.2f}" for stage, each in seconds.items())

    def describe_cache(self) -> str:
        """The sluice-cache header: hit, miss or partial; empty where no cache was asked."""
        if not self.cache_hits and not self.cache_misses:
            return ""
        if not self.cache_misses:
            return "hit"
        return "partial" if self.cache_hits else "miss"
