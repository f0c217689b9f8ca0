"""The shared tier against a real redis-server: what it gives, and what it costs when it is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from sluice_inference.caching.shared import SharedCache
from sluice_inference.metrics import Metrics
from sluice_inference.settings import read_settings
from tests.integration.redis_server import RedisServer

TIMEOUT_S = 0.05


async def wait_until(is_true: Callable[[], bool | Awaitable[bool]], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while True:
        answer = is_true()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < end, f"it did not come true within {within_s} s"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def open_cache(url: str, **env: str) -> AsyncIterator[SharedCache]:
    names = {"REDIS_TIMEOUT_MS": f"{TIMEOUT_S * 1000:g}", "REDIS_URL": url, **env}
    cache = SharedCache(read_settings(names).cache, Metrics())
    cache.start()
    try:
        yield cache
    finally:
        await cache.close()


async def put_and_see(cache: SharedCache, key: bytes, value: bytes) -> None:
    """Until it is there: values are written behind."""
    cache.put(key, value)

    async def is_there() -> bool:
        return await cache.get_many([key]) == {key: value}

    await wait_until(is_there)


async def test_what_one_replica_put_another_finds(redis_server: RedisServer) -> None:
    async with open_cache(redis_server.url) as one, open_cache(redis_server.url) as other:
        await wait_until(lambda: one.is_up and other.is_up)
        await put_and_see(one, b"a", b"1")
        await put_and_see(one, b"c", b"")
        assert await other.get_many([b"a", b"b", b"c"]) == {b"a": b"1", b"c": b""}


async def test_values_go_when_their_time_is_over(redis_server: RedisServer) -> None:
    async with open_cache(redis_server.url, CACHE_TTL_S="1") as cache:
        await wait_until(lambda: cache.is_up)
        await put_and_see(cache, b"a", b"1")

        async def is_gone() -> bool:
            return await cache.get_many([b"a"]) == {}

        await wait_until(is_gone)


async def test_a_redis_that_was_never_there_is_not_waited_for() -> None:
    async with open_cache("redis://127.0.0.1:1/0") as cache:
        started = time.monotonic()
        for _ in range(100):
            assert await cache.get_many([b"a"]) == {}
            cache.put(b"a", b"1")
        assert time.monotonic() - started < TIMEOUT_S
        assert not cache.is_up


async def test_a_redis_that_comes_late_or_comes_back_is_used(redis_server: RedisServer) -> None:
    redis_server.kill()
    async with open_cache(redis_server.url) as cache:
        await asyncio.sleep(0.05)
        assert not cache.is_up
        for _ in range(2):
            redis_server.start()
            await wait_until(lambda: cache.is_up)
            await put_and_see(cache, b"a", b"1")
            redis_server.kill()
            assert await cache.get_many([b"a"]) == {}
            assert not cache.is_up, "a refused or cut connection says enough"


async def test_a_redis_that_hangs_costs_three_timeouts_and_no_more(
    redis_server: RedisServer,
) -> None:
    async with open_cache(redis_server.url) as cache:
        await wait_until(lambda: cache.is_up)
        await put_and_see(cache, b"a", b"1")
        redis_server.freeze()
        seconds = []
        for _ in range(50):
            started = time.monotonic()
            assert await cache.get_many([b"a"]) == {}
            seconds.append(time.monotonic() - started)
        assert sum(each > TIMEOUT_S / 2 for each in seconds) == 3
        assert max(seconds) < 10 * TIMEOUT_S
        redis_server.thaw()
        await wait_until(lambda: cache.is_up)
        assert await cache.get_many([b"a"]) == {b"a": b"1"}


async def test_many_askers_at_once_share_few_connections(redis_server: RedisServer) -> None:
    async with open_cache(redis_server.url, REDIS_TIMEOUT_MS="5000") as cache:
        await wait_until(lambda: cache.is_up)
        for number in range(200):
            cache.put(b"%d" % number, b"v%d" % number)

        async def all_are_there() -> bool:
            keys = [b"%d" % number for number in range(200)]
            return len(await cache.get_many(keys)) == 200

        await wait_until(all_are_there)
        found = await asyncio.gather(*(cache.get_many([b"%d" % n]) for n in range(200)))
        assert found == [{b"%d" % n: b"v%d" % n} for n in range(200)]
        assert cache.is_up


async def test_cancelled_askers_leave_no_answers_for_others(redis_server: RedisServer) -> None:
    async with open_cache(redis_server.url, REDIS_TIMEOUT_MS="5000") as cache:
        await wait_until(lambda: cache.is_up)
        for key in (b"a", b"b"):
            await put_and_see(cache, key, key)
        for _ in range(100):
            asked = asyncio.create_task(cache.get_many([b"a"]))
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert await cache.get_many([b"b"]) == {b"b": b"b"}


async def test_a_password_that_is_wrong_means_no_redis_and_stays_out_of_the_log(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = redis_server.url.replace("//", "//user:s3cret@")
    async with open_cache(url) as cache:
        await asyncio.sleep(0.3)
        assert await cache.get_many([b"a"]) == {}
    assert "s3cret" not in caplog.text
