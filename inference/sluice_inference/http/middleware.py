"""The envelope around every request: id, stamps, limits over all requests, errors, metrics, access log.

Plain ASGI, one layer, because it is on the hot path. Decides nothing about models.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from sluice_inference.errors import RequestError
from sluice_inference.guarding.cors import Cors
from sluice_inference.guarding.denial import DeniedError
from sluice_inference.guarding.guard import Caller, Guard
from sluice_inference.guarding.strict import make_headers, simplify
from sluice_inference.http.catalogue import Catalogue, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.patience import read_patience
from sluice_inference.lifecycle import State
from sluice_inference.logs import log
from sluice_inference.samples import choose_outcome
from sluice_inference.tracing import Visit
from sluice_inference.trail import Trail

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_DISCARD_S = 2.0
_MOST_AHEAD = 1 << 20  # bytes of a body that are reserved before they came
_CLIENT_LEFT = 499
_FALLBACK = "fallback"  # a SLUICE_ROLE
_SHADOW = (b"sluice-shadow", b"true")  # asked by the comparer, on nobody's behalf
_SPLIT = (b"sluice-split", b"1")  # the gateway chose between two revisions by their weights


class Envelope:
    """Wraps the routes."""

    def __init__(self, catalogue: Catalogue, context: Context, guard: Guard) -> None:
        self._catalogue = catalogue
        self._context = context
        self.guard = guard
        settings = context.settings
        self.cors = Cors(origins) if (origins := settings.guard.cors_origins) else None
        self.is_strict = settings.guard.strict
        stamps = {"sluice-revision": settings.revision, "sluice-model": settings.model.title}
        self._stamps = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in stamps.items()
            if value
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def context(self) -> Context:
        return self._context

    @property
    def stamps(self) -> list[tuple[bytes, bytes]]:
        return self._stamps


class _Exchange:
    """One request and its answer."""

    def __init__(self, envelope: Envelope, scope: Scope, receive: Receive, send: Send) -> None:
        self._envelope = envelope
        self._context = envelope.context
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body_read = False
        self._whole: float | None = None  # when it was
        self._patience_s = scope["patience_s"] = read_patience(scope["headers"])
        self._received = 0
        self._held = 0
        self._status = 0
        self._match = scope["match"] = envelope.catalogue.find(scope["path"])
        self._caller = Caller()
        self._is_counted = False
        self._is_working = False
        self._is_denied = False
        entry = self._match.entry
        self._is_client = entry is None or entry.is_for_clients
        is_inference = entry is not None and entry.purpose is Purpose.INFERENCE
        self._is_sample = is_inference and _SHADOW not in scope["headers"]
        self._route = entry.path if entry else "other"
        self._id = scope["request_id"] = _read_request_id(scope)
        self._arrived = time.monotonic()
        self._started = time.perf_counter()
        self._seconds: float | None = None  # until the answer was made

    async def run(self) -> None:
        traffic = self._context.traffic
        try:
            problem = await self._answer()
            if problem is not None:
                await self._fail(problem)
        finally:
            seconds = self._finish_work()
            if self._is_counted:
                traffic.in_flight -= 1
            if self._is_client:
                traffic.last = time.monotonic()
            self._record(seconds)

    async def _answer(self) -> RequestError | None:
        """Answer, or return what the client is to be told instead."""
        try:
            if self._envelope.cors is not None:
                preflight = self._envelope.cors.make_preflight(self._scope)
                if preflight is not None:
                    self._is_sample = False  # no model was asked
                    await self._send_empty(preflight)
                    return None
            await self._enter()
            await self._envelope.catalogue(self._scope, self.receive, self.send)
        except RequestError as problem:
            self._is_denied = isinstance(problem, DeniedError)
            # Its frames hold the body, which would stay for as long as the client takes to read.
            problem.__traceback__ = problem.__cause__ = problem.__context__ = None
            return problem
        except HTTPException as error:  # of the library that reads requests
            return RequestError(error.status_code, "BODY_INVALID", "the request can't be read")
        except ClientDisconnect:
            self._status = _CLIENT_LEFT  # nobody is there to be answered; the count is kept
        except asyncio.CancelledError:  # the time to drain is over
            if not self._status:
                await self._fail(
                    RequestError(
                        503, "STOPPING", "this server is going away; try again", retry_after_s=1
                    )
                )
            raise
        except Exception:
            log("error", "request failed", exc_info=True, request_id=self._id, route=self._route)
            if self._status:
                raise
            return RequestError(500, "INTERNAL", "the server failed; see its log")
        return None

    async def _enter(self) -> None:
        """Past the guard and the limits over all requests. Raises RequestError: 401, 403, 429, 503.

        Who is denied takes no place from others: it is counted as under way only when let in.
        """
        limits, traffic = self._context.settings.limits, self._context.traffic
        if not self._envelope.guard.is_open:
            self._caller = await self._envelope.guard.admit(self._scope)
        if not self._is_client:
            return
        traffic.in_flight += 1
        traffic.working += 1
        self._is_counted = self._is_working = True
        if traffic.working > limits.max_concurrent_requests:
            raise self._turn_away(
                "concurrency",
                f"{limits.max_concurrent_requests} requests are under way "
                "(MAX_CONCURRENT_REQUESTS)",
            )
        declared = _read_length(self._scope)
        if declared <= limits.max_body_bytes:  # longer ones become a 413
            # No more than this ahead: what is only declared must not keep out what really comes.
            self._hold(min(declared, _MOST_AHEAD))

    def _leave(self) -> None:
        """Keep nobody away any longer. A drain still waits for this request."""
        if self._is_working:
            self._is_working = False
            self._context.traffic.working -= 1

    def _finish_work(self) -> float:
        """The answer is made, or there is none; returns how many seconds that took.

        How long its client takes to read is not counted, nor may it hold what others need: a client that
        never reads would hold it for ever.
        """
        self._leave()
        self._context.budget.give_back(self._held)
        self._held = 0
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._started
        return self._seconds

    async def receive(self) -> MutableMapping[str, Any]:
        """The next message, for the routes: they keep what they get, so it is counted."""
        message = await self._pull()
        self._received += len(message.get("body", b""))
        self._hold(self._received)
        return message

    async def _pull(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            # Whoever runs out of time must know whose fault it was (`asking.py`).
            self._body_read = self._scope["is_body_read"] = True
            if message["type"] != "http.disconnect":
                self._whole = time.monotonic()
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            given = {name for name, _ in headers}
            headers += [stamp for stamp in self._envelope.stamps if stamp[0] not in given]
            headers.append((b"x-request-id", self._id.encode()))
            if self._match.entry is not None:
                headers += self._match.entry.headers
            headers += self._describe_trail()
            if self._envelope.cors is not None:
                headers += self._envelope.cors.make_headers(self._scope)
            if self._envelope.is_strict:
                headers += make_headers(given, self._scope.get("scheme", ""))
            if self._context.lifecycle.state is State.DRAINING:
                # Tells keep-alive clients to come back on another connection, to another pod.
                headers.append((b"connection", b"close"))
            if not self._body_read:
                await self._discard()
            self._finish_work()
            message = {**message, "headers": headers}
        await self._send(message)

    def _describe_trail(self) -> list[tuple[bytes, bytes]]:
        """What an answer of inference says of its way: sluice-cache, Server-Timing."""
        trail: Trail | None = self._scope.get("trail")
        if trail is None:
            return []
        trail.end()
        headers = []
        if said := trail.describe_cache():
            headers.append((b"sluice-cache", said.encode()))
        settings = self._context.settings
        if settings.monitoring.is_enabled and not settings.guard.strict:
            headers.append((b"server-timing", trail.describe_times().encode()))
        return headers

    def _hold(self, total: int) -> None:
        """Take room for a body of `total` bytes. Raises RequestError 503 where there is none."""
        budget = self._context.budget
        if total > self._held:
            if not budget.take(total - self._held, self._held):
                raise self._turn_away(
                    "body_bytes",
                    f"the bodies under way have {budget.limit} bytes (MAX_BODY_MB_IN_FLIGHT)",
                )
            self._held = total

    def _turn_away(self, reason: str, why: str) -> RequestError:
        self._context.metrics.rejected_total.labels(reason).inc()
        self._leave()  # while the rest of its body is read, it must not keep others away
        wait_s = self._context.engine.estimate_wait_s()
        message = f"{why}; try again after Retry-After"
        return RequestError(503, "OVERLOADED", message, retry_after_s=wait_s)

    async def _send_empty(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    async def _fail(self, problem: RequestError) -> None:
        if self._envelope.is_strict:
            problem = simplify(problem)
        body = self._match.dialect.make_error(problem, self._id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if problem.retry_after_s is not None:
            headers.append((b"retry-after", str(problem.retry_after_s).encode()))
        headers += [(name.encode(), value.encode()) for name, value in problem.headers]
        await self.send(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        await self.send({"type": "http.response.body", "body": body})

    async def _discard(self) -> None:
        """Read on for a while before answering early.

        To close on unread bytes resets the connection, and the client would not see the answer.
        """
        left = 2 * self._context.settings.limits.max_body_bytes
        try:
            async with asyncio.timeout(_DISCARD_S):
                while not self._body_read and left > 0:
                    left -= len((await self._pull()).get("body", b""))
        except TimeoutError:
            return

    def _was_given_up(self) -> bool:
        """Whether who left had waited as long as a gateway waits: its client got an error.

        A request may have lain unread before, for as long as the loop was late.
        """
        if self._patience_s is None or self._whole is None:
            return False
        waited_s = time.monotonic() - self._whole + self._context.lag.recent_s
        return waited_s >= self._patience_s

    def _record(self, seconds: float) -> None:
        metrics, settings = self._context.metrics, self._context.settings
        metrics.requests_total.labels(self._route, settings.model.title, str(self._status)).inc()
        metrics.request_duration_seconds.labels(self._route, settings.model.title).observe(seconds)
        was_given_up = self._status == _CLIENT_LEFT and self._was_given_up()
        if self._is_sample and (self._status != _CLIENT_LEFT or was_given_up):
            outcome = choose_outcome(
                0 if was_given_up else self._status,
                is_fallback=settings.role == _FALLBACK or self._scope.get("is_fallback", False),
                is_partial=self._scope.get("is_partial", False),
            )
            is_split = _SPLIT in self._scope["headers"]
            self._context.samples.count(outcome, seconds, is_split=is_split)
        if self._context.tracer is not None and self._is_client:
            self._context.tracer.record(
                Visit(
                    self._route,
                    self._scope["method"],
                    self._status,
                    self._id,
                    self._scope["headers"],
                    self._scope.get("trail") or Trail(),
                    self._arrived,
                    time.monotonic(),
                )
            )
        slow = self._is_client and seconds * 1000 > settings.slow_request_ms
        # The guard writes of those it denies, and no more of them than a log can bear.
        notable = self._is_client and (self._status >= 400 or slow) and not self._is_denied
        who: dict[str, Any] = {"client": self._caller.name} if self._caller.name else {}
        log(
            "warning" if notable else "debug",
            "request",
            route=self._route,
            status=self._status,
            ms=round(seconds * 1000, 1),
            request_id=self._id,
            **who,
        )


def _read_request_id(scope: Scope) -> str:
    """The client's id, if it is a harmless one, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return f"{random.getrandbits(128):032x}"


def _read_length(scope: Scope) -> int:
    """The Content-Length, or 0 where there is none."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and len(value) <= 20:
            return int(value)
    return 0
