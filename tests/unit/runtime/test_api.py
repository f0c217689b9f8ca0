import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from sluice.errors import Conflict, Transient
from sluice.runtime.api import ATTEMPTS, Api
from sluice.runtime.bucket import Bucket
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.metrics import Metrics

THING = Kind("example.com", "v1", "things", "Thing")
OBJ: Obj = {"metadata": {"namespace": "n", "name": "a"}}
Answer = tuple[int, dict[str, str]]


class Server:
    """Gives the scripted answers, the last one for ever, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [(200, {})]
        self.requests: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path_qs}")
        code, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response(
            {"items": None, "metadata": {"resourceVersion": "1"}}, status=code, headers=headers
        )


class Line:
    def __init__(self, server: Server, api: Api, clock: Any, metrics: Metrics) -> None:
        self.server, self.api, self.clock, self.metrics = server, api, clock, metrics

    async def call(self, make: Callable[[Api], Awaitable[Any]]) -> tuple[Any, float]:
        """What comes of a call, and the seconds that pass, which cost nothing."""
        began = self.clock.monotonic()
        task = asyncio.ensure_future(make(self.api))
        while not task.done():
            await asyncio.wait({task}, timeout=0.01)
            if not task.done() and self.clock.pending:
                await self.clock.advance(0.05)
        return task.exception() or task.result(), self.clock.monotonic() - began


@pytest.fixture
async def line(clock: Any, metrics: Metrics) -> AsyncIterator[Line]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    api = Api(
        Configuration(host=f"http://127.0.0.1:{port}"),
        clock,
        metrics,
        bucket=Bucket(10, 2, clock),
        draw=lambda: 0.5,
    )
    yield Line(server, api, clock, metrics)
    await api.close()
    await runner.cleanup()


OK: Answer = (200, {})
BUSY: Answer = (503, {})

# The answers, then: how many requests, the error, at least and at most so many seconds.
STORIES: dict[str, tuple[list[Answer], int, type[Exception] | None, float, float]] = {
    "all is well": ([OK], 1, None, 0, 0),
    "a stumble is not seen": ([BUSY, OK], 2, None, 0.2, 0.4),
    "a named pause is kept": ([(429, {"Retry-After": "2"}), OK], 2, None, 2, 2.2),
    "a long pause is the queue's": ([(429, {"Retry-After": "30"}), OK], 1, Transient, 0, 0),
    "there is an end to it": ([BUSY], ATTEMPTS, Transient, 1, 2),
    "what cannot help is not tried": ([(409, {})], 1, Conflict, 0, 0),
}


@pytest.mark.parametrize(
    ("answers", "requests", "error", "least", "most"), STORIES.values(), ids=STORIES.keys()
)
async def test_what_may_help_is_tried_again(
    line: Line,
    answers: list[Answer],
    requests: int,
    error: type[Exception] | None,
    least: float,
    most: float,
) -> None:
    line.server.answers = list(answers)
    result, seconds = await line.call(lambda api: api.get(THING, "n", "a"))
    assert isinstance(result, error or dict)
    assert line.server.requests == ["GET /apis/example.com/v1/namespaces/n/things/a"] * requests
    assert least <= seconds <= most


async def test_a_lease_is_written_once_and_never_waits_for_others(line: Line) -> None:
    for _ in range(4):
        await line.call(lambda api: api.apply(THING, OBJ))
    line.server.answers = [BUSY]
    result, seconds = await line.call(lambda api: api.replace(THING, OBJ))
    assert isinstance(result, Transient)
    assert seconds == 0
    assert [request.split()[0] for request in line.server.requests].count("PUT") == 1


async def test_writers_share_the_rate_and_readers_do_not(line: Line) -> None:
    _, burst = await line.call(
        lambda api: asyncio.gather(*(api.apply(THING, OBJ) for _ in range(2)))
    )
    assert burst == 0
    _, waited = await line.call(lambda api: api.apply_status(THING, OBJ))
    assert 0 < waited <= 0.2
    _, read = await line.call(lambda api: api.list(THING, namespace="n"))
    assert read == 0
    assert line.server.requests[2] == (
        "PATCH /apis/example.com/v1/namespaces/n/things/a/status?fieldManager=sluice&force=true"
    )


async def test_no_answer_is_an_error_too(clock: Any, metrics: Metrics) -> None:
    # Nothing listens on the discard port.
    api = Api(Configuration(host="http://127.0.0.1:9"), clock, metrics)
    try:
        with pytest.raises(Transient, match="no answer"):
            await api.replace(THING, OBJ)
    finally:
        await api.close()
    labels = {"verb": "update", "kind": "Thing", "code": "0"}
    assert metrics.registry.get_sample_value("sluice_api_calls_total", labels) == 1


async def test_without_the_lease_objects_are_not_written(line: Line) -> None:
    """A process that was stopped and wakes up must not act on what it believed then."""
    line.api.fence = lambda: False
    for write in (
        lambda api: api.apply(THING, OBJ),
        lambda api: api.apply_status(THING, OBJ),
        lambda api: api.delete(THING, "n", "a", uid="1"),
    ):
        error, _ = await line.call(write)
        assert isinstance(error, Transient)
        assert "lease" in error.message
    await line.call(lambda api: api.list(THING))

    assert [request.split()[0] for request in line.server.requests] == ["GET"]
