"""The listening socket and the HTTP server on it, for every mode that serves.

Knows uvicorn, and nothing of routes, models or when to stop: who runs a server decides that.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 4096
# What a request may have beside its body: line, headers, trailers.
MAX_HEAD_BYTES = 64 * 1024
# A client that takes nothing of its answer for so long is given up. Else the answer would be kept for as
# long as it likes, and the end of the process would wait for it.
UNREAD_MS = 10_000

Headers = Sequence[tuple[bytes, bytes]]


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling: signals start a drain here, not a shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_http_server(
    app: ASGIApp,
    *,
    keep_alive_s: int,
    stamps: Headers = (),
    tls: ssl.SSLContext | None = None,
) -> HttpServer:
    """The HTTP server for an application that puts `stamps` on its own answers; with `tls`, over TLS.

    What can't be parsed never reaches the application; that answer is stamped here.
    """

    class Protocol(H11Protocol):
        def send_400_response(self, msg: str) -> None:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            start = h11.Response(
                status_code=400, headers=[*headers, *stamps], reason=b"Bad Request"
            )
            for event in (start, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    config = uvicorn.Config(
        app,
        # httptools would take a third to a half less time for a bare request. But it drops the body of
        # a request that offers an upgrade to HTTP/2, as some clients' first one does, and holds headers
        # and trailers of any length.
        http=Protocol,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whose word counts for the client's address is for the guard to decide.
        proxy_headers=False,
        ssl_context_factory=(lambda *_: tls) if tls is not None else None,
        backlog=BACKLOG,
        timeout_keep_alive=keep_alive_s,
    )
    return HttpServer(config)


def make_listener(host: str, port: int) -> socket.socket:
    """A listening socket; without a host, on every address of both IP families.

    Accepted connections inherit TCP_NODELAY, so that small answers are not held back.
    """
    if not host and socket.has_dualstack_ipv6():
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
        )
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections have both from their listener.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    listener.setblocking(False)
    return listener
