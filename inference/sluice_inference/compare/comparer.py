"""The comparer as an ASGI application: takes mirrored requests, answers at once, compares afterwards.

The gateway drops what a mirror answers, so every mirrored request gets an empty 202, whatever
becomes of it. Bounded in number and bytes: what does not fit is counted as skipped, not queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from sluice_inference.compare.agreement import Outcome, compare_answers
from sluice_inference.compare.body import Body
from sluice_inference.compare.counts import TRACKS, Counts
from sluice_inference.compare.settings import CompareSettings
from sluice_inference.compare.track import Mirrored, Track
from sluice_inference.http.budget import BodyBudget
from sluice_inference.logs import log
from sluice_inference.metrics import CONTENT_TYPE

_JSON = "application/json"


class Comparer:
    """The application. `start_draining` before the end, then `finish`."""

    def __init__(self, settings: CompareSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._budget = BodyBudget(settings.max_body_bytes_in_flight)
        urls = (settings.stable_url, settings.candidate_url)
        self._stable, self._candidate = (
            Track(name, url, settings.timeout_s, counts, settings.max_in_flight)
            for name, url in zip(TRACKS, urls, strict=True)
        )
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        counts.in_flight.set_function(lambda: self._in_flight)
        self._routes: dict[str, Callable[[Send], Awaitable[None]]] = {
            "/health": self._answer_health,
            "/ready": self._answer_ready,
            "/metrics": self._answer_metrics,
            "/metrics/rollout": self._answer_rollout,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        route = self._routes.get(scope["path"])
        if route is not None and scope["method"] == "GET":
            await route(send)
        else:
            await self._mirror(scope, receive, send)

    def start_draining(self) -> None:
        """From now on not ready; what still comes is compared, on connections that close."""
        self._is_draining = True

    async def finish(self, timeout_s: float) -> None:
        """Wait for the comparisons under way; those that take longer are counted as skipped."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._stable.close()
        await self._candidate.close()

    async def _mirror(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one mirrored request, or count why not; either way its answer is 202."""
        settings = self._settings
        reason = "shed" if self._in_flight >= settings.max_in_flight else ""
        if not scope["raw_path"].startswith(b"/"):
            reason = "not_comparable"  # a proxy's request, or OPTIONS *: no path to ask for
        is_taken = not reason
        self._in_flight += is_taken
        body = Body(self._budget, settings.max_body_bytes, reason)
        data = await body.read(receive, settings.timeout_s)
        if body.reason:
            self._in_flight -= is_taken
            self._counts.skip(body.reason)
        else:
            task = asyncio.create_task(self._compare(_make_mirrored(scope, data), body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._send(send, 202)

    async def _compare(self, mirrored: Mirrored, body: Body) -> None:
        """Ask both at once, then count."""
        try:
            stable, candidate = await asyncio.gather(
                self._stable.ask(mirrored), self._candidate.ask(mirrored)
            )
            comparison = compare_answers(stable, candidate, self._settings.min_cosine)
            self._counts.count(comparison)
            if comparison.outcome not in (Outcome.AGREE, Outcome.SKIPPED):
                log(
                    "debug",
                    comparison.outcome,
                    request_id=_read_request_id(mirrored),
                    stable=stable.status,
                    candidate=candidate.status,
                )
        except asyncio.CancelledError:
            self._counts.skip("draining")
        except Exception:
            # The outermost edge of a task nobody waits for: said and counted, not lost.
            log("error", "a comparison failed unexpectedly", exc_info=True)
            self._counts.skip("internal")
        finally:
            body.release()
            self._in_flight -= 1

    async def _answer_health(self, send: Send) -> None:
        await self._send(send, 200, b'{"status":"ok"}', _JSON)

    async def _answer_ready(self, send: Send) -> None:
        if self._is_draining:
            await self._send(send, 503, b'{"status":"not ready","state":"draining"}', _JSON)
        else:
            await self._send(send, 200, b'{"status":"ready"}', _JSON)

    async def _answer_metrics(self, send: Send) -> None:
        await self._send(send, 200, self._counts.render(), CONTENT_TYPE)

    async def _answer_rollout(self, send: Send) -> None:
        await self._send(send, 200, self._counts.render_rollout(), CONTENT_TYPE)

    async def _send(self, send: Send, status: int, body: bytes = b"", kind: str = "") -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        if kind:
            headers.append((b"content-type", kind.encode()))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if self._is_draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _make_mirrored(scope: Scope, body: bytes) -> Mirrored:
    query = scope["query_string"]
    return Mirrored(
        method=scope["method"],
        target=scope["raw_path"] + (b"?" + query if query else b""),
        headers=tuple(scope["headers"]),
        body=body,
    )


def _read_request_id(mirrored: Mirrored) -> str:
    found = dict(mirrored.headers).get(b"x-request-id", b"")
    return found[:128].decode("latin-1")
