"""The HTTPRoute of a service: who gets which share of the requests that come through a gateway.

Every backend is one revision's own Service, so that a weight is a share of requests whatever the number
of pods.  Each stamps its answers with the revision that the gateway chose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice import labels, names
from sluice.api.traffic import Traffic
from sluice.resources.metadata import Manifest, Owner, make_manifest

# A request with this header goes to the revision that it names, while a rollout is under way.
PIN_HEADER = "sluice-pin"
# On every answer: the revision that the gateway chose.  The server's own `sluice-revision` says who answered.
ROUTED_HEADER = "sluice-routed"
PORT = 80


@dataclass(frozen=True, slots=True)
class Split:
    """The shares of the requests, and the exceptions."""

    weights: Mapping[str, int]  # percent by revision; 0 keeps a backend known without giving it any
    pinned: str = ""  # the revision that may be asked for by header
    matched: str = ""  # the revision that gets what fits `match`
    match: Sequence[Mapping[str, Any]] = field(default=())
    mirror: str = ""  # name of the Service that gets copies
    mirror_percent: int = 0


def make_route(owner: Owner, traffic: Traffic, split: Split) -> Manifest:
    """The route, attached to the gateways that the service names."""
    timeouts = {"request": traffic.timeout}
    rules: list[Manifest] = []
    if split.pinned:
        rules.append(
            {
                "matches": [{"headers": [_make_header(PIN_HEADER, split.pinned)], **_ANY_PATH}],
                "backendRefs": [_make_backend(owner, split.pinned, 1)],
                "timeouts": timeouts,
            }
        )
    if split.matched and split.match:
        rules.append(
            {
                "matches": [
                    {
                        "headers": [
                            _make_header(header["name"], header["value"])
                            for header in match["headers"]
                        ],
                        **_ANY_PATH,
                    }
                    for match in split.match
                ],
                "backendRefs": [_make_backend(owner, split.matched, 1)],
                "timeouts": timeouts,
            }
        )
    default: Manifest = {
        "matches": [dict(_ANY_PATH)],
        "backendRefs": [
            _make_backend(owner, revision, weight)
            for revision, weight in sorted(split.weights.items())
        ],
        "timeouts": timeouts,
    }
    if split.mirror:
        default["filters"] = [
            {
                "type": "RequestMirror",
                "requestMirror": {
                    "backendRef": {
                        "group": "",
                        "kind": "Service",
                        "name": split.mirror,
                        "port": PORT,
                    },
                    "percent": split.mirror_percent,
                },
            }
        ]
    rules.append(default)
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


_ANY_PATH: Manifest = {"path": {"type": "PathPrefix", "value": "/"}}


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


def is_default(rule: Manifest) -> bool:
    """Whether a rule takes what no other does: clients that ask for nothing in particular."""
    return not any(match.get("headers") for match in rule.get("matches") or ())
