"""The shared tier where its library fails in ways that are no Redis error: nothing may come of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import TimeoutError as SilentError

from sluice_inference.caching.shared import SharedCache
from sluice_inference.metrics import Metrics
from sluice_inference.settings import read_settings


@asynccontextmanager
async def run_cache() -> AsyncIterator[SharedCache]:
    """Its watch runs, and Redis has answered it."""
    settings = read_settings({"REDIS_URL": "redis://127.0.0.1:1/0"})
    cache = SharedCache(settings.cache, Metrics())
    cache.start()
    try:
        async with asyncio.timeout(5):
            while not cache.is_up:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
        yield cache
    finally:
        await cache.close()


async def answer_ping(_: Any) -> bool:
    return True


async def test_connections_that_end_badly_do_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_: Any) -> NoReturn:
        raise SilentError("timed out closing connection")

    monkeypatch.setattr(Redis, "ping", answer_ping)
    monkeypatch.setattr(BlockingConnectionPool, "disconnect", fail)
    async with run_cache():
        pass


async def test_a_connection_that_was_closed_under_a_request_costs_a_hit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> NoReturn:
        raise AttributeError("'NoneType' object has no attribute 'writelines'")

    monkeypatch.setattr(Redis, "ping", answer_ping)
    monkeypatch.setattr(Redis, "mget", fail)
    async with run_cache() as cache:
        found = await cache.get_many([b"a"])
    assert found == {}
    assert "the shared cache failed" in caplog.text
