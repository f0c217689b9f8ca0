"""What is measured beside the reconciler, against a real HTTP server in a gateway's place."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from sluice.measure import Measurer
from sluice.plan import ProbeDemand
from sluice.runtime.clock import LoopClock
from sluice.runtime.kinds import Key
from sluice.world import GatewayView

KEY = Key("InferenceService", "vision", "pizza")


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayView]:
    """Answers as the revision that it is asked for."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(headers={"sluice-revision": request.headers["sluice-pin"]})

    app = web.Application()
    app.router.add_get("/ready", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield GatewayView("vision/eg", "127.0.0.1", runner.addresses[0][1])
    await runner.cleanup()


async def test_what_the_gateway_reached_is_doubted_and_proven_anew(gateway: GatewayView) -> None:
    woken = asyncio.Event()
    measurer = Measurer(LoopClock())
    measurer.start(lambda key: woken.set())
    demand = ProbeDemand("abc", (gateway,), "pizza.example.com")

    for _ in range(2):
        measurer.want(KEY, demand)
        await asyncio.wait_for(woken.wait(), 10)
        woken.clear()
        assert measurer.evidence(KEY).proven == {"abc"}
        measurer.doubt(KEY, frozenset({"other"}))
        assert measurer.evidence(KEY).proven == {"abc"}
        measurer.doubt(KEY, frozenset({"abc", "other"}))
        assert measurer.evidence(KEY).proven == frozenset()

    measurer.want(KEY, None)
    measurer.doubt(Key("InferenceService", "vision", "unknown"), frozenset({"abc"}))
    await measurer.stop()
