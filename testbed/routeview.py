"""What Gateways, HTTPRoutes, Services and EndpointSlices say together, at one moment.

Answers which rule a request meets and which endpoints a backend has, and which routes attach to
which listeners.  It asks no API server and sends nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from testbed.routerules import Backend, Rule, UnsupportedError, read_rules
from testbed.watching import Obj, key_of

LAG_MS_ANNOTATION = "testbed.sluice.dev/lag-ms"
"""On a Gateway: milliseconds from a change of one of its routes to the effect."""
MAX_LAG_MS = 600_000

Address = tuple[str, int]


class BackendError(Exception):
    """A backend can't be used; ``reason`` is the ResolvedRefs condition's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AttachError(Exception):
    """A route can't attach to a Gateway; ``reason`` is the Accepted condition's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Attachment:
    """One listener that a route attached to, with the hosts for which it does."""

    listener: str
    port: int
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """An HTTPRoute read once; ``problem`` says why its rules can't be simulated."""

    obj: Obj
    rules: tuple[Rule, ...]
    problem: str = ""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return key_of(self.obj)


class Table:
    """The rules of one port of a Gateway, by host."""

    def __init__(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._rules = rules

    def find(self, host: str, headers: Mapping[str, Sequence[str]]) -> Rule | None:
        """The rule for a request; None where no route has one.

        Only the most specific host that any route names is looked at, as Envoy does.
        """
        for name in _generalize(host):
            if name in self._rules:
                return next((rule for rule in self._rules[name] if rule.fits(headers)), None)
        return None


class View:
    """The objects of one GatewayClass and what they point to."""

    def __init__(self, gateway_class: str) -> None:
        self.gateways: dict[str, Obj] = {}
        self.routes: dict[str, Route] = {}
        self._class = gateway_class
        self._services: dict[str, Obj] = {}
        self._slices: dict[str, dict[str, Obj]] = {}
        self._service_of_slice: dict[str, str] = {}
        self._tables: dict[tuple[str, int], Table] = {}
        self._endpoints: dict[tuple[str, str, int], tuple[Address, ...]] = {}

    def take(self, kind: str, key: str, obj: Obj | None) -> None:
        """The object ``key`` of ``kind`` is now so; None where it is gone."""
        match kind:
            case "Gateway":
                is_ours = obj is not None and obj["spec"]["gatewayClassName"] == self._class
                _put(self.gateways, key, obj if is_ours else None)
                self._tables.clear()
            case "HTTPRoute":
                _put(self.routes, key, None if obj is None else _read_route(obj))
                self._tables.clear()
            case "Service":
                _put(self._services, key, obj)
                self._endpoints.clear()
            case "EndpointSlice":
                self._take_slice(key, obj)
                self._endpoints.clear()
            case _:
                raise ValueError(f"kind {kind} has no place in a view")

    def _take_slice(self, key: str, obj: Obj | None) -> None:
        before = self._service_of_slice.pop(key, "")
        self._slices.get(before, {}).pop(key, None)
        if obj is not None:
            name = obj["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
            service = f"{obj['metadata']['namespace']}/{name}"
            self._service_of_slice[key] = service
            self._slices.setdefault(service, {})[key] = obj

    # --- backends ---

    def check(self, backend: Backend) -> None:
        """BackendError where ``backend`` is none."""
        self._find_port(backend)

    def find_endpoints(self, backend: Backend) -> tuple[Address, ...]:
        """The ready endpoints of ``backend``; BackendError where it is none."""
        key = (backend.namespace, backend.name, backend.port)
        if not backend.is_permitted or key not in self._endpoints:
            port = self._find_port(backend)
            self._endpoints[key] = tuple(self._list_endpoints(backend, port.get("name", "")))
        return self._endpoints[key]

    def _find_port(self, backend: Backend) -> Obj:
        name = f"{backend.namespace}/{backend.name}"
        if not backend.is_permitted:
            raise BackendError(
                "RefNotPermitted", f"Service {name} is in another namespace than the route"
            )
        service = self._services.get(name)
        if service is None:
            raise BackendError("BackendNotFound", f"Service {name} not found")
        for port in service["spec"].get("ports", []):
            if port["port"] == backend.port:
                found: Obj = port
                return found
        ports = ", ".join(str(port["port"]) for port in service["spec"].get("ports", []))
        raise BackendError(
            "BackendNotFound",
            f"Service {name} has no port {backend.port}; it has {ports or 'none'}",
        )

    def _list_endpoints(self, backend: Backend, port_name: str) -> Iterator[Address]:
        for one in self._slices.get(f"{backend.namespace}/{backend.name}", {}).values():
            ports = [p["port"] for p in one.get("ports") or [] if p.get("name", "") == port_name]
            for endpoint in one.get("endpoints") or []:
                # Not said means ready.
                if ports and endpoint.get("conditions", {}).get("ready", True) is not False:
                    yield endpoint["addresses"][0], ports[0]

    # --- routes ---

    def attach(self, route: Route, ref: Obj) -> list[Attachment] | None:
        """Where ``route`` attaches by ``ref``; None where that is no Gateway of this class.

        AttachError where it may not, or where it asks for what is not simulated.
        """
        gateway = self.gateways.get(_gateway_key(route, ref))
        if gateway is None or ref.get("kind", "Gateway") != "Gateway":
            return None
        if route.problem:
            raise AttachError("UnsupportedValue", route.problem)
        named = [
            one
            for one in gateway["spec"]["listeners"]
            if ref.get("sectionName") in (None, one["name"])
            and ref.get("port") in (None, one["port"])
        ]
        if not named:
            raise AttachError("NoMatchingParent", "no listener has this sectionName and port")
        allowed = [one for one in named if _allows(one, gateway, route)]
        if not allowed:
            raise AttachError(
                "NotAllowedByListeners", "no listener allows routes of the route's namespace"
            )
        wanted = route.obj["spec"].get("hostnames") or [""]
        found = [
            Attachment(one["name"], one["port"], _intersect(one.get("hostname", ""), wanted))
            for one in allowed
        ]
        attached = [one for one in found if one.hosts]
        if not attached:
            raise AttachError(
                "NoMatchingListenerHostname", "no listener has a hostname in common with the route"
            )
        return attached

    def find_table(self, gateway: str, port: int) -> Table:
        """The rules for requests to ``port`` of ``gateway``."""
        known = self._tables.get((gateway, port))
        if known is None:
            known = self._tables[gateway, port] = self._make_table(gateway, port)
        return known

    def _make_table(self, gateway: str, port: int) -> Table:
        by_host: dict[str, list[tuple[tuple[object, ...], Rule]]] = {}
        for route in self.routes.values():
            for ref in route.obj["spec"].get("parentRefs", []):
                if _gateway_key(route, ref) != gateway:
                    continue
                try:
                    attached = self.attach(route, ref) or []
                except AttachError:
                    continue
                hosts = {host for one in attached if one.port == port for host in one.hosts}
                age = (route.obj["metadata"].get("creationTimestamp", ""), route.key)
                for host in hosts:
                    # More headers first, then the older route, then the order in it: the API's order.
                    by_host.setdefault(host, []).extend(
                        ((-len(rule.headers), *age, number), rule)
                        for number, rule in enumerate(route.rules)
                    )
        return Table(
            {
                host: [rule for _, rule in sorted(rules, key=lambda pair: pair[0])]
                for host, rules in by_host.items()
            }
        )


def find_unsupported(listener: Obj) -> str:
    """Why ``listener`` can't be simulated, or an empty string."""
    if listener["protocol"] != "HTTP":
        return f"protocol {listener['protocol']} is not simulated; allowed is HTTP"
    origin = listener.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same")
    if origin not in ("Same", "All"):
        return f"allowedRoutes.namespaces.from {origin} is not simulated; allowed are Same, All"
    return ""


def read_lag(gateway: Obj) -> float | None:
    """The Gateway's own lag in seconds, None where it says none; ValueError where it is no number."""
    text = (gateway["metadata"].get("annotations") or {}).get(LAG_MS_ANNOTATION)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > MAX_LAG_MS:
        raise ValueError(
            f"annotation {LAG_MS_ANNOTATION} is {text!r}; allowed is a whole number of milliseconds "
            f"from 0 to {MAX_LAG_MS}"
        )
    return int(text) / 1000


def _read_route(obj: Obj) -> Route:
    try:
        return Route(obj, tuple(read_rules(obj)))
    except UnsupportedError as error:
        return Route(obj, (), str(error))


def _put(where: dict[str, Obj] | dict[str, Route], key: str, value: object) -> None:
    if value is None:
        where.pop(key, None)
    else:
        where[key] = value  # type: ignore[assignment]  # the caller's pair fits


def _gateway_key(route: Route, ref: Obj) -> str:
    return f"{ref.get('namespace', route.obj['metadata']['namespace'])}/{ref['name']}"


def _allows(listener: Obj, gateway: Obj, route: Route) -> bool:
    if find_unsupported(listener):
        return False
    origin = listener.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same")
    spaces = {each["metadata"]["namespace"] for each in (gateway, route.obj)}
    return origin == "All" or len(spaces) == 1


def _intersect(listener: str, hosts: Sequence[str]) -> tuple[str, ...]:
    found = []
    for host in hosts:
        if not listener or not host or listener == host:
            found.append(host or listener)
        elif _covers(listener, host):
            found.append(host)
        elif _covers(host, listener):
            found.append(listener)
    return tuple(found)


def _covers(pattern: str, host: str) -> bool:
    return pattern.startswith("*.") and host.removeprefix("*").endswith(pattern[1:])


def _generalize(host: str) -> Iterator[str]:
    """``host``, then the wildcards it falls under, the longest first, then any."""
    yield host
    rest = host
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"
    yield ""
