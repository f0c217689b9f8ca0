"""One HTTP/1.1 connection of a client, as cheap as Python allows.

For load generators: it writes requests that were encoded before, and reads answers that have a
Content-Length. It tries nothing again, follows nothing and forgives nothing: an answer that ends
early is an error.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"


class Answer(NamedTuple):
    """A whole answer. Header names are lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class LostError(ConnectionError):
    """The connection ended before the answer was whole."""


class Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: tuple[int, dict[bytes, bytes], int] | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._began: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1") -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def write(self, data: bytes) -> None:
        """Send bytes of a request whose answer nobody waits for yet."""
        if self._transport is None or not self.is_open:
            raise LostError("the connection is closed")
        self._transport.write(data)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a whole request, or the rest of one; the future is its answer, or LostError."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = future
        try:
            self.write(request)
        except LostError as error:
            future.set_exception(error)
        else:
            if self._buffer:  # an answer that came before the request was whole
                self._parse()
        return future

    async def wait_for_byte(self) -> None:
        """Return when the first byte of an answer is there. Raises LostError."""
        self._began = asyncio.get_running_loop().create_future()
        if not self._buffer:
            await self._began

    def hang_up(self, *, rudely: bool = False) -> None:
        """Close; rudely: without sending what is still to be sent, and with a reset."""
        self.is_open = False
        if self._transport is None:
            return
        if rudely:
            self._transport.abort()
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._began is not None and not self._began.done():
            self._began.set_result(None)
        if self._answer is not None:
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        error = LostError(str(exc) if exc else "closed by the server")
        for future in (self._answer, self._began):
            if future is not None and not future.done():
                future.set_exception(error)

    def _parse(self) -> None:
        future = self._answer
        assert future is not None
        if self._head is None:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            self._head = read_head(bytes(self._buffer[:end]), end + len(_HEAD_END))
        status, headers, start = self._head
        end = start + int(headers.get(b"content-length", b"0"))
        if len(self._buffer) < end:
            return
        answer = Answer(status, headers, bytes(self._buffer[start:end]))
        del self._buffer[:end]
        self._head = self._answer = None
        if headers.get(b"connection", b"").lower() == b"close":
            self.hang_up()
        if not future.done():
            future.set_result(answer)


def read_head(head: bytes, start: int) -> tuple[int, dict[bytes, bytes], int]:
    """Status, headers and where the body starts. Raises ValueError where the length isn't told."""
    first, *lines = head.split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    status = int(first.split(b" ", 2)[1])
    if b"content-length" not in headers and status not in (204, 304):
        raise ValueError("an answer without Content-Length, which this client can't read")
    return status, headers, start


def make_request(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    """A POST as it goes over the wire. Underscores in header names stand for hyphens."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: benchmark",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + body


def make_get(path: str) -> bytes:
    """A GET as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode()
