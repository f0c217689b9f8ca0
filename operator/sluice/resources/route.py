"""The HTTPRoute of a service: who gets which share of the requests that come through a gateway.

A route has two lanes, one rule per revision, and a third rule that mixes them by weight.  Everything that
clients can be sent to stands there before they are, and goes after they left; what moves them is which of
the rules takes requests that ask for nothing in particular.  So a switch, a step and an abort change
routing alone: no gateway has to make or drop a backend in the same moment (docs/adr/0005).

Every backend is one revision's own Service, so that a weight is a share of requests whatever the number
of pods.  Each stamps its answers with the revision that the gateway chose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice import labels, names
from sluice.api.traffic import Traffic
from sluice.resources.metadata import Manifest, Owner, make_manifest

# A request with this header goes to the revision that it names, for as long as the route knows it.
PIN_HEADER = "sluice-pin"
MIX_PIN = "mix"
IDLE_PIN = "idle"
# On every answer: the revision that the gateway chose.  The server's own `sluice-revision` says who answered.
ROUTED_HEADER = "sluice-routed"
# On every request: how long the gateway waits for the answer, in milliseconds.  A server that knows it can
# say by itself that it was too slow; what the gateway cuts off would be nobody's error.
TIMEOUT_HEADER = "sluice-timeout-ms"
# What the comparer asks with, past every gateway: no sample is made of it.  No client may say so.
SHADOW_HEADER = "sluice-shadow"
# On requests of the mix alone: a weight decided who gets them, so that their numbers can be compared.  What
# a pin, `match` or the front Service brings a revision is not in proportion to any weight.
SPLIT_HEADER = "sluice-split"
PORT = 80


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what.

    `lanes` are two revisions, or one and an empty name.  A revision keeps its lane: gateways name backends
    by their place in a route.  `main` gets the clients, or the mix does where it is empty.
    """

    lanes: tuple[str, str]
    main: str = ""
    mix: Mapping[str, int] = field(default_factory=dict)  # percent by revision, none of them 0
    matched: str = ""  # the revision that gets what fits `match`
    match: Sequence[Mapping[str, Any]] = ()
    mirror: str = ""  # name of the Service that gets copies
    mirror_percent: int = 0


def make_route(owner: Owner, traffic: Traffic, split: Split) -> Manifest:
    """The route, attached to the gateways that the service names."""
    timeouts = {"request": traffic.timeout}
    marks = _make_marks(traffic, is_split=False)
    rules: list[Manifest] = []
    for lane in split.lanes:
        revision = lane or next(filter(None, split.lanes))
        matches = [_make_match(_make_header(PIN_HEADER, lane or IDLE_PIN))]
        if lane and lane == split.matched:
            matches += [
                _make_match(*(_make_header(item["name"], item["value"]) for item in one["headers"]))
                for one in split.match
            ]
        rule: Manifest = {
            "backendRefs": [_make_backend(owner, revision, 1)],
            "filters": [marks],
            "timeouts": timeouts,
        }
        if lane and lane == split.main:
            matches.append(_make_match())
            if split.mirror:
                rule["filters"] = [marks, _make_mirror(split.mirror, split.mirror_percent)]
        rules.append({"matches": matches, **rule})
    if split.mix:
        matches = [_make_match(_make_header(PIN_HEADER, MIX_PIN))]
        if not split.main:
            matches.append(_make_match())
        refs = [_make_backend(owner, name, split.mix[name]) for name in split.lanes]
        filters = [_make_marks(traffic, is_split=True)]
        rule = {"backendRefs": refs, "filters": filters, "timeouts": timeouts}
        rules.append({"matches": matches, **rule})
    return make_manifest(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        names.front_name(owner.name),
        owner,
        labels.service_labels(owner.name) | {labels.FRONT: "true"},
        {
            "spec": {
                "parentRefs": [_make_parent(ref) for ref in traffic.to_dict()["parentRefs"]],
                "hostnames": sorted(traffic.hostnames),
                "rules": rules,
            }
        },
    )


def is_idle(rule: Manifest) -> bool:
    """Whether a rule only keeps a lane's place."""
    found = [item for match in rule.get("matches") or () for item in match.get("headers") or ()]
    return any(item["name"] == PIN_HEADER and item["value"] == IDLE_PIN for item in found)


def is_default(rule: Manifest) -> bool:
    """Whether a rule takes what no other does: clients that ask for nothing in particular."""
    matches: list[Manifest] = rule.get("matches") or [{}]
    return any(not match.get("headers") for match in matches)


def revision_of_backend(backend: Manifest) -> str:
    """The revision behind a backend: its Service's name ends with it (names.child_name)."""
    return str(backend["name"]).rpartition("-")[2]


def _make_match(*headers: Manifest) -> Manifest:
    path = {"path": {"type": "PathPrefix", "value": "/"}}
    return {"headers": list(headers), **path} if headers else path


def _make_marks(traffic: Traffic, *, is_split: bool) -> Manifest:
    milliseconds = round(traffic.timeout_after.total_seconds() * 1000)
    sets, removes = [{"name": TIMEOUT_HEADER, "value": str(milliseconds)}], [SHADOW_HEADER]
    if is_split:
        sets.append({"name": SPLIT_HEADER, "value": "1"})
    else:
        removes.append(SPLIT_HEADER)
    return {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": sets, "remove": removes},
    }


def _make_mirror(service: str, percent: int) -> Manifest:
    backend = {"group": "", "kind": "Service", "name": service, "port": PORT}
    return {
        "type": "RequestMirror",
        "requestMirror": {"backendRef": backend, "percent": percent},
    }


def _make_header(name: str, value: str) -> Manifest:
    return {"type": "Exact", "name": name, "value": value}


def _make_backend(owner: Owner, revision: str, weight: int) -> Manifest:
    return {
        "group": "",
        "kind": "Service",
        "name": names.child_name(owner.name, revision),
        "port": PORT,
        "weight": weight,
        "filters": [
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": ROUTED_HEADER, "value": revision}]},
            }
        ],
    }


def _make_parent(ref: Mapping[str, Any]) -> Manifest:
    return {"group": "gateway.networking.k8s.io", "kind": "Gateway", **ref}
