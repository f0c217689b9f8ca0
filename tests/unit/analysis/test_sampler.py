"""Round after round over real sockets: what the checks say when somebody isn't heard any more."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sluice.analysis.prometheus import Subject
from sluice.analysis.sampler import PATIENCE, Sampler, Scene
from sluice.api.rolloutstatus import Verdict
from tests.unit.analysis.conftest import Serve
from tests.unit.analysis.scrapes import Process

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CANDIDATE, STABLE = "127.0.0.1", "127.0.0.2"
ANALYSIS: Mapping[str, Any] = {
    "minSamples": 300,
    "interval": "5s",
    "checks": [
        {"name": "absolute", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "1"},
        {
            "name": "relative",
            "metric": "ErrorRate",
            "type": "RelativeToStable",
            "maxIncreasePercent": "50",
        },
    ],
}


class Pods:
    """Two pods on one port, each of which may fall silent."""

    def __init__(self) -> None:
        self.running = {CANDIDATE: Process(), STABLE: Process()}
        self.silent: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        address = request.host.partition(":")[0]
        if address in self.silent:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.running[address].write())


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
async def port(pods: Pods) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/metrics/rollout", pods.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, CANDIDATE, 0).start()
    port: int = runner.addresses[0][1]
    await web.TCPSite(runner, STABLE, port).start()
    yield port
    await runner.cleanup()


@pytest.mark.parametrize(
    ("silent", "said"),
    [
        (set(), {"absolute": Verdict.PASS, "relative": Verdict.PASS}),
        ({STABLE}, {"absolute": Verdict.PASS, "relative": Verdict.INCONCLUSIVE}),
        ({CANDIDATE}, {"absolute": Verdict.INCONCLUSIVE, "relative": Verdict.INCONCLUSIVE}),
    ],
    ids=["nobody", "stable", "the candidate"],
)
async def test_a_pass_does_not_outlive_its_samples(
    pods: Pods,
    port: int,
    session: aiohttp.ClientSession,
    silent: set[str],
    said: Mapping[str, Verdict],
) -> None:
    sampler = Sampler(ANALYSIS, NOW, session)
    subject = Subject("vision", "pizza", "aaaaaaaaaa", "bbbbbbbbbb")
    scene = Scene(subject, 50, {"b-1": CANDIDATE}, {"a-1": STABLE}, port, {})

    async def look(number: int) -> dict[str, Verdict]:
        for process in pods.running.values():
            process.answer(n=50_000)
        at = NOW + timedelta(seconds=5 * number)
        return {result.name: result.verdict for result in await sampler.look(at, scene)}

    await look(0)
    assert set((await look(1)).values()) == {Verdict.PASS}
    pods.silent = silent
    # A scrape or two may be missed.
    for number in range(2, 2 + PATIENCE):
        assert set((await look(number)).values()) == {Verdict.PASS}
    assert await look(2 + PATIENCE) == said
    pods.silent = set()
    assert set((await look(3 + PATIENCE)).values()) == {Verdict.PASS}


async def test_a_candidate_without_a_pod_to_ask_is_silent(
    pods: Pods, port: int, session: aiohttp.ClientSession
) -> None:
    sampler = Sampler(ANALYSIS, NOW, session)
    subject = Subject("vision", "pizza", "aaaaaaaaaa", "bbbbbbbbbb")
    scene = Scene(subject, 50, {"b-1": CANDIDATE}, {"a-1": STABLE}, port, {})
    await sampler.look(NOW, scene)
    for process in pods.running.values():
        process.answer(n=50_000)
    for number in range(1, 3 + PATIENCE):
        results = await sampler.look(NOW + timedelta(seconds=5 * number), scene)
        is_old = number > 1 + PATIENCE
        said = {Verdict.INCONCLUSIVE} if is_old else {Verdict.PASS}
        assert {result.verdict for result in results} == said
        scene = replace(scene, candidate={})


async def test_a_prometheus_that_fails_once_takes_nothing_away(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    broken = False

    async def handle(request: web.Request) -> web.Response:
        if broken:
            raise web.HTTPBadGateway
        query, at = request.query["query"], request.query["time"]
        by = "outcome" if "by (outcome)" in query else "sluice_dev_revision"
        names = {"outcome": ["ok"]}.get(by, ["aaaaaaaaaa", "bbbbbbbbbb"])
        value = at if "timestamp(" in query else "50000"
        found = [{"metric": {by: name}, "value": [0, value]} for name in names]
        if "sum(" in query or "_bucket" in query:
            found = []
        data = {"resultType": "vector", "result": found}
        return web.json_response({"status": "success", "data": data})

    url = f"http://127.0.0.1:{await serve(handle)}"
    source = {"type": "Prometheus", "prometheus": {"url": url}}
    sampler = Sampler({**ANALYSIS, "source": source}, NOW, session)
    subject = Subject("vision", "pizza", "aaaaaaaaaa", "bbbbbbbbbb")
    scene = Scene(subject, 50, {"b-1": CANDIDATE}, {"a-1": STABLE}, 80, {})
    said = []
    for number in range(1, 4 + PATIENCE):
        results = await sampler.look(NOW + timedelta(seconds=5 * number), scene)
        said.append({result.verdict for result in results})
        broken = True

    assert said == [*[{Verdict.PASS}] * (1 + PATIENCE), *[{Verdict.INCONCLUSIVE}] * 2]


async def test_the_candidate_is_judged_where_stable_was_never_heard(
    pods: Pods, port: int, session: aiohttp.ClientSession
) -> None:
    sampler = Sampler(ANALYSIS, NOW, session)
    subject = Subject("vision", "pizza", "aaaaaaaaaa", "bbbbbbbbbb")
    scene = Scene(subject, 50, {"b-1": CANDIDATE}, {"a-1": STABLE}, port, {})
    pods.silent = {STABLE}
    await sampler.look(NOW, scene)
    pods.running[CANDIDATE].answer("error", n=500)
    absolute, relative = await sampler.look(NOW + timedelta(seconds=5), scene)

    assert absolute.verdict is Verdict.FAIL
    assert relative.verdict is Verdict.INCONCLUSIVE
