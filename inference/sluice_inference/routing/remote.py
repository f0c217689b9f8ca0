"""A fallback behind an address: another server of ours, asked in our own JSON.

Knows what that server says of itself (its /status), and asks it only for what it serves. Every
request is marked, so that it does not ask a fallback in turn. Nothing is tried twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import httpx
import msgspec

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.errors import RequestError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Job, ModelName, Reply
from sluice_inference.routing.dialect import (
    FALLBACK_HEADER,
    TASKS,
    RemoteName,
    RemoteStatus,
    read_refusal,
    read_reply,
    read_status,
    write_request,
)

_WATCH_S = 5.0
_LONGEST_S = 600.0
_STATUS_TIMEOUT_S = 2.0
_MISSES = 3  # so many looks in a row without a word, and it counts as lost
_MAX_CONNECTIONS = 64
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_LARGE = 1 << 20

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class RemoteModel:
    """Another server as a member. `watch` must run for it to be known."""

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        key_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._metrics = metrics
        self._key_file = key_file
        self.on_change: Callable[[], None] = lambda: None
        self._headers: dict[str, str] = {FALLBACK_HEADER: "true"}
        self._name: RemoteName | None = None
        self._facts: ModelFacts | None = None
        self._misses = 0
        self._is_reached = False
        # No proxies, redirects or cookies. Idle connections are closed long before the other server
        # would, so that none is closed with a request on its way.
        self._client = httpx.AsyncClient(
            base_url=url,
            transport=transport
            or httpx.AsyncHTTPTransport(
                trust_env=False,
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=5.0),
            ),
            timeout=_LONGEST_S,  # a job's own deadline ends it long before
            trust_env=False,
        )

    @property
    def name(self) -> ModelName | None:
        return self._name

    @property
    def facts(self) -> ModelFacts | None:
        return self._facts

    def is_up(self) -> bool:
        """Is it known, and was it heard of lately? Whether it answers shows when it is asked."""
        return self._facts is not None and self._misses < _MISSES

    async def watch(self) -> None:
        """Look at the other server's /status now and then, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_WATCH_S)

    async def look(self) -> None:
        """Read what the other server says of itself; what was known stays when it can't be read.

        Nothing is changed before there is an answer: others read the state meanwhile.
        """
        was_up = self.is_up()
        try:
            status = await self._read_status()
        except (httpx.HTTPError, TimeoutError, OSError, ValueError, msgspec.DecodeError) as error:
            status = None
            if self._is_reached or self._facts is None:
                log(
                    "warning",
                    "no word from the fallback",
                    url=self._url,
                    error=type(error).__name__,
                )
        self._is_reached = status is not None
        if status is None:
            self._misses += 1
            if was_up and not self.is_up():
                log("error", "the fallback is lost", url=self._url, looks=self._misses)
                self.on_change()
            return
        self._misses, before = 0, self._facts
        self._name, self._facts = status.name, _make_facts(status)
        if before != self._facts or not was_up:
            log("info", "the fallback is known", url=self._url, model=status.name.title)
            self.on_change()

    async def answer(self, job: Job) -> Reply:
        """Raises RequestError: 503 where the other server has no answer, whatever the cause."""
        name, facts = self._name, self._facts
        if name is None or facts is None:
            raise _make_silence()
        size = sum(len(one) for one in job.inputs if isinstance(one, bytes))
        path, body = await _work(size, write_request, job)
        try:
            async with asyncio.timeout_at(job.deadline):
                status, answer = await self._post(path, body)
        except (httpx.HTTPError, TimeoutError) as error:
            log("debug", "the fallback did not answer", url=self._url, error=type(error).__name__)
            raise _make_silence() from None
        try:
            if status == 200:
                reply = await _work(len(answer), read_reply, answer, job, facts)
            else:
                reply = Reply(read_refusal(status, answer, len(job.inputs)), name, facts)
        except (msgspec.DecodeError, ValueError) as error:
            log("error", "the fallback's answer can't be read", url=self._url, error=str(error))
            raise _make_silence() from None
        self._metrics.routed_total.labels(reply.model.title).inc()
        return reply

    async def close(self) -> None:
        await self._client.aclose()

    def describe(self) -> Mapping[str, Any]:
        name, facts = self._name, self._facts
        return {
            "model": name.name if name else "",
            "version": name.version if name else "",
            "url": self._url,
            "state": "reached" if self._is_reached else "unreachable",
            "tasks": list(facts.tasks) if facts else [],
        }

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {**self._headers, "content-type": "application/json"}
        async with self._client.stream("POST", path, content=body, headers=headers) as response:
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > _MAX_ANSWER_BYTES:
                    raise _make_silence()
                pieces.append(piece)
            return response.status_code, b"".join(pieces)

    async def _read_status(self) -> RemoteStatus | None:
        """None where no model answers there."""
        await self._read_key()
        async with asyncio.timeout(_STATUS_TIMEOUT_S):
            response = await self._client.get("/status", headers=self._headers)
        return read_status(response.content) if response.status_code == 200 else None

    async def _read_key(self) -> None:
        """Take the key anew each time: it is rotated without a restart."""
        if self._key_file is not None:
            key = (await asyncio.to_thread(self._key_file.read_text)).strip()
            self._headers = {FALLBACK_HEADER: "true", "authorization": f"Bearer {key}"}


def _make_silence() -> RequestError:
    return RequestError(503, "FALLBACK_SILENT", "the fallback has no answer", retry_after_s=1)


def _make_facts(status: RemoteStatus) -> ModelFacts:
    return ModelFacts(
        backend="remote",
        device=status.device,
        architecture=status.architecture,
        tasks=tuple(task for task in status.tasks if task in TASKS),
        labels=(),  # each answer brings its own
        space=status.space,
        dimension=status.dimension,
        image=ImagePlan.square(1),  # pictures are sent as they came: nothing is decoded for it
    )


async def _work(
    size: int,
    do: Callable[_Arguments, _Result],
    *given: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Large bodies take many milliseconds, in which no other request would be answered."""
    if size <= _LARGE:
        return do(*given, **named)
    return await asyncio.to_thread(do, *given, **named)
