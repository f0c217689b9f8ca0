"""The route simulator: the gateway of simulated pods.

It is the controller of GatewayClass ``simulated``: gives each Gateway an address of its own, says
in the status of Gateways and HTTPRoutes what became of them, and forwards requests at that address
to ready endpoints, by host, header and weight, with copies, stamps and timeouts.  It does only what
our own routes use; what it does not do, a route's status says.

The status is written at once and the change has its effect ``lag`` later, as with a real gateway:
whoever believes the status alone is wrong here too.  A Gateway's annotation may say its own lag.
A request goes on where it began.
"""

import asyncio
import contextlib
import ipaddress
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from testbed import routestatus
from testbed.routerules import Backend, Rule
from testbed.routeview import BackendError, View, find_unsupported, read_lag
from testbed.watching import MERGE, Api, Following, Obj, RefusedError

GATEWAY_CLASS = "simulated"
GATEWAY_CIDR = "10.246.0.0/24"
"""Addresses of simulated Gateways; local to loopback, as those of simulated pods."""

_API = "/apis/gateway.networking.k8s.io/v1"
_CLASS_PATH = f"{_API}/gatewayclasses/{GATEWAY_CLASS}"
PATHS = {
    "Gateway": f"{_API}/gateways",
    "HTTPRoute": f"{_API}/httproutes",
    "Service": "/api/v1/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
}
_MAX_BODY = 256 * 2**20
_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "content-length", "proxy-connection"),
    }
)
_HTTP_CONFLICT, _HTTP_NOT_FOUND = 409, 404


