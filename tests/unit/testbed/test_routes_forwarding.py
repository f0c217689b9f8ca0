"""Real requests through the forwarder to servers of this test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from testbed.routes import Forwarder
from testbed.routeview import View
from tests.unit.testbed.test_routes import (
    make_gateway,
    make_listener,
    make_route,
    make_rule,
    make_view,
)

HOST = {"Host": "a.test"}


class Stage:
    """A forwarder on a port of this machine, and the servers behind it."""

    def __init__(self, exits: AsyncExitStack) -> None:
        # Port 0: whichever is free.
        self.view: View = make_view(gateway=make_gateway(make_listener(port=0)))
        self.seen: asyncio.Queue[web.BaseRequest] = asyncio.Queue()
        self.held = asyncio.Event()
        self._exits = exits

    async def open(self) -> None:
        forwarder = await self._exits.enter_async_context(Forwarder(self.view))
        listener = await forwarder.listen("gw/g", "127.0.0.1", 0)
        self._exits.callback(listener.close)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/predict?top_k=3"
        self.client = await self._exits.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        )

    async def serve(self, name: str) -> asyncio.Server:
        """A backend that says its name; `/predict` with header `hold` is answered after `held`."""

        async def answer(request: web.BaseRequest) -> web.Response:
            body = await request.read()
            self.seen.put_nowait(request)
            if "hold" in request.headers:
                await self.held.wait()
            headers = {"sluice-revision": name, "sluice-routed": "unset", "Connection": "x-own"}
            headers |= {"x-own": "1", "x-path": request.path_qs}
            return web.Response(body=name.encode() + b":" + body, headers=headers)

        loop = asyncio.get_running_loop()
        listener = await loop.create_server(web.Server(answer), "127.0.0.1", 0)
        self._exits.callback(listener.close)
        self.point(name, listener.sockets[0].getsockname()[1])
        return listener

    def point(self, name: str, *ports: int) -> None:
        """Let Service `name` have these endpoints."""
        service = {"metadata": {"name": name, "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}
        self.view.take("Service", f"n/{name}", service)
        for port in ports:
            labels = {"kubernetes.io/service-name": name}
            metadata = {"name": name, "namespace": "n", "labels": labels}
            found = {"ports": [{"port": port}], "endpoints": [{"addresses": ["127.0.0.1"]}]}
            self.view.take("EndpointSlice", f"n/{name}", {"metadata": metadata, **found})

    def route(self, *rules: dict[str, object]) -> None:
        self.view.take("HTTPRoute", "n/r", make_route(*rules))

    async def ask(self, **headers: str) -> tuple[int, str, "aiohttp.typedefs.LooseHeaders"]:
        async with self.client.post(self.url, data=b"body", headers=HOST | headers) as answer:
            return answer.status, await answer.text(), answer.headers


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as exits:
        stage = Stage(exits)
        await stage.open()
        yield stage


def weigh(**weights: int) -> dict[str, object]:
    stamp = {"type": "ResponseHeaderModifier"}
    return {
        "backendRefs": [
            {
                "name": name,
                "port": 80,
                "weight": weight,
                "filters": [
                    {
                        **stamp,
                        "responseHeaderModifier": {
                            "set": [{"name": "sluice-routed", "value": name}]
                        },
                    }
                ],
            }
            for name, weight in weights.items()
        ]
    }


async def test_a_request_carries_what_its_rule_sets_whatever_the_client_said(stage: Stage):
    await stage.serve("a")
    change = {"set": [{"name": "x-limit", "value": "7"}], "remove": ["x-inner", "x-none"]}
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}]
    stage.route({**weigh(a=1), "filters": filters})
    assert (await stage.ask(**{"X-Limit": "9", "X-Inner": "1"}))[0] == 200
    seen = stage.seen.get_nowait()
    assert seen.headers.getall("x-limit") == ["7"]
    assert "x-inner" not in seen.headers


async def test_a_request_arrives_whole_and_its_answer_is_stamped(stage: Stage):
    await stage.serve("a")
    stage.route(weigh(a=1))
    status, text, headers = await stage.ask(**{"X-Mine": "1", "Connection": "x-hop", "X-Hop": "1"})
    assert (status, text) == (200, "a:body")
    assert headers["x-path"] == "/predict?top_k=3"
    assert headers.getall("sluice-routed") == ["a"]
    assert "x-own" not in headers
    seen = stage.seen.get_nowait()
    assert seen.headers["Host"] == "a.test"
    assert seen.headers["X-Mine"] == "1"
    assert "X-Hop" not in seen.headers


async def test_a_weight_is_a_share_and_zero_is_none(stage: Stage):
    for name in ("a", "b", "c"):
        await stage.serve(name)
    stage.route(weigh(a=90, b=10, c=0))
    seen = [(await stage.ask())[1][0] for _ in range(600)]
    # Five standard deviations of a fair choice: sqrt(600 * 0.1 * 0.9) is 7.3.
    assert 23 < seen.count("b") < 97
    assert seen.count("a") + seen.count("b") == 600


async def test_who_can_not_be_reached_costs_its_share_alone(stage: Stage):
    await stage.serve("a")
    gone = await stage.serve("gone")
    stage.point("empty")
    rules = [weigh(a=1), make_rule("missing", x="missing"), make_rule("empty", x="empty")]
    rules += [make_rule("gone", x="gone"), {**weigh(a=0), **_match("zero")}, _match("none")]
    stage.route(*rules)
    assert (await stage.ask(x="gone"))[0] == 200
    gone.close()
    expected = {"missing": 500, "empty": 503, "zero": 500, "none": 500, "other": 200}
    assert {name: (await stage.ask(x=name))[0] for name in expected} == expected
    stage.point("gone", _free_port())
    assert (await stage.ask(x="gone"))[0] == 503


def _match(value: str) -> dict[str, object]:
    return {"matches": [{"headers": [{"name": "x", "value": value}]}]}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_no_route_is_404_and_too_late_is_504(stage: Stage):
    await stage.serve("a")
    assert (await stage.ask())[0] == 404
    stage.route({**weigh(a=1), "timeouts": {"request": "50ms"}})
    assert (await stage.ask())[0] == 200
    assert (await stage.ask(hold="1"))[0] == 504
    stage.held.set()


async def test_a_copy_goes_to_the_mirror_and_nobody_waits_for_it(stage: Stage):
    await stage.serve("a")
    await stage.serve("m")
    mirror = {"backendRef": {"name": "m", "port": 80}, "percent": 100}
    stage.route({**weigh(a=1), "filters": [{"type": "RequestMirror", "requestMirror": mirror}]})
    assert (await stage.ask())[1] == "a:body"
    async with asyncio.timeout(10):
        bodies = [await (await stage.seen.get()).read() for _ in range(2)]
    assert bodies == [b"body", b"body"]


async def test_a_request_goes_on_where_it_began(stage: Stage):
    await stage.serve("a")
    await stage.serve("b")
    stage.route(weigh(a=1))
    under_way = asyncio.create_task(stage.ask(hold="1"))
    async with asyncio.timeout(10):
        await stage.seen.get()
    stage.route(weigh(a=0, b=1))
    assert (await stage.ask())[1] == "b:body"
    stage.held.set()
    assert (await under_way)[1] == "a:body"
