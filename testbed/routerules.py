"""Reads HTTPRoutes as the route simulator takes them: what our own routes use, and nothing more.

A field that it does not know is refused by its path, never passed over.  What a rule leads to at a
given moment, ``routeview`` says.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.watching import Obj

_DURATION = re.compile(r"([0-9]{1,5})(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class UnsupportedError(Exception):
    """A route asks for what the simulator does not do."""


@dataclass(frozen=True)
class Backend:
    """One Service port with its share, and what its answers are stamped with."""

    namespace: str
    name: str
    port: int
    weight: int = 1
    stamps: tuple[tuple[str, str], ...] = ()
    is_permitted: bool = True


@dataclass(frozen=True)
class Mirror:
    """Where copies go, and of which share of the requests (0 to 1)."""

    backend: Backend
    share: float


@dataclass(frozen=True)
class Rule:
    """One match of one rule.  ``headers`` have lower-case names; ``timeout`` is in seconds."""

    headers: tuple[tuple[str, str], ...]
    backends: tuple[Backend, ...]
    mirrors: tuple[Mirror, ...]
    sets: tuple[tuple[str, str], ...]  # headers of requests
    removes: tuple[str, ...]  # likewise
    timeout: float | None

    def fits(self, headers: Mapping[str, Sequence[str]]) -> bool:
        """Whether a request with ``headers`` (lower-case names, all values) is one for this rule."""
        return all(",".join(headers.get(name, ())) == value for name, value in self.headers)


def read_rules(route: Obj) -> list[Rule]:
    """The rules of ``route``, one for each match; UnsupportedError with the path of a field."""
    namespace = route["metadata"]["namespace"]
    spec = route["spec"]
    _allow(spec, "spec", "parentRefs", "hostnames", "rules")
    rules = []
    for number, rule in enumerate(spec.get("rules", [])):
        path = f"spec.rules[{number}]"
        _allow(rule, path, "name", "matches", "filters", "backendRefs", "timeouts")
        backends = tuple(
            _read_backend(ref, f"{path}.backendRefs[{i}]", namespace)
            for i, ref in enumerate(rule.get("backendRefs", []))
        )
        mirrors: list[Mirror] = []
        sets: list[tuple[str, str]] = []
        removes: list[str] = []
        for i, one in enumerate(rule.get("filters", [])):
            where = f"{path}.filters[{i}]"
            _expect(one["type"], f"{where}.type", "RequestMirror", "RequestHeaderModifier")
            if one["type"] == "RequestMirror":
                mirrors.append(_read_mirror(one, where, namespace))
            else:
                change = one["requestHeaderModifier"]
                sets += _read_sets(change, f"{where}.requestHeaderModifier", "remove")
                removes += change.get("remove", [])
        timeout = _read_timeout(rule.get("timeouts", {}), f"{path}.timeouts")
        rules += [
            Rule(
                _read_match(match, f"{path}.matches[{i}]"),
                backends,
                tuple(mirrors),
                tuple(sets),
                tuple(removes),
                timeout,
            )
            for i, match in enumerate(rule.get("matches") or [{}])
        ]
    return rules


def read_duration(text: str) -> float:
    """Seconds of a Gateway API duration such as ``1m30s`` (GEP-2257)."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UnsupportedError(f"{text!r} is no duration; such as 30s, 500ms, 1m30s")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def find_backends(rules: Sequence[Rule]) -> Iterator[Backend]:
    """Every backend of the rules, those of mirrors too."""
    for rule in rules:
        yield from rule.backends
        yield from (mirror.backend for mirror in rule.mirrors)


def _allow(obj: Mapping[str, Any], path: str, *known: str) -> None:
    for key in obj:
        if key not in known:
            raise UnsupportedError(
                f"{path}.{key} is not simulated; {path} may have {', '.join(known)}"
            )


def _expect(value: object, path: str, *known: object) -> None:
    if value not in known:
        allowed = ", ".join(map(repr, known))
        raise UnsupportedError(f"{path} is {value!r}, which is not simulated; allowed: {allowed}")


def _read_match(match: Obj, path: str) -> tuple[tuple[str, str], ...]:
    _allow(match, path, "path", "headers")
    where = match.get("path", {})
    _expect(where.get("type", "PathPrefix"), f"{path}.path.type", "PathPrefix")
    _expect(where.get("value", "/"), f"{path}.path.value", "/")
    headers: dict[str, str] = {}
    for number, header in enumerate(match.get("headers", [])):
        _expect(header.get("type", "Exact"), f"{path}.headers[{number}].type", "Exact")
        # Of several with the same name only the first counts.
        headers.setdefault(header["name"].lower(), header["value"])
    return tuple(headers.items())


def _read_backend(ref: Obj, path: str, namespace: str) -> Backend:
    _allow(ref, path, "group", "kind", "name", "namespace", "port", "weight", "filters")
    _expect(ref.get("group", ""), f"{path}.group", "")
    _expect(ref.get("kind", "Service"), f"{path}.kind", "Service")
    stamps: list[tuple[str, str]] = []
    for number, one in enumerate(ref.get("filters", [])):
        where = f"{path}.filters[{number}]"
        _expect(one["type"], f"{where}.type", "ResponseHeaderModifier")
        stamps += _read_sets(one["responseHeaderModifier"], f"{where}.responseHeaderModifier")
    return Backend(
        namespace=ref.get("namespace", namespace),
        name=ref["name"],
        port=int(ref.get("port", 0)),
        weight=int(ref.get("weight", 1)),
        stamps=tuple(stamps),
        # Grants are not simulated, so there are none.
        is_permitted=ref.get("namespace", namespace) == namespace,
    )


def _read_sets(change: Obj, path: str, *others: str) -> list[tuple[str, str]]:
    _allow(change, path, "set", *others)
    return [(each["name"], each["value"]) for each in change.get("set", [])]


def _read_mirror(one: Obj, path: str, namespace: str) -> Mirror:
    mirror = one["requestMirror"]
    _allow(mirror, f"{path}.requestMirror", "backendRef", "percent")
    backend = _read_backend(mirror["backendRef"], f"{path}.requestMirror.backendRef", namespace)
    return Mirror(backend, mirror.get("percent", 100) / 100)


def _read_timeout(timeouts: Obj, path: str) -> float | None:
    _allow(timeouts, path, "request")
    seconds = read_duration(timeouts["request"]) if "request" in timeouts else 0.0
    # Zero is how the API says "none".
    return seconds or None
