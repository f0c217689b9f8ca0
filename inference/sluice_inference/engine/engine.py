"""The engine: one owner thread that loads, warms up and runs a backend, fed by the bounded queue.

Nothing else touches the backend. Answers go back to the event loop with one call for each batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from sluice_inference.engine.backend import Backend, Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.bisect import run_isolated
from sluice_inference.engine.queue import Item, WorkQueue
from sluice_inference.errors import LoadError, RunError
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics

Outcome = Output | RunError


class Ticket:
    """The promise for one request's items: a future of all outcomes, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.loop = loop
        self.future: asyncio.Future[list[Outcome]] = loop.create_future()
        self._outcomes: list[Outcome | None] = [None] * count
        self._missing = count

    def settle(self, index: int, outcome: Outcome) -> None:
        """Give one outcome; the last one resolves the future. Event loop only."""
        self._outcomes[index] = outcome
        self._missing -= 1
        if not self._missing and not self.future.done():
            self.future.set_result([one for one in self._outcomes if one is not None])


class Engine:
    """Owns the backend. `facts` is set before the state becomes ready."""

    def __init__(
        self,
        backend: Backend,
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        batch_size: int,
        queue_items: int,
        stall_s: float,
        on_failed: Callable[[str], None],
    ) -> None:
        self.facts: ModelFacts | None = None
        self._backend = backend
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._batch_size = batch_size
        self._stall_s = stall_s
        self._on_failed = on_failed
        self._queue = WorkQueue(queue_items)
        self._busy_since: float | None = None
        self._seconds_per_item = 0.01
        # A daemon: a load that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._own, name="engine", daemon=True)
        metrics.queue_items.set_function(lambda: len(self._queue))

    def start(self) -> None:
        self._thread.start()

    def submit(self, payloads: Sequence[Payload], deadline: float) -> asyncio.Future[list[Outcome]]:
        """Queue one request's inputs, of whatever kinds: all of them, or none. Event loop only.

        Raises QueueFullError or EngineStoppedError.
        """
        ticket = Ticket(asyncio.get_running_loop(), len(payloads))
        now = time.monotonic()
        self._queue.put(
            [
                Item(_get_kind(payload), payload, deadline, now, ticket, index)
                for index, payload in enumerate(payloads)
            ]
        )
        return ticket.future

    def estimate_wait_s(self) -> int:
        """Whole seconds until the queue is worked off, 1 to 30: what Retry-After says."""
        return max(1, min(30, round(len(self._queue) * self._seconds_per_item)))

    @property
    def queued(self) -> int:
        return len(self._queue)

    def health(self) -> str:
        """What is broken for good, or an empty string. Cheap: no model run."""
        started = self._busy_since
        if started is not None and time.monotonic() - started > self._stall_s:
            return f"the model has been at one batch for more than {self._stall_s:g} s"
        if self._thread.ident is not None and not self._thread.is_alive():
            return "the engine's thread has ended"
        return self._backend.health()

    def close(self, timeout_s: float) -> None:
        """Stop the thread. What still waits is told so."""
        self._turn_away("the server stopped")
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _own(self) -> None:
        """The thread: load, warm up, then batches until the queue is closed."""
        try:
            if self._prepare():
                self._loop()
        except LoadError as error:
            self._fail(str(error))
        except Exception as error:
            log("error", "the engine failed", exc_info=True)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._backend.close()

    def _turn_away(self, reason: str) -> None:
        """Close the queue. Whoever waits in it is answered now, and not by a deadline."""
        if left := self._queue.close():
            _deliver(left, [RunError(reason) for _ in left])

    def _fail(self, message: str) -> None:
        self._turn_away("the model can't be served")
        if self._lifecycle.enter(State.FAILED, message):
            self._on_failed(message)

    def _prepare(self) -> bool:
        started = time.monotonic()
        if not self._lifecycle.enter(State.LOADING):
            return False
        self.facts = self._backend.load()
        loaded = time.monotonic()
        self._metrics.model_load_seconds.set(loaded - started)
        if not self._lifecycle.enter(State.WARMING, f"loaded in {loaded - started:.2f} s"):
            return False
        self._backend.warmup()
        warm = time.monotonic()
        self._metrics.warmup_seconds.set(warm - loaded)
        return self._lifecycle.enter(State.READY, f"warmed up in {warm - loaded:.2f} s")

    def _loop(self) -> None:
        queued, running = (self._metrics.stage_seconds.labels(name) for name in ("queue", "run"))
        while batch := self._queue.take(self._batch_size, _is_wanted):
            started = self._busy_since = time.monotonic()
            kind = batch[0].kind
            outcomes = run_isolated(
                lambda payloads, kind=kind: self._backend.run(kind, payloads),  # type: ignore[misc]
                [item.payload for item in batch],
            )
            self._busy_since = None
            seconds = time.monotonic() - started
            self._seconds_per_item += 0.1 * (seconds / len(batch) - self._seconds_per_item)
            self._metrics.batch_size.observe(len(batch))
            running.observe(seconds)
            for item in batch:
                queued.observe(started - item.entered)
            _deliver(batch, outcomes)


def _get_kind(payload: Payload) -> Kind:
    match payload:
        case str():
            return Kind.TEXT
        case Prompt():
            return Kind.PROMPT
        case _:
            return Kind.IMAGE


def _is_wanted(item: Item) -> bool:
    return item.deadline > time.monotonic() and not item.ticket.future.done()


def _deliver(batch: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """One call into the event loop for the whole batch."""

    def settle() -> None:
        for item, outcome in zip(batch, outcomes, strict=True):
            item.ticket.settle(item.index, outcome)

    try:
        batch[0].ticket.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        log("debug", "answers came after the event loop had closed", items=len(batch))
