"""Asking one track: the mirrored request again, marked as shadow, to one revision's Service."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx

from sluice_inference.compare.answer import TrackAnswer, read_answer
from sluice_inference.compare.counts import Counts
from sluice_inference.logs import log

Headers = tuple[tuple[bytes, bytes], ...]

SHADOW = (b"sluice-shadow", b"true")
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_LARGE_ANSWER = 1 << 20
# What belongs to one connection or one hop (RFC 9110, 7.6.1), or says where the request was to go, or how
# that was decided.
_DROPPED = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"sluice-pin",
        b"sluice-shadow",
        b"sluice-split",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A client's request as the gateway mirrored it. `target` is path and query, as they came."""

    method: str
    target: bytes
    headers: Headers
    body: bytes


class Track:
    """Stable or candidate, as a place to ask."""

    def __init__(self, name: str, url: str, timeout_s: float, counts: Counts, most: int) -> None:
        self._name = name
        self._url = httpx.URL(url)
        self._timeout_s = timeout_s
        self._counts = counts
        # The transport alone: no cookies, redirects, proxies or headers that the client did not send.
        # Idle connections are closed long before the server would, so that none is closed with a
        # request on its way.
        self._transport = httpx.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx.Limits(
                max_connections=most, max_keepalive_connections=most, keepalive_expiry=5.0
            ),
        )

    async def ask(self, mirrored: Mirrored) -> TrackAnswer:
        """The track's answer; status 0 where none came within the timeout."""
        started = time.perf_counter()
        answer = TrackAnswer(0)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._ask(mirrored)
        except (httpx.HTTPError, TimeoutError) as error:
            log("debug", "no answer", track=self._name, error=type(error).__name__)
        self._counts.count_ask(self._name, answer.status, time.perf_counter() - started)
        return answer

    async def close(self) -> None:
        await self._transport.aclose()

    async def _ask(self, mirrored: Mirrored) -> TrackAnswer:
        request = httpx.Request(
            mirrored.method,
            self._url.copy_with(raw_path=mirrored.target),
            headers=[*_keep_headers(mirrored.headers), SHADOW, (b"accept-encoding", b"identity")],
            content=mirrored.body,
        )
        response = await self._transport.handle_async_request(request)
        pieces, size = [], 0
        try:
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > _MAX_ANSWER_BYTES:
                    log("warning", "an answer is too large to compare", track=self._name)
                    return TrackAnswer(response.status_code)
                pieces.append(piece)
        finally:
            await response.aclose()
        space = response.headers.get("sluice-embedding-space", "")
        body = b"".join(pieces)
        if len(body) <= _LARGE_ANSWER:
            return read_answer(response.status_code, space, body)
        return await asyncio.to_thread(read_answer, response.status_code, space, body)


def _keep_headers(headers: Headers) -> Headers:
    """The headers that are the client's own words."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
    }
    return tuple((name, value) for name, value in headers if name not in _DROPPED | named)
