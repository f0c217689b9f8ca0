"""The server's states, and when a drain is over.

starting -> loading -> warming -> ready -> draining -> stopped, or failed on the way to ready. This
module decides; `server.py` owns the signals and the sockets.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice_inference.logs import log


class State(enum.StrEnum):
    """Where the process is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


_NEXT = {
    State.STARTING: {State.LOADING, State.FAILED, State.STOPPED},
    State.LOADING: {State.WARMING, State.FAILED, State.STOPPED},
    State.WARMING: {State.READY, State.FAILED, State.STOPPED},
    State.READY: {State.DRAINING, State.FAILED, State.STOPPED},
    State.DRAINING: {State.STOPPED, State.FAILED},
    State.FAILED: {State.STOPPED},
    State.STOPPED: set[State](),
}

# After this long without a client's request the accept queue is empty too: closing the listener
# resets connections that wait in it, so it is closed in a silence.
QUIET_S = 1.0


class Lifecycle:
    """The current state, shared by the event loop and the engine's thread.

    `model` names whose life it is, where it is not the whole process's. `reason` is what was said at
    the last change.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, model: str = "") -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._listeners: list[Callable[[State], None]] = []
        self.started = clock()
        self.since = self.started
        self.was_ready = False
        self.reason = ""
        self._fields: dict[str, Any] = {"model": model} if model else {}

    @property
    def state(self) -> State:
        return self._state

    def on_change(self, listener: Callable[[State], None]) -> None:
        """Call `listener` at each change, in the thread that made it."""
        self._listeners.append(listener)

    def enter(self, state: State, reason: str = "") -> bool:
        """Go to `state`; False when it can't be reached from here (a signal won the race)."""
        with self._lock:
            if state not in _NEXT[self._state]:
                return False
            self.reason = reason
            before, self._state = self._state, state
            self.since = self._clock()
            self.was_ready |= state is State.READY
        log("info", f"{before} -> {state}", state=str(state), reason=reason, **self._fields)
        for listener in self._listeners:
            listener(state)
        return True

    def is_ready(self) -> bool:
        """Should new traffic be sent here? False while draining."""
        return self._state is State.READY

    def is_answering(self) -> bool:
        """Are requests answered? True while draining: whoever still comes is served."""
        return self._state in (State.READY, State.DRAINING)

    def uptime_s(self) -> float:
        return self._clock() - self.started


@dataclass(slots=True)
class Traffic:
    """Client requests under way, and when the last one came or went. Probes don't count.

    `in_flight` are those not fully answered, which a drain waits for; `working` are those of them whose
    answer is not made yet: only they keep others away (MAX_CONCURRENT_REQUESTS).
    """

    in_flight: int = 0
    working: int = 0
    last: float = float("-inf")


def is_drained(
    now: float, since: float, traffic: Traffic, *, linger_s: float, timeout_s: float
) -> bool:
    """May the listener be closed? `now` and `since` (the SIGTERM) are on one monotonic clock.

    Not before `linger_s`, so that whoever has not heard yet is served; then as soon as clients are
    quiet; in any case early enough to finish what is in flight before `timeout_s` is over.
    """
    elapsed = now - since
    if elapsed >= timeout_s - min(5.0, timeout_s / 4):
        return True
    if elapsed < linger_s or traffic.in_flight:
        return False
    return now - traffic.last >= min(QUIET_S, linger_s)
