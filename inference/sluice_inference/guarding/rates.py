"""How often a client may ask: a bucket of N requests that fills up again at N a minute.

Kept as one number, the time at which the bucket will be full again (the generic cell rate algorithm:
ITU-T I.371, Annex A). A client who has been silent for a minute may ask N times at once, then N a
minute; one who was refused need not wait for a whole minute to pass.

Counted in this process, or in Redis for all processes that share one. Without an answer from Redis
it is counted here: a limit is never a reason to fail a request.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from sluice_inference.logs import log

PERIOD_S = 60.0
REDIS_RETRY_S = 1.0
_CONNECTIONS = 16
_TIMEOUTS = 3  # so many in a row, and Redis counts as gone; a refused connection says so at once
_SWEEP_AT = 1024
# KEYS[1] a client, ARGV[1] microseconds to one request; returns microseconds to wait, 0 for go.
# By the clock of Redis, so that the clocks of the servers need not agree.
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local full = tonumber(redis.call('GET', KEYS[1]) or 0)
if full < now then full = now end
full = full + ARGV[1]
local wait = full - now - 60000000
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return 0
"""


class Rates(Protocol):
    """Counts clients' requests."""

    async def take(self, client: str, per_minute: int) -> float:
        """Count one request of `client`; returns 0, or the seconds to wait where it is one too many."""
        ...

    async def close(self) -> None: ...


class LocalRates:
    """Counted in this process. Event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full: dict[str, float] = {}
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return len(self._full)

    def count(self, client: str, per_minute: int) -> float:
        """`take`, without a loop to wait on."""
        now = self._clock()
        full = max(self._full.get(client, now), now) + PERIOD_S / per_minute
        # A bucket drained by N requests at once is full in one period exactly, but for rounding.
        wait = full - now - PERIOD_S
        if wait > 1e-6:
            return wait
        self._full[client] = full
        if len(self._full) > self._sweep_at:
            self._sweep(now)
        return 0.0

    async def take(self, client: str, per_minute: int) -> float:
        return self.count(client, per_minute)

    async def close(self) -> None:
        return

    def _sweep(self, now: float) -> None:
        """Forget full buckets: who comes anew has one too. Rare enough to cost each request little."""
        self._full = {client: full for client, full in self._full.items() if full > now}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._full))


class SharedRates:
    """Counted in Redis; here, while Redis does not answer."""

    def __init__(
        self,
        url: str,
        prefix: str,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefix` goes before each client's name; no client waits for Redis longer than `timeout_s`."""
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import TimeoutError as RedisTimeoutError

        self._slow_errors = (TimeoutError, RedisTimeoutError)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=None,  # the wait for a connection is part of our own timeout
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # the library would try for seconds on its own
        )
        self._redis = Redis(connection_pool=pool)
        self._script = self._redis.register_script(_SCRIPT)
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._clock = clock
        self._local = LocalRates(clock)
        self._is_down = False
        self._timeouts = 0
        self._retry_at = 0.0
        self._probe: asyncio.Task[None] | None = None

    async def take(self, client: str, per_minute: int) -> float:
        if not self._is_down:
            try:
                wait_s = await self._count(client, per_minute)
            except Exception as error:  # whatever a client library can raise, requests go on
                self._note_failure(error)
            else:
                self._timeouts = 0
                return wait_s
        elif self._clock() >= self._retry_at and self._probe is None:
            # Nobody waits for an answer that may not come: requests go on meanwhile.
            self._probe = asyncio.create_task(self._try_again())
        return self._local.count(client, per_minute)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _count(self, client: str, per_minute: int) -> float:
        step_us = math.ceil(PERIOD_S * 1e6 / per_minute)
        async with asyncio.timeout(self._timeout_s):
            wait_us = await self._script(keys=[self._prefix + client], args=[step_us])
        return int(wait_us) / 1e6

    def _note_failure(self, error: Exception) -> None:
        """A busy moment is not the end of Redis; several in a row are, and a lost connection is."""
        self._timeouts = self._timeouts + 1 if isinstance(error, self._slow_errors) else _TIMEOUTS
        self._retry_at = self._clock() + REDIS_RETRY_S
        if not self._is_down and self._timeouts >= _TIMEOUTS:
            self._is_down = True
            log(
                "warning",
                "rate limits are counted in this process alone: Redis does not answer",
                error=type(error).__name__,
            )

    async def _try_again(self) -> None:
        try:
            # Connections that died with it must not be handed to a request.
            await self._redis.connection_pool.disconnect()
            async with asyncio.timeout(self._timeout_s):
                await self._redis.ping()
        except Exception as error:
            self._note_failure(error)
        else:
            self._is_down, self._timeouts = False, 0
            log("info", "rate limits are counted in Redis again")
        finally:
            self._probe = None
