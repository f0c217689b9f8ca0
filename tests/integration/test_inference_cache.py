"""The cache of real server processes with a real redis-server, which is killed under load."""

from __future__ import annotations

import asyncio
import io
import re
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.integration.redis_server import RedisServer
from tests.integration.test_inference_drain import Connection, find_port, start_server
from tests.integration.test_inference_faults import end

WORKERS = 8
TIMEOUT_MS = 200
TYPE = {"content-type": "image/png"}


def make_picture(number: int) -> bytes:
    buffer = io.BytesIO()
    colour = (number % 251, number // 251 % 251, 77)
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


@asynccontextmanager
async def run_server(log: Path, **env: str) -> AsyncIterator[int]:
    """A server's port; it ends well at the end."""
    port = find_port()
    names = {"CACHE_SIZE_MB": "8", "MODEL_DIGEST": "sha256:1", "DRAIN_LINGER_S": "0"}
    process = await start_server(port, log, **{**names, **env})
    try:
        yield port
    finally:
        code = await end(process)
    assert code == 0


@dataclass
class Asked:
    """Which statuses came, and how long each request was at the cache, by its own Server-Timing."""

    codes: Counter[int] = field(default_factory=Counter)
    cache_ms: list[float] = field(default_factory=list)

    def count(self, answer: httpx.Response) -> None:
        self.codes[answer.status_code] += 1
        found = re.search(r"cache;dur=([0-9.]+)", answer.headers.get("server-timing", ""))
        assert found is not None, answer.headers
        self.cache_ms.append(float(found[1]))


async def ask_all(
    port: int, numbers: range, *, when: int = -1, then: Callable[[], None] | None = None
) -> Asked:
    """Every picture once, by a few clients that each wait for their answer; `then` at that number."""
    left, asked = iter(numbers), Asked()

    async def work(client: httpx.AsyncClient) -> None:
        for number in left:
            if number == when and then is not None:
                then()
            asked.count(await client.post("/embed", content=make_picture(number), headers=TYPE))

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await asyncio.gather(*(work(client) for _ in range(WORKERS)))
    return asked


async def read_metric(port: int, name: str) -> float:
    connection = await Connection.open(port)
    _, body = await connection.ask("GET", "/metrics")
    connection.close()
    lines = (line.rpartition(" ") for line in body.decode().splitlines())
    found = {key: float(value) for key, _, value in lines if not key.startswith("#")}
    return found.get(f"sluice_inference_{name}", 0.0)


async def wait_until_shared(port: int) -> None:
    deadline = time.monotonic() + 10
    while not await read_metric(port, "cache_shared_up"):
        assert time.monotonic() < deadline, "the server did not find Redis"
        await asyncio.sleep(0.02)


async def test_one_replica_answers_with_what_another_computed(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    env = {"REDIS_URL": redis_server.url, "REDIS_TIMEOUT_MS": "500"}
    async with (
        run_server(tmp_path / "one", **env) as one,
        run_server(tmp_path / "other", **env) as other,
        run_server(tmp_path / "next", **env, MODEL_DIGEST="sha256:2") as newer,
    ):
        for port in (one, other, newer):
            await wait_until_shared(port)
        await ask_all(one, range(50))
        await asyncio.sleep(0.2)  # values are written behind the answers
        for port in (other, newer):
            asked = await ask_all(port, range(50))
            assert asked.codes == {200: 50}
        assert await read_metric(other, 'cache_hits_total{tier="redis"}') == 50
        assert await read_metric(newer, 'cache_hits_total{tier="redis"}') == 0, "another version"


async def test_a_load_that_repeats_itself_is_answered_from_the_cache(tmp_path: Path) -> None:
    async with run_server(tmp_path / "log") as port:
        for _ in range(10):
            await ask_all(port, range(40))
        hits = await read_metric(port, 'cache_hits_total{tier="memory"}')
        computed = await read_metric(port, 'inference_total{model="unnamed/0.0.0"}')
    assert (hits, computed) == (360, 40)


@pytest.mark.parametrize(
    ("take_away", "slow"),
    [
        # Whose connection is cut knows at once; those who wait for nothing are cut off together.
        pytest.param(RedisServer.kill, WORKERS, id="SIGKILL"),
        pytest.param(RedisServer.freeze, WORKERS + 3, id="SIGSTOP"),
    ],
)
async def test_a_redis_that_is_taken_away_under_load_costs_nothing_but_hits(
    tmp_path: Path,
    redis_server: RedisServer,
    take_away: Callable[[RedisServer], None],
    slow: int,
) -> None:
    env = {"REDIS_URL": redis_server.url, "REDIS_TIMEOUT_MS": f"{TIMEOUT_MS}"}
    async with run_server(tmp_path / "log", **env) as port:
        await wait_until_shared(port)
        asked = await ask_all(port, range(900), when=300, then=lambda: take_away(redis_server))
        assert await read_metric(port, "cache_shared_up") == 0
        errors = [
            await read_metric(port, f'cache_errors_total{{operation="{operation}"}}')
            for operation in ("get", "put")
        ]
        assert sum(errors) > 0
        redis_server.kill()
        redis_server.start()
        await wait_until_shared(port)
    assert asked.codes == {200: 900}
    assert sum(each > 0.9 * TIMEOUT_MS for each in asked.cache_ms) <= slow
    assert max(asked.cache_ms[400:]) < TIMEOUT_MS, "who comes later never waits"
    with_it, without = (
        statistics.median(asked.cache_ms[:300]),
        statistics.median(asked.cache_ms[400:]),
    )
    print(f"median at the cache: {with_it:.2f} ms with Redis, {without:.2f} ms without")
