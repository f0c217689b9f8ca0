"""A circuit breaker: leaves a model alone while it fails, and tries it again with one request.

Pure but for the clock it is given. Knows neither models nor requests, only how they went.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sluice_inference.settings.routing import ERROR, TIMEOUT, BreakerSettings

_SLOTS = 30
_SLOW_SHARE = 0.05  # p95 is over a limit when more than this share is
_MIN_ANSWERS = 20  # fewer say nothing about a 95th percentile


class BreakerState(enum.IntEnum):
    """As the metric `breaker_state` has it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(slots=True)
class _Slot:
    """What happened in one thirtieth of the window, or in all of it."""

    number: int
    answers: int = 0
    failed: int = 0
    slow: int = 0


class Breaker:
    """Opens on errors (enough of them, and a large enough share) or on a p95 over the limit.

    A share beside the number, because one client's bad inputs must not take the model from all the
    others. `admit` gives a ticket; the answer's fate is told with it. Tickets from before the last
    change of state are void: late answers say nothing of the model as it is now.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._era = 0
        self._opened = 0.0
        self._slots: deque[_Slot] = deque()
        self._total = _Slot(0)
        self.reason = ""

    @property
    def state(self) -> BreakerState:
        return self._state

    def admit(self) -> int | None:
        """A ticket to ask the model, or None where it is to be left alone."""
        if self._state is BreakerState.CLOSED:
            return self._era
        if self._state is BreakerState.HALF_OPEN:
            return None  # the one probe is under way
        if self._clock() - self._opened < self._settings.open_s:
            return None
        self._enter(BreakerState.HALF_OPEN)
        return self._era

    def settle(self, ticket: int, problem: str, seconds: float) -> None:
        """Tell how it went: `problem` is "" or why a fallback was wanted, Error or Timeout."""
        if ticket != self._era:
            return
        is_slow = seconds > self._settings.p95_s
        if self._state is BreakerState.HALF_OPEN:
            if problem or is_slow:
                self._open(problem or TIMEOUT)
            else:
                self._enter(BreakerState.CLOSED)
            return
        for slot in (self._get_slot(), self._total):
            slot.answers += 1
            slot.failed += bool(problem)
            slot.slow += is_slow
        if reason := self._judge(problem):
            self._open(reason)

    def give_back(self, ticket: int) -> None:
        """The request ended without saying anything about the model: its client left."""
        if ticket == self._era and self._state is BreakerState.HALF_OPEN:
            self._enter(BreakerState.OPEN)  # `_opened` stays: the next request is the probe

    def _judge(self, problem: str) -> str:
        total, settings = self._total, self._settings
        if total.failed >= settings.errors and (
            total.failed * 100 >= total.answers * settings.error_percent
        ):
            return problem or ERROR
        if total.answers >= _MIN_ANSWERS and total.slow > total.answers * _SLOW_SHARE:
            return TIMEOUT
        return ""

    def _open(self, reason: str) -> None:
        self.reason = reason
        self._opened = self._clock()
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._slots.clear()
        self._total = _Slot(0)
        if state is BreakerState.CLOSED:
            self.reason = ""

    def _get_slot(self) -> _Slot:
        """The slot of now; those that are older than the window are forgotten."""
        number = int(self._clock() * _SLOTS / self._settings.window_s)
        while self._slots and self._slots[0].number <= number - _SLOTS:
            old, total = self._slots.popleft(), self._total
            total.answers -= old.answers
            total.failed -= old.failed
            total.slow -= old.slow
        if not self._slots or self._slots[-1].number != number:
            self._slots.append(_Slot(number))
        return self._slots[-1]
