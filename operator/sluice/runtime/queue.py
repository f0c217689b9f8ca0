"""The queue of keys: client-go's semantics on one event loop.

A key waits at most once, is held by at most one worker, and is handed out again if it was added
meanwhile. Two priorities: what just happened before what is only looked over. Knows nothing of
what a key stands for. Never to be used from another thread.
"""

import asyncio
import heapq
import random
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from sluice.runtime.clock import Clock, Timer
from sluice.runtime.kinds import Key
from sluice.runtime.metrics import Metrics

BASE_DELAY = 0.005
# A rollout must not sleep past its holds because the API server was away.
MAX_DELAY = 30.0


class ShutDown(Exception):  # noqa: N818 - a signal to the workers, not an error
    """The queue gives out no more keys."""


def plan_delay(failures: int, draw: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, capped, with 20 % of jitter.

    ``draw`` is uniform in [0, 1): keys that failed together shall not come back together.
    """
    # 2**40 alone is far above the cap; the bound keeps the power small.
    delay = min(BASE_DELAY * 2.0 ** min(failures, 40), MAX_DELAY)
    return delay * (0.8 + 0.2 * draw)


class Queue:
    """See the module. ``draw`` gives uniform numbers in [0, 1) for the jitter."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        metrics: Metrics,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        # Ordered dictionaries are queues with membership; True and False are the priorities.
        self._waiting: dict[bool, OrderedDict[Key, float]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self._dirty: dict[Key, bool] = {}  # added while being worked on -> low?
        self._working: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._delayed: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = count()
        self._timer: tuple[float, Timer] | None = None
        self._getters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._closed = False
        self._retries = metrics.queue_retries.labels(name)
        self._adds = metrics.queue_adds.labels(name)
        self._wait_seconds = metrics.queue_wait.labels(name)
        self._work_seconds = metrics.queue_work.labels(name)
        metrics.queue_depth.labels(name, "high").set_function(lambda: len(self._waiting[False]))
        metrics.queue_depth.labels(name, "low").set_function(lambda: len(self._waiting[True]))
        metrics.queue_longest.labels(name).set_function(self.longest_running)

    def __len__(self) -> int:
        """Keys that wait for a worker now."""
        return len(self._waiting[False]) + len(self._waiting[True])

    def add(self, key: Key, low: bool = False) -> None:
        """Have the key worked on as soon as a worker is free."""
        if self._closed:
            return
        if key in self._working:
            if key not in self._dirty:
                self._adds.inc()
            self._dirty[key] = low and self._dirty.get(key, True)
            return
        if key in self._waiting[False]:
            return
        if key in self._waiting[True]:
            if not low:
                self._waiting[False][key] = self._waiting[True].pop(key)
            return
        self._adds.inc()
        self._waiting[low][key] = self._clock.monotonic()
        self._wake_one()

    def add_after(self, key: Key, seconds: float) -> None:
        """Add the key later; of several such calls the earliest time wins."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if key in self._delayed and self._delayed[key] <= due:
            return
        self._delayed[key] = due
        heapq.heappush(self._heap, (due, next(self._sequence), key))
        self._arm()

    def add_rate_limited(self, key: Key) -> None:
        """Add the key after its backoff, which doubles with each call until ``forget``."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retries.inc()
        self.add_after(key, plan_delay(failures, self._draw()))

    def forget(self, key: Key) -> None:
        """The key went well: its backoff starts anew."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key. The caller has it alone until ``done``. Raises ShutDown at the end."""
        while not self._closed:
            for low in (False, True):
                if self._waiting[low]:
                    key, since = self._waiting[low].popitem(last=False)
                    now = self._clock.monotonic()
                    self._working[key] = now
                    self._wait_seconds.observe(now - since)
                    return key
            getter = asyncio.get_running_loop().create_future()
            self._getters[getter] = None
            try:
                await getter
            except asyncio.CancelledError:
                # Woken and cancelled at once: the wake-up belongs to another.
                if getter.done() and not getter.cancelled():
                    self._wake_one()
                raise
            finally:
                self._getters.pop(getter, None)
        raise ShutDown

    def done(self, key: Key) -> None:
        """The worker is through with the key, whatever came of it."""
        started = self._working.pop(key)
        self._work_seconds.observe(self._clock.monotonic() - started)
        low = self._dirty.pop(key, None)
        if low is not None and not self._closed:
            self._waiting[low][key] = self._clock.monotonic()
            self._wake_one()

    def shut_down(self) -> None:
        """Give out no more keys and take none; those being worked on are finished by others."""
        self._closed = True
        if self._timer is not None:
            self._timer[1].cancel()
            self._timer = None
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)

    def longest_running(self) -> float:
        """Seconds for which the slowest worker has had its key; 0 when none has one."""
        if not self._working:
            return 0.0
        return self._clock.monotonic() - min(self._working.values())

    def _wake_one(self) -> None:
        while self._getters:
            getter, _ = self._getters.popitem(last=False)
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self) -> None:
        """Keep one timer, set to the earliest delayed key."""
        if not self._heap:
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer[0] <= due:
                return
            self._timer[1].cancel()
        delay = max(0.0, due - self._clock.monotonic())
        self._timer = (due, self._clock.call_later(delay, self._release))

    def _release(self) -> None:
        self._timer = None
        # The loop may call a clock tick early; an entry that is due within it is due.
        now = self._clock.monotonic() + 0.001
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._delayed.get(key) == due:  # otherwise an earlier time took its place
                del self._delayed[key]
                self.add(key)
        self._arm()
