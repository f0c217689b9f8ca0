"""Pods that answer, and pods that do anything else, over real sockets."""

import asyncio
import socket
import zlib
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from sluice.analysis.exposition import MAX_BYTES, ScrapeError
from sluice.analysis.pods import CONCURRENCY, PATH, scrape_pods
from tests.unit.analysis.conftest import Handler, Serve
from tests.unit.analysis.scrapes import Process

PROCESS = Process().answer("ok", 5).answer("error", 2, 9.0)
GENEROUS = 30.0  # seconds, for what answers at once


async def answer_well(request: web.Request) -> web.StreamResponse:
    return web.Response(text=PROCESS.write() if request.path == PATH else "")


async def test_pods_that_answer(session: aiohttp.ClientSession, serve: Serve) -> None:
    port = await serve(answer_well)

    found = await scrape_pods(
        session, {f"pod-{n}": ("127.0.0.1", port) for n in range(100)}, GENEROUS
    )

    assert list(found) == [f"pod-{n}" for n in range(100)]
    assert all(scrape == PROCESS.scrape() for scrape in found.values())
    assert await scrape_pods(session, {}) == {}


async def redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere")


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text=PROCESS.write())


async def send_nonsense(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html></html>\n")


async def send_bytes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\xff\xfe\n")


async def send_a_bomb(request: web.Request) -> web.StreamResponse:
    """Few bytes that unpack to many."""
    body = zlib.compress(b"#" * (50 * MAX_BYTES))
    return web.Response(body=body, headers={"Content-Encoding": "deflate"})


async def send_for_ever(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"#" * 65536 + b"\n")


async def cut_off(request: web.Request) -> web.StreamResponse:
    """Says how long it is, and hangs up before that."""
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(PROCESS.write().encode())
    assert request.transport is not None
    request.transport.close()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("handler", "reason", "message"),
    [
        (redirect, "BadStatus", "answered 302, not 200"),
        (refuse, "BadStatus", "answered 503, not 200"),
        (send_nonsense, "Malformed", "line 1 is no sample"),
        (send_bytes, "Malformed", "no ASCII text"),
        (send_a_bomb, "Malformed", "compressed"),
        (send_for_ever, "TooLarge", "262144 bytes"),
        (cut_off, "Unreachable", "127.0.0.1"),
    ],
)
async def test_a_pod_that_fails_costs_the_others_nothing(
    session: aiohttp.ClientSession, serve: Serve, handler: Handler, reason: str, message: str
) -> None:
    good, bad = await serve(answer_well), await serve(handler)

    found = await scrape_pods(
        session, {"bad": ("127.0.0.1", bad), "good": ("127.0.0.1", good)}, GENEROUS
    )

    assert found["good"] == PROCESS.scrape()
    error = found["bad"]
    assert isinstance(error, ScrapeError)
    assert error.reason == reason
    assert message in error.message


async def test_a_pod_that_hangs(session: aiohttp.ClientSession, serve: Serve) -> None:
    port = await serve(hang)

    found = await scrape_pods(session, {"pod": ("127.0.0.1", port)}, timeout=0.05)

    error = found["pod"]
    assert isinstance(error, ScrapeError)
    assert (error.reason, error.message) == (
        "Timeout",
        f"127.0.0.1:{port} gave no answer within 0.05 s",
    )


async def test_nobody_listens(session: aiohttp.ClientSession) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        found = await scrape_pods(session, {"pod": taken.getsockname()}, GENEROUS)

    error = found["pod"]
    assert isinstance(error, ScrapeError)
    assert error.reason == "Unreachable"


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1/x?", "10.0.0.1:80@host"])
async def test_only_ip_addresses_are_asked(session: aiohttp.ClientSession, address: str) -> None:
    found = await scrape_pods(session, {"pod": (address, 8080)}, GENEROUS)

    error = found["pod"]
    assert isinstance(error, ScrapeError)
    assert error.message.endswith("is no IP address")


async def test_no_more_than_a_few_at_once(session: aiohttp.ClientSession, serve: Serve) -> None:
    """The first CONCURRENCY wait for each other; one more beside them would be seen."""
    at_once = most = 0
    full = asyncio.Event()

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == CONCURRENCY:
            full.set()
        await full.wait()
        at_once -= 1
        return await answer_well(request)

    port = await serve(count)
    targets = {f"pod-{n}": ("127.0.0.1", port) for n in range(3 * CONCURRENCY)}
    found = await scrape_pods(session, targets, GENEROUS)

    assert most == CONCURRENCY
    assert all(scrape == PROCESS.scrape() for scrape in found.values())


async def test_an_ipv6_address_is_put_in_brackets() -> None:
    """Not every machine has ::1, so what is asked for is looked at."""
    asked: list[str] = []

    class Session:
        def get(self, url: str, **_: object) -> object:
            asked.append(url)
            raise aiohttp.ClientConnectionError("no route")

    find: Callable[..., Awaitable[object]] = scrape_pods
    await find(Session(), {"pod": ("fd00::1", 8080)})

    assert asked == [f"http://[fd00::1]:8080{PATH}"]
