"""Workers: take keys from the queue, reconcile them, and turn what came of it into what is next.

The one place where errors become outcomes. It decides nothing about the objects.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from sluice.errors import Conflict, Forbidden, Transient
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key
from sluice.runtime.metrics import Metrics
from sluice.runtime.queue import Queue, ShutDown

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile wants next: to be called again after so many seconds, or by events only.

    ``also`` are keys whose objects its own writes concern: those writes come back from the watch as
    nothing new.
    """

    requeue_after: float | None = None
    also: tuple[Key, ...] = ()


Reconcile = Callable[[Key], Awaitable[Result]]


class Workers:
    """``count`` workers over one queue; ``reconcile`` by the key's kind.

    They exist from ``start`` and work from ``open`` on. A reconcile gets ``timeout`` seconds.
    """

    def __init__(
        self,
        queue: Queue,
        reconcile: Mapping[str, Reconcile],
        metrics: Metrics,
        clock: Clock,
        *,
        count: int = 32,
        timeout: float = 60.0,
    ) -> None:
        self._queue = queue
        self._reconcile = dict(reconcile)
        self._metrics = metrics
        self._clock = clock
        self._count = count
        self._timeout = timeout
        self._gate = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        metrics.max_workers.set(count)

    def start(self) -> None:
        """Make the workers; they wait for ``open``."""
        self._tasks = [
            asyncio.create_task(self._work(), name=f"worker-{n}") for n in range(self._count)
        ]

    def open(self) -> None:
        """Let them work."""
        self._gate.set()

    def is_healthy(self) -> bool:
        """Whether every worker lives and none has had its key for longer than it may."""
        alive = not any(task.done() for task in self._tasks)
        return alive and self._queue.longest_running() < self._timeout + 30.0

    async def stop(self, grace: float) -> bool:
        """Finish the keys in work within ``grace`` seconds, cancel the rest; whether all finished.

        The queue must be shut down by the caller before.
        """
        self._gate.set()
        if not self._tasks:
            return True
        _, late = await asyncio.wait(self._tasks, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not late

    async def _work(self) -> None:
        await self._gate.wait()
        while True:
            try:
                key = await self._queue.get()
            except ShutDown:
                return
            try:
                await self._run(key)
            finally:
                self._queue.done(key)
            # A pass that finds nothing to do never waits; the watches and the lease need their turn too.
            await asyncio.sleep(0)

    async def _run(self, key: Key) -> None:
        started = self._clock.monotonic()
        active = self._metrics.active_workers.labels(key.kind)
        active.inc()
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._reconcile[key.kind](key)
        except Conflict as error:
            # Our view was old. The watch will bring the new one, the backoff gives it time.
            logger.debug("conflict", extra={"key": str(key), "detail": error.message})
            self._queue.add_rate_limited(key)
            outcome = "requeue"
        except Transient as error:
            logger.warning("try again later", extra={"key": str(key), "detail": error.message})
            if error.retry_after is None:
                self._queue.add_rate_limited(key)
            else:
                self._queue.add_after(key, error.retry_after)
            outcome = "requeue"
        except Forbidden as error:
            # No traceback: the text names the missing right, and the fix is not in the code.
            logger.error("not allowed", extra={"key": str(key), "detail": error.message})
            self._queue.add_rate_limited(key)
            outcome = "error"
        except TimeoutError:
            logger.exception(
                "reconcile took too long", extra={"key": str(key), "seconds": self._timeout}
            )
            self._queue.add_rate_limited(key)
            outcome = "error"
        except Exception:
            # The outermost loop of the work: one broken object must not end the others' service.
            logger.exception("reconcile failed", extra={"key": str(key)})
            self._queue.add_rate_limited(key)
            outcome = "error"
        else:
            self._queue.forget(key)
            for other in result.also:
                self._queue.add(other, low=True)
            if result.requeue_after is None:
                outcome = "success"
            else:
                self._queue.add_after(key, result.requeue_after)
                outcome = "requeue_after"
        finally:
            active.dec()
            self._metrics.reconcile_time.labels(key.kind).observe(self._clock.monotonic() - started)
        self._metrics.reconciles.labels(key.kind, outcome).inc()
        if outcome == "error":
            self._metrics.reconcile_errors.labels(key.kind).inc()
