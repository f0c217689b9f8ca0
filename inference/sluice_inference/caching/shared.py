"""The tier that replicas share: a Redis that may be gone at any time, at the price of its hits.

No request ever waits to find out whether Redis is back: one that fails is not asked again until a task in
the background has had an answer from it. Values are written behind the answer, by another task. Knows
bytes only. Event loop only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any

from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.settings.cache import CacheSettings

_PREFIX = b"sluice:inference:"
_CONNECTIONS = 16
_TIMEOUTS = 3  # so many in a row, and Redis counts as gone; a refused connection says so at once
_PROBE_FIRST_S, _PROBE_MOST_S = 0.25, 5.0
_WAITING_MOST = 1024
_WRITTEN_TOGETHER = 64


class SharedCache:
    """Bytes by key in Redis. Nothing here raises for a Redis that is slow, gone or broken."""

    def __init__(self, settings: CacheSettings, metrics: Metrics) -> None:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as LostError
        from redis.exceptions import RedisError

        self._lost_error = LostError
        self._errors = (RedisError, OSError, TimeoutError)
        self._timeout_s = settings.redis_timeout_s
        self._ttl_s = settings.ttl_s
        self._metrics = metrics
        pool = BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=_CONNECTIONS,
            timeout=None,  # the wait for a connection is part of our own timeout
            socket_timeout=settings.redis_timeout_s,
            socket_connect_timeout=settings.redis_timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis.from_pool(pool)  # which it owns, and closes with itself
        self._is_up = False
        self._timeouts = 0
        self._waiting: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue(_WAITING_MOST)
        self._is_lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: set[asyncio.Future[Any]] = set()
        metrics.cache_shared_up.set_function(lambda: float(self._is_up))

    @property
    def is_up(self) -> bool:
        """Did Redis answer last?"""
        return self._is_up

    def start(self) -> None:
        """Begin to look for Redis. Until it has answered, nothing is asked of it."""
        self._is_lost.set()
        self._tasks = [asyncio.create_task(work) for work in (self._watch(), self._write())]

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there; none after the timeout (REDIS_TIMEOUT_MS)."""
        if not self._is_up:
            return {}
        values = await self._try("get", self._redis.mget([_PREFIX + key for key in keys]))
        return {
            key: value
            for key, value in zip(keys, values or (), strict=False)
            if isinstance(value, bytes)
        }

    def put(self, key: bytes, value: bytes) -> None:
        """Have the value written soon. Dropped where Redis is gone or can't keep up."""
        if self._is_up and not self._waiting.full():
            self._waiting.put_nowait((key, value))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._asked, return_exceptions=True)
        await self._try("close", self._redis.aclose())

    async def _try(self, operation: str, asked: Awaitable[Any]) -> Any:
        """What was asked for, or None; afterwards `is_up` says what that means for the next.

        In a task of its own: the library has moments in which it swallows a cancellation, and with it
        a timeout. Neither a request's time nor its end may depend on that.
        """
        task = asyncio.ensure_future(asked)
        self._asked.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait([task], timeout=self._timeout_s)
        finally:
            task.cancel()  # nothing, where it is done
        try:
            if not task.done():
                raise TimeoutError
            answer = task.result()
        except Exception as error:  # a cache never fails a request, whatever its library raises
            self._metrics.cache_errors_total.labels(operation).inc()
            if not isinstance(error, self._errors):
                # A connection that was closed under a request, for one: AttributeError.
                log("warning", "the shared cache failed", operation=operation, error=_name(error))
            self._note_failure(error)
            return None
        self._timeouts = 0
        return answer

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # seen: it came too late for whoever asked

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, (self._lost_error, OSError)) and not isinstance(error, TimeoutError):
            self._timeouts = _TIMEOUTS
        else:
            self._timeouts += 1
        if self._is_up and self._timeouts >= _TIMEOUTS:
            self._is_up = False
            self._is_lost.set()
            log("warning", "the shared cache is gone; serving without it", error=_name(error))

    async def _watch(self) -> None:
        """Whenever Redis is lost, ask it until it answers; first at once, then less and less often."""
        while True:
            await self._is_lost.wait()
            self._is_lost.clear()
            pause_s = _PROBE_FIRST_S
            # Connections that died with it must not be handed to a request.
            try:
                await self._redis.connection_pool.disconnect()
            except Exception as error:  # a peer that is silent, say; this task must live on
                log("debug", "connections to the shared cache ended badly", error=_name(error))
            while not await self._try("probe", self._redis.ping()):
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads replicas
                pause_s = min(2 * pause_s, _PROBE_MOST_S)
            self._timeouts = 0
            self._is_up = True
            log("info", "the shared cache answers")

    async def _write(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _WRITTEN_TOGETHER and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            if self._is_up:
                pipeline = self._redis.pipeline(transaction=False)
                for key, value in batch:
                    pipeline.set(_PREFIX + key, value, ex=self._ttl_s)
                await self._try("put", pipeline.execute())


def _name(error: Exception) -> str:
    """Its kind only: the text may hold the address and what is in it."""
    return type(error).__name__
