"""The HTTP server on a real socket: what it takes, what it refuses, and that no client fills its memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sluice_inference import listening
from sluice_inference.listening import MAX_HEAD_BYTES, make_http_server, make_listener

LARGE = bytes(16_000_000)
HOST = b"Host: x\r\n"
LAST = b"Connection: close\r\n"


async def tell_length(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body whole and answers with its length."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = LARGE if scope["path"] == "/large" else b"%s %d;" % (scope["path"].encode(), length)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listen(graceful_s: int = 1) -> AsyncIterator[int]:
    listener = make_listener("127.0.0.1", 0)
    http = make_http_server(tell_length, keep_alive_s=5, stamps=[(b"sluice-revision", b"abc")])
    http.config.timeout_graceful_shutdown = graceful_s
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        http.should_exit = True
        await serving


async def ask_for_large(client: socket.socket, port: int) -> bytes:
    """The first bytes of an answer that is larger than all that the system keeps of it."""
    loop = asyncio.get_running_loop()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\n" + HOST + LAST + b"\r\n")
    return await loop.sock_recv(client, 12)


async def exchange(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            await writer.drain()
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = b"POST /c HTTP/1.1\r\n" + HOST + LAST + b"Transfer-Encoding: chunked\r\n\r\n"
LONG = b"POST /l HTTP/1.1\r\n" + HOST + LAST + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(b"GET /a HTTP/1.1\r\n" + HOST + LAST + b"\r\n", [b"/a 0;"], id="plain"),
        pytest.param(LONG, [b"/l 3000000;"], id="a long body"),
        pytest.param(
            CHUNKED + chunk(b"y" * 1_000_000) + chunk(b"z") + b"0\r\n\r\n",
            [b"/c 1000001;"],
            id="a long body in chunks",
        ),
        pytest.param(
            CHUNKED + chunk(b"x") * 2000 + b"0\r\n\r\n", [b"/c 2000;"], id="in single bytes"
        ),
        pytest.param(
            b"GET /h HTTP/1.1\r\n" + HOST + LAST + b"X-Long: " + b"x" * 60_000 + b"\r\n\r\n",
            [b"/h 0;"],
            id="a long header",
        ),
        pytest.param(
            (b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n") * 200
            + b"GET /2 HTTP/1.1\r\n"
            + HOST
            + LAST
            + b"\r\n",
            [b"/1 0;"] * 200 + [b"/2 0;"],
            id="201 at once",
        ),
        pytest.param(
            b"POST /u HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAA\r\n" + HOST + LAST + b"Content-Length: 2\r\n\r\nhi",
            [b"/u 2;"],
            id="an offer of HTTP/2, as some clients make it",
        ),
    ],
)
async def test_a_proper_request_is_answered(sent: bytes, expected: list[bytes]) -> None:
    async with listen() as port:
        answer = await exchange(port, sent)
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == expected


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", id="a zero in the path"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(CHUNKED + b"zz\r\n", id="a chunk of no length"),
        pytest.param(b"GET /" + b"x" * 400_000, id="an endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 400_000, id="an endless header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 80_000, id="endless headers"),
        pytest.param(CHUNKED + chunk(b"x") + b"0\r\nX: " + b"x" * 400_000, id="an endless trailer"),
    ],
)
async def test_what_is_no_request_is_refused_with_our_stamps(sent: bytes) -> None:
    async with listen() as port:
        answer = await exchange(port, sent)
        assert b"/after 0;" in await exchange(
            port, b"GET /after HTTP/1.1\r\n" + HOST + LAST + b"\r\n"
        )
    # What is still on its way when the connection closes may undo the answer: that is TCP.
    if answer or len(sent) < 1000:
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer[:200]
        assert b"\r\nsluice-revision: abc\r\n" in answer


async def test_a_client_cannot_make_the_server_hold_an_endless_header() -> None:
    piece, most = b"x" * 16_384, 8_000_000
    async with listen() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        try:
            while sent < most and not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
                sent += len(piece)
        except ConnectionError:
            pass
        writer.close()
    assert MAX_HEAD_BYTES <= sent < most


async def test_who_never_reads_its_answer_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "UNREAD_MS", 300)
    with socket.socket() as client:
        async with asyncio.timeout(10), listen(graceful_s=30) as port:
            assert await ask_for_large(client, port) == b"HTTP/1.1 200"


async def test_who_reads_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "UNREAD_MS", 300)
    received = 0
    with socket.socket() as client:
        async with listen() as port:
            await ask_for_large(client, port)
            started = time.monotonic()
            while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                received += len(piece)
                await asyncio.sleep(0.01)  # how long a client reads is what this is about
            took_s = time.monotonic() - started
    assert received > len(LARGE)
    assert took_s > 0.6
