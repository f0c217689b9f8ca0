"""The servers of simulated pods: one listener answers for every address that kwok gave to a pod.

A pod answers as the model server in it would, from its labels, environment and instructions
(``stages``), and counts with the model server's own counters.  No model runs: every input gets the
same label.  A pod whose containers do not run, or that is gone, resets connections.  Which pods
there are and what state they are in, kwok says.
"""

import asyncio
import contextlib
import ipaddress
import json
import random
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sluice_inference.http.patience import read_patience
from sluice_inference.samples import Samples, choose_outcome
from testbed import netns, stages
from testbed.watching import Obj

PORT = 8080
MAX_LATENCY_MS = 600_000.0
_INFERENCE = ("/embed", "/classify", "/predict")
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SIMULATED = ipaddress.ip_network(netns.SIMULATED_POD_CIDR)
_LINGER_NOT = struct.pack("ii", 1, 0)


class PodServer:
    """The process in one pod's server container, from its start to its end."""

    def __init__(self, pod: Obj) -> None:
        self.uid = str(pod["metadata"]["uid"])
        self.doors: set[Door] = set()
        self.in_flight = 0
        self._samples = Samples()
        self._began = time.monotonic()
        self.update(pod)

    def update(self, pod: Obj) -> None:
        """Take what the pod says now."""
        labels = pod["metadata"].get("labels") or {}
        self._values = stages.read_environment(pod)
        self._values.setdefault("SLUICE_SERVICE", labels.get("sluice.dev/service", ""))
        self._values.setdefault("SLUICE_REVISION", labels.get("sluice.dev/revision", ""))
        self._values.setdefault("MODEL_NAME", labels.get("sluice.dev/model", ""))
        self._values.setdefault("MODEL_VERSION", labels.get("sluice.dev/version", ""))
        self.state = _state_of(pod)
        self._problem, self._error_percent, self._latency_ms = "", 0.0, 0.0
        said = stages.read_instructions(pod)
        try:
            self._error_percent = _read_number(said, "error-percent", 100)
            self._latency_ms = _read_number(said, "latency-ms", MAX_LATENCY_MS)
        except ValueError as error:
            self._problem = str(error)

    def end(self) -> None:
        """Reset every connection, as the kernel does for a process that is killed."""
        for door in list(self.doors):
            door.slam()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request, with the stamps of the model server."""
        is_inference = request.path in _INFERENCE
        began = time.perf_counter()
        self.in_flight += is_inference
        try:
            response = await self._choose(request)
        finally:
            self.in_flight -= is_inference
        if is_inference and request.headers.get("sluice-shadow") != "true":
            outcome = choose_outcome(response.status, is_fallback=False, is_partial=False)
            is_split = request.headers.get("sluice-split") == "1"
            self._samples.count(outcome, time.perf_counter() - began, is_split=is_split)
        if revision := self._of("SLUICE_REVISION"):
            response.headers["sluice-revision"] = revision
        if model := self._of("MODEL_NAME"):
            response.headers["sluice-model"] = f"{model}/{self._of('MODEL_VERSION')}"
        response.headers["x-request-id"] = _id_of(request)
        if self.state == "draining":
            response.force_close()
        return response

    async def _choose(self, request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/health":
                return _json({"status": "ok"})
            case "/ready" if self.state == "ready":
                return _json({"status": "ready"})
            case "/ready":
                return _json({"status": "not ready", "state": self.state}, 503)
            case "/status":
                return _json(self._describe())
            case "/metrics" | "/metrics/rollout":
                return web.Response(body=self._samples.render(), headers={"content-type": _TEXT})
            case path if path in _INFERENCE:
                return await self._infer(request)
        return _fail(request, 404, "NOT_FOUND", "there is no such route")

    async def _infer(self, request: web.BaseRequest) -> web.Response:
        if request.method != "POST":
            message = f"{request.path} is not asked this way"
            return _fail(request, 405, "METHOD_NOT_ALLOWED", message)
        async for _ in request.content.iter_any():
            pass  # what it is about does not matter
        if self.state == "loading":
            response = _fail(request, 503, "NOT_READY", "the server is loading")
            response.headers["retry-after"] = "1"
            return response
        if self._problem:
            return _fail(request, 500, "INSTRUCTION_INVALID", self._problem)
        seconds = self._latency_ms / 1000
        patience = read_patience(
            (name.encode().lower(), value.encode()) for name, value in request.headers.items()
        )
        if patience is not None and seconds > patience:
            await asyncio.sleep(patience)
            return _fail(request, 504, "TIMEOUT", f"no answer within {patience:.3g} s")
        if seconds:
            await asyncio.sleep(seconds)
        if random.random() * 100 < self._error_percent:  # noqa: S311 - a share, no secret
            return _fail(request, 500, "MODEL_FAILED", "told to fail by error-percent")
        body: dict[str, Any] = {
            "model": self._of("MODEL_NAME"),
            "version": self._of("MODEL_VERSION"),
        }
        headers = {}
        if request.path != "/classify" and (space := self._of("EMBEDDING_SPACE")):
            dimension = int(self._of("EMBEDDING_DIMENSION") or 1)
            vector = [1.0, *[0.0] * (dimension - 1)]
            body |= {"space": space, "dimension": dimension, "embeddings": [vector]}
            headers["sluice-embedding-space"] = space
        if request.path != "/embed":
            best = {"label": "simulated", "score": 1.0}
            body["predictions"] = [{**best, "top": [best]}]
        response = _json(body)
        response.headers.update(headers)
        return response

    def _of(self, variable: str) -> str:
        return self._values.get(variable, "")

    def _describe(self) -> dict[str, Any]:
        space = self._of("EMBEDDING_SPACE")
        dimension = int(self._of("EMBEDDING_DIMENSION") or 1)
        return {
            "state": self.state,
            "backend": "simulated",
            "model": self._of("MODEL_NAME"),
            "version": self._of("MODEL_VERSION"),
            "digest": self._of("MODEL_DIGEST"),
            "service": self._of("SLUICE_SERVICE"),
            "revision": self._of("SLUICE_REVISION"),
            "role": self._of("SLUICE_ROLE"),
            "tasks": [each for each in self._of("MODEL_TASKS").split(",") if each],
            "embedding": {"space": space, "dimension": dimension} if space else {},
            "in_flight": self.in_flight,
            "uptime_seconds": round(time.monotonic() - self._began, 1),
        }


class PodServers:
    """All of them, by address."""

    def __init__(self) -> None:
        self._by_address: dict[str, PodServer] = {}
        self._address_of: dict[str, str] = {}
        self._key_at: dict[str, str] = {}

    def take(self, key: str, pod: Obj | None) -> None:
        """The pod ``key`` is now so; None where it is gone."""
        address = "" if pod is None else _address_of(pod)
        before = self._address_of.get(key, "")
        server = self._by_address.get(before)
        if server is not None and (
            pod is None or address != before or server.uid != pod["metadata"]["uid"]
        ):
            del self._by_address[before], self._address_of[key], self._key_at[before]
            server.end()
            server = None
        if pod is None or not address:
            return
        if server is not None:
            server.update(pod)
            return
        # An address is given again as soon as it is free, maybe before its last pod's end is heard of.
        if (last := self._key_at.get(address)) is not None:
            self.take(last, None)
        self._by_address[address] = PodServer(pod)
        self._address_of[key], self._key_at[address] = address, key

    def find(self, address: str) -> PodServer | None:
        """Who answers at ``address``."""
        return self._by_address.get(address)

    async def listen(self, host: str = "0.0.0.0", port: int = PORT) -> asyncio.Server:  # noqa: S104
        """Answer for all of them on ``port`` of every address of the namespace."""
        loop = asyncio.get_running_loop()
        manager = web.Server(_answer)
        return await loop.create_server(
            lambda: Door(self, manager, loop=loop, access_log=None), host, port, backlog=4096
        )


class Door(web.RequestHandler):
    """One connection: whom it leads to is decided by the address that was called."""

    def __init__(self, servers: PodServers, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._servers = servers
        self.server: PodServer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lead to the pod's server, or reset where there is none."""
        super().connection_made(transport)
        self.server = self._servers.find(transport.get_extra_info("sockname")[0])
        if self.server is None:
            self.slam()
        else:
            self.server.doors.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self.server is not None:
            self.server.doors.discard(self)
        super().connection_lost(exc)

    def slam(self) -> None:
        """Reset the connection."""
        transport = self.transport
        if transport is not None:
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT
                )
            transport.abort()


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    door = request.protocol
    assert isinstance(door, Door)  # noqa: S101 - made above, tells mypy
    assert door.server is not None  # noqa: S101 - no other connection is read from
    return await door.server.answer(request)


def _address_of(pod: Obj) -> str:
    """Where the pod's server listens; empty where its containers do not run."""
    status = pod.get("status", {})
    running = any(
        "running" in each.get("state", {}) for each in status.get("containerStatuses", [])
    )
    address = str(status.get("podIP", ""))
    if status.get("phase") != "Running" or not running or not address:
        return ""
    return address if ipaddress.ip_address(address) in _SIMULATED else ""


def _state_of(pod: Obj) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "draining"
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return "ready" if conditions.get("Ready") == "True" else "loading"


def _read_number(said: Mapping[str, str], key: str, highest: float) -> float:
    text = said.get(key, "0")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= highest:
        variable = stages.variable_of(key)
        raise ValueError(f"{variable} is {text!r}; allowed is a number from 0 to {highest:g}")
    return number


def _id_of(request: web.BaseRequest) -> str:
    return request.headers.get("x-request-id") or f"{random.getrandbits(128):032x}"


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(body, separators=(",", ":")).encode(),
        headers={"content-type": "application/json"},
    )


def _fail(request: web.BaseRequest, status: int, code: str, message: str) -> web.Response:
    detail = {"code": code, "message": message, "request_id": _id_of(request)}
    return _json({"error": detail}, status)