class RouteSimulator:
    """All simulated Gateways of an instance."""

    def __init__(self, api: Api, lag: float) -> None:
        self._api = api
        self._lag = lag
        self._now = View(GATEWAY_CLASS)
        self._live = View(GATEWAY_CLASS)
        self._changed = asyncio.Event()
        self._order: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        self._listeners: dict[tuple[str, int], asyncio.Server] = {}
        self._problems: dict[str, str] = {}
        self._forwarder = Forwarder(self._live)

    def followings(self) -> list[Following]:
        """What has to run for this to know anything."""
        return [Following(self._api, path, self._take(kind)) for kind, path in PATHS.items()]

    async def run(self) -> None:
        """Keep listeners and status in step with what is known, for ever."""
        async with self._forwarder:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._keep_listeners()
                await self._write_status()

    def _take(self, kind: str) -> Callable[[str, Obj | None], None]:
        def take(key: str, obj: Obj | None) -> None:
            self._now.take(kind, key, obj)
            if kind != "EndpointSlice":
                self._changed.set()
            self._delay(kind, key, obj)

        return take

    def _delay(self, kind: str, key: str, obj: Obj | None) -> None:
        """Let the live view learn of it after the lag; an older change never follows a newer one."""
        name = f"{kind} {key}"
        turn = self._order[name] = self._order.get(name, 0) + 1

        def arrive() -> None:
            if self._order.get(name) == turn:
                if obj is None:
                    del self._order[name]
                self._live.take(kind, key, obj)

        lag = self._lag_of(kind, key, obj)
        asyncio.get_running_loop().call_later(lag, arrive)

    def _lag_of(self, kind: str, key: str, obj: Obj | None) -> float:
        known = self._now.routes.get(key) or self._live.routes.get(key)
        if kind != "HTTPRoute" or known is None:
            return self._lag
        lags = []
        for ref in (obj or known.obj)["spec"].get("parentRefs", []):
            space = ref.get("namespace", known.obj["metadata"]["namespace"])
            gateway = self._now.gateways.get(f"{space}/{ref['name']}")
            with contextlib.suppress(ValueError):  # the Gateway's status says it
                lags.append(read_lag(gateway) if gateway else None)
        return max((lag for lag in lags if lag is not None), default=self._lag)

    # --- listening ---

    async def _keep_listeners(self) -> None:
        wanted = {
            (key, listener["port"])
            for key, gateway in self._now.gateways.items()
            for listener in gateway["spec"]["listeners"]
            if not find_unsupported(listener)
        }
        for gone in self._listeners.keys() - wanted:
            self._listeners.pop(gone).close()
        for key in self._addresses.keys() - self._now.gateways.keys():
            del self._addresses[key]
        self._problems.clear()
        for key, port in sorted(wanted):
            try:
                address = self._address_of(key)
                if (key, port) not in self._listeners:
                    server = await self._forwarder.listen(key, address, port)
                    self._listeners[key, port] = server
            except OSError as error:
                self._problems[key] = f"port {port}: {error}"

    def _address_of(self, key: str) -> str:
        """The Gateway's address: the one that its status says, as a restart must not move it."""
        if key in self._addresses:
            return self._addresses[key]
        hosts = [str(host) for host in ipaddress.ip_network(GATEWAY_CIDR).hosts()]
        said = {
            one: [each["value"] for each in gateway.get("status", {}).get("addresses", [])]
            for one, gateway in self._now.gateways.items()
        }
        others = {value for one, values in said.items() if one != key for value in values}
        taken = others | set(self._addresses.values())
        candidates: list[str] = [*(one for one in said[key] if one in hosts), *hosts]
        free = next((one for one in candidates if one not in taken), None)
        if free is None:
            raise OSError(f"all {len(hosts)} addresses of {GATEWAY_CIDR} are taken")
        self._addresses[key] = free
        return free

    # --- status ---

    async def _write_status(self) -> None:
        """Tell of everything what became of it; what has just changed is told in the next round."""
        for gateway in list(self._now.gateways.values()):
            space, name = gateway["metadata"]["namespace"], gateway["metadata"]["name"]
            key = f"{space}/{name}"
            status = routestatus.make_gateway_status(
                gateway, self._now, self._addresses.get(key, ""), self._problems.get(key, "")
            )
            await self._write(f"{_API}/namespaces/{space}/gateways/{name}", gateway, status)
        for route in list(self._now.routes.values()):
            space, name = route.key.split("/")
            parents = routestatus.make_parents(route, self._now)
            if parents or route.obj.get("status", {}).get("parents"):
                path = f"{_API}/namespaces/{space}/httproutes/{name}"
                await self._write(path, route.obj, {"parents": parents})

    async def _write(self, path: str, obj: Obj, status: Obj) -> None:
        said = obj.get("status", {})
        if all(said.get(key) == value for key, value in status.items()):
            return
        version = obj["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "status": status}
        try:
            await self._api.call("PATCH", f"{path}/status", body, MERGE)
        except RefusedError as error:
            if error.code not in (_HTTP_CONFLICT, _HTTP_NOT_FOUND):
                sys.stderr.write(f"{path}: {error}\n")
                asyncio.get_running_loop().call_later(0.1, self._changed.set)
        except (aiohttp.ClientError, OSError):
            # It is being restarted; nothing may follow that would wake us.
            asyncio.get_running_loop().call_later(0.1, self._changed.set)


class Forwarder:
    """Sends requests where the live view says."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._copies: set[asyncio.Task[None]] = set()
        self._out: aiohttp.ClientSession

    async def __aenter__(self) -> "Forwarder":
        self._out = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for copy in self._copies:
            copy.cancel()
        await self._out.close()

    async def listen(self, gateway: str, address: str, port: int) -> asyncio.Server:
        """Forward what comes to ``address``:``port``, by the rules of ``gateway``."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await self._answer(gateway, port, request)

        loop = asyncio.get_running_loop()

        def make_request(head: Any, body: Any, door: Any, out: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(head, body, door, out, task, loop, client_max_size=_MAX_BODY)

        manager = web.Server(
            answer, request_factory=make_request, access_log=None, auto_decompress=False
        )
        return await loop.create_server(manager, address, port, backlog=4096)

    async def _answer(
        self, gateway: str, port: int, request: web.BaseRequest
    ) -> web.StreamResponse:
        host = request.headers.get("Host", "").partition(":")[0].lower()
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        rule = self._view.find_table(gateway, port).find(host, headers)
        if rule is None:
            return web.Response(status=404)
        body = await request.read()
        for mirror in rule.mirrors:
            if random.random() < mirror.share:  # noqa: S311 - a share, no secret
                copy = asyncio.create_task(self._copy(mirror.backend, rule, request, body))
                self._copies.add(copy)
                copy.add_done_callback(self._copies.discard)
        return await self._forward(rule, request, body)

    async def _forward(
        self, rule: Rule, request: web.BaseRequest, body: bytes
    ) -> web.StreamResponse:
        weights = [backend.weight for backend in rule.backends]
        if not any(weights):
            return web.Response(status=500)
        backend = random.choices(rule.backends, weights)[0]  # noqa: S311 - a share, no secret
        try:
            endpoints = self._view.find_endpoints(backend)
        except BackendError:
            return web.Response(status=500)
        if not endpoints:
            return web.Response(status=503, text="no healthy upstream")
        try:
            response = await self._send(random.choice(endpoints), rule, request, body)  # noqa: S311
        except TimeoutError:
            return web.Response(status=504, text="upstream request timeout")
        except (aiohttp.ClientError, OSError) as error:
            return web.Response(status=503, text=f"upstream connect error or disconnect: {error}")
        for name, value in backend.stamps:
            response.headers[name] = value
        return response

    async def _copy(
        self, backend: Backend, rule: Rule, request: web.BaseRequest, body: bytes
    ) -> None:
        # Nobody waits for a copy's answer, whatever it is.
        with contextlib.suppress(BackendError, TimeoutError, aiohttp.ClientError, OSError):
            if endpoints := self._view.find_endpoints(backend):
                await self._send(random.choice(endpoints), rule, request, body)  # noqa: S311

    async def _send(
        self,
        endpoint: tuple[str, int],
        rule: Rule,
        request: web.BaseRequest,
        body: bytes,
    ) -> web.Response:
        headers = _passed_on(request.headers)
        for name in rule.removes:
            headers.popall(name, None)
        for name, value in rule.sets:
            headers[name] = value
        url = URL(f"http://{endpoint[0]}:{endpoint[1]}{request.raw_path}", encoded=True)
        async with (
            asyncio.timeout(rule.timeout),
            self._out.request(
                request.method,
                url,
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as answer,
        ):
            content = await answer.read()
            return web.Response(
                status=answer.status,
                reason=answer.reason,
                headers=_passed_on(answer.headers),
                body=content,
            )


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    named = {
        each.strip().lower()
        for name, value in headers.items()
        if name.lower() == "connection"
        for each in value.split(",")
    }
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named
    )


async def accept_class(api: Api) -> None:
    """Say that the GatewayClass is ours."""
    found = await api.call("GET", _CLASS_PATH)
    status = routestatus.make_class_status(found)
    await api.call("PATCH", f"{_CLASS_PATH}/status", {"status": status}, MERGE)


def make_class() -> Obj:
    """The GatewayClass, to be applied."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": routestatus.CONTROLLER},
    }
