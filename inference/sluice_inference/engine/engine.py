"""The engine: one owner thread that loads, warms up and runs a backend, fed by the bounded queue.

Nothing else touches the backend. Answers go back to the event loop with one call for each batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from sluice_inference.engine.backend import (
    Backend,
    Kind,
    MakesArrays,
    ModelFacts,
    Output,
    Payload,
    Prompt,
)
from sluice_inference.engine.batcher import Batcher
from sluice_inference.engine.bisect import Shortage, Trouble, run_isolated
from sluice_inference.engine.faults import DeviceLostError
from sluice_inference.engine.former import Batch, Former
from sluice_inference.engine.gpu_health import GpuWatch, watch_gpus
from sluice_inference.engine.queue import Announcement, Item, WorkQueue
from sluice_inference.engine.stack import Pixels, Stacker
from sluice_inference.engine.telling import EngineMetrics
from sluice_inference.engine.ticket import Outcome, Ticket, deliver, turn_away
from sluice_inference.errors import LoadError, RunError
from sluice_inference.imaging.plan import Fit
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.trail import Trail

# Texts of so many characters are short: 16 tokens or so. Twice as long is another class, and so on up to
# eight times, which is more than the text towers read.
_SHORT = 64
_LONGEST = 4

# What the device is asked with when there was no memory: characters, and pixels of a side.
_FEW = 8
_CORNER = 32


class Engine:
    """Owns the backend. `facts` is set before the state becomes ready; `model` names it in metrics."""

    def __init__(
        self,
        backend: Backend,
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        model: str,
        batch_size: int,
        queue_items: int,
        queue_bytes: int,
        stall_s: float,
        on_failed: Callable[[str], None],
    ) -> None:
        self.facts: ModelFacts | None = None
        self.failure: Exception | None = None
        self._backend = backend
        self._lifecycle = lifecycle
        self._process_metrics = metrics
        self._metrics = told = EngineMetrics(metrics, model)
        self._batch_size = batch_size
        self._stall_s = stall_s
        self._on_failed = on_failed
        self._batcher = Batcher(batch_size)
        self._queue = WorkQueue(queue_items, queue_bytes, self._batcher)
        self._former: Former | None = None
        self._gpus: GpuWatch | None = None
        self._shortage = Shortage()
        self._busy_since: float | None = None
        # A daemon: a load that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._own, name="engine", daemon=True)
        told.queue_items.set_function(lambda: len(self._queue))
        told.queue_bytes.set_function(lambda: self._queue.bytes)

    def start(self) -> None:
        self._thread.start()

    def announce(self, kinds: Mapping[Kind, int]) -> AbstractContextManager[Announcement]:
        """Keep room for inputs that are being prepared, and let the batcher count on them.

        Raises QueueFullError (before any work went into them) or EngineStoppedError.
        """
        return self._queue.announce(kinds)

    def submit(
        self,
        payloads: Sequence[Payload],
        deadline: float,
        *,
        announcement: Announcement | None = None,
        trail: Trail | None = None,
    ) -> asyncio.Future[list[Outcome]]:
        """Queue one request's inputs, of whatever kinds: all of them, or none. Event loop only.

        The trail gets the stages `queue` and `run`. Raises QueueFullError or EngineStoppedError; the
        future too raises EngineStoppedError, where the engine ends before it could answer.
        """
        ticket = Ticket(asyncio.get_running_loop(), len(payloads), trail)
        now = time.monotonic()
        items = [
            make_item(payload, deadline, now, ticket, index)
            for index, payload in enumerate(payloads)
        ]
        self._queue.put(items, announcement)
        return ticket.future

    def estimate_wait_s(self) -> int:
        """Whole seconds until the queue is worked off, 1 to 30: what Retry-After says."""
        return max(1, min(30, round(self.predict_wait_s())))

    def predict_wait_s(self) -> float:
        """Seconds until all that waits now is worked off, by what runs have cost so far."""
        return self._batcher.estimate_s(self._queue.count_waiting())

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
        if self._gpus is not None and (problem := self._gpus.problem):
            return problem
        return self._backend.health()

    def close(self, timeout_s: float) -> None:
        """Stop the threads. What still waits is told so."""
        self._turn_away_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _own(self) -> None:
        """The thread: load, warm up, then batches until the queue is closed."""
        try:
            if self._prepare():
                self._loop()
        except (LoadError, DeviceLostError) as error:
            self.failure = error
            self._fail(str(error))
        except Exception as error:
            self.failure = error
            log("error", "the engine failed", exc_info=True)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            if self._gpus is not None:
                self._gpus.close()
            self._backend.close()

    def _turn_away_all(self) -> None:
        """Close the queue. Whoever waits in it is answered now, and not by a deadline."""
        turn_away(self._queue.close())
        if self._former is not None:
            self._former.close()

    def _fail(self, message: str) -> None:
        self._turn_away_all()
        if self._lifecycle.enter(State.FAILED, message):
            self._on_failed(message)

    def _prepare(self) -> bool:
        started = time.monotonic()
        if not self._lifecycle.enter(State.LOADING):
            return False
        facts = self.facts = self._backend.load()
        loaded = time.monotonic()
        self._metrics.load_seconds.set(loaded - started)
        if not self._lifecycle.enter(State.WARMING, f"loaded in {loaded - started:.2f} s"):
            return False
        self._backend.warmup()
        warm = time.monotonic()
        self._metrics.warmup_seconds.set(warm - loaded)
        self._shortage.shrink = lambda payload: shrink(payload, facts.image.fit)
        self._former = Former(self._queue, _is_wanted, self._make_stacker(facts))
        self._former.start()
        if facts.device.startswith("cuda"):
            self._gpus = watch_gpus(self._process_metrics)
        return self._lifecycle.enter(State.READY, f"warmed up in {warm - loaded:.2f} s")

    def _make_stacker(self, facts: ModelFacts) -> Stacker | None:
        """None where pictures have sizes of their own."""
        plan = facts.image
        if plan.fit is Fit.KEEP:
            return None
        backend = self._backend
        make = backend.make_array if isinstance(backend, MakesArrays) else _make_array
        return Stacker(self._batch_size, (plan.height, plan.width, 3), make)

    def _loop(self) -> None:
        former = self._former
        while former is not None and (batch := former.next()):
            try:
                self._run(batch)
            except BaseException:
                turn_away(batch.items)
                raise
            finally:
                former.finish(batch)

    def _run(self, batch: Batch) -> None:
        """One batch, from its first run to the delivery of its answers. Raises DeviceLostError."""
        metrics, kind, count = self._metrics, batch.kind, len(batch.items)
        trouble = Trouble()
        started = time.monotonic()

        def run(payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
            self._busy_since = time.monotonic()
            try:
                return self._backend.run(kind, payloads)
            finally:
                self._busy_since = None

        try:
            outcomes = run_isolated(run, batch.payloads, trouble, self._shortage)
        finally:
            metrics.bisect_runs_total.inc(trouble.extra_runs)
            metrics.oom_total.inc(trouble.out_of_memory)
            if trouble.too_large:
                self._batcher.note_no_memory(kind, trouble.too_large)
        ended = time.monotonic()
        if not trouble.extra_runs and not trouble.out_of_memory:
            self._batcher.note_run(kind, count, ended - started)
        metrics.poison_total.inc(sum(isinstance(one, RunError) for one in outcomes))
        metrics.batch_size.observe(count)
        metrics.batch_fill_ratio.observe(count / self._batch_size)
        metrics.run_seconds.observe(ended - started)
        for item in batch.items:
            metrics.queue_seconds.observe(started - item.entered)
        deliver(batch.items, outcomes, started, ended)


def make_item(payload: Payload, deadline: float, now: float, ticket: Ticket, index: int) -> Item:
    """The item of one payload.

    Pictures share a run with those of their size, questions with those of their task, texts with those
    of about their length, because a batch costs what its longest text costs.
    """
    match payload:
        case str():
            length = min(_LONGEST, len(payload) // _SHORT).bit_length()
            return Item(Kind.TEXT, payload, deadline, now, ticket, index, length, len(payload))
        case Prompt():
            size = payload.pixels.nbytes + len(payload.text)
            return Item(Kind.PROMPT, payload, deadline, now, ticket, index, payload.task, size)
        case _:
            return Item(
                Kind.IMAGE, payload, deadline, now, ticket, index, payload.shape, payload.nbytes
            )


def shrink(payload: Payload, fit: Fit) -> Payload:
    """The least of a payload's sort that the model takes: a few letters, a corner of a picture.

    A model whose pictures have one size gets the picture as it is: it is as large as all others.
    """
    match payload:
        case str():
            return payload[:_FEW]
        case Prompt():
            return replace(payload, pixels=_crop(payload.pixels, fit), text=payload.text[:_FEW])
        case _:
            return _crop(payload, fit)


def _crop(pixels: Pixels, fit: Fit) -> Pixels:
    return np.ascontiguousarray(pixels[:_CORNER, :_CORNER]) if fit is Fit.KEEP else pixels


def _make_array(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.empty(shape, dtype=np.uint8)


def _is_wanted(item: Item) -> bool:
    return item.deadline > time.monotonic() and not item.ticket.future.done()
