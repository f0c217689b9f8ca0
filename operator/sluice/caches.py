"""The kinds that Sluice watches, and one cache for each.

What is kept of an object and how it is found again is said here; what it means is not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sluice import labels, names
from sluice.pods import project_pod
from sluice.runtime.cache import Cache
from sluice.runtime.kinds import Kind, Obj
from sluice.world import CONTROLLER_REVISION, DEPLOYMENT, HPA, HTTP_ROUTE, JOB, PDB, SERVICE

BY_SERVICE = "service"  # children and pods, by "namespace/service"
BY_VERSION = "version"  # pods and services, by "namespace/ModelVersion name"
BY_GATEWAY = "gateway"  # services, by "namespace/Gateway"

INFERENCE_SERVICE = "InferenceService"
MODEL_VERSION = "ModelVersion"
GATEWAY = "Gateway"


def project_slice(obj: Obj) -> Obj:
    """An EndpointSlice as the ready pods behind it."""
    metadata = obj["metadata"]
    kept = {
        key: metadata[key]
        for key in ("name", "namespace", "uid", "resourceVersion")
        if key in metadata
    }
    kept["labels"] = {labels.SERVICE: (metadata.get("labels") or {}).get(labels.SERVICE, "")}
    return {
        "apiVersion": obj.get("apiVersion", "discovery.k8s.io/v1"),
        "kind": "EndpointSlice",
        "metadata": kept,
        "pods": [
            endpoint["targetRef"]["name"]
            for endpoint in obj.get("endpoints") or ()
            if endpoint.get("targetRef") and (endpoint.get("conditions") or {}).get("ready", True)
        ],
    }


def project_gateway(obj: Obj) -> Obj:
    """A Gateway as where it listens: it is other people's object, and nothing else of it matters."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
    return {
        "apiVersion": obj.get("apiVersion", "gateway.networking.k8s.io/v1"),
        "kind": GATEWAY,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "listeners": [
            {key: listener.get(key) for key in ("name", "port", "protocol")}
            for listener in (obj.get("spec") or {}).get("listeners") or ()
        ],
        "addresses": [
            address["value"]
            for address in (obj.get("status") or {}).get("addresses") or ()
            if address.get("value")
        ],
    }


KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (
        Kind(names.GROUP, "v1alpha1", "inferenceservices", INFERENCE_SERVICE),
        Kind(names.GROUP, "v1alpha1", "modelversions", MODEL_VERSION),
        Kind("apps", "v1", "controllerrevisions", CONTROLLER_REVISION, selector=labels.SELECTOR),
        Kind("", "v1", "services", SERVICE, selector=labels.SELECTOR),
        Kind("apps", "v1", "deployments", DEPLOYMENT, selector=labels.SELECTOR),
        Kind("autoscaling", "v2", "horizontalpodautoscalers", HPA, selector=labels.SELECTOR),
        Kind("policy", "v1", "poddisruptionbudgets", PDB, selector=labels.SELECTOR),
        Kind("batch", "v1", "jobs", JOB, selector=labels.SELECTOR),
        Kind("gateway.networking.k8s.io", "v1", "httproutes", HTTP_ROUTE, selector=labels.SELECTOR),
        Kind("gateway.networking.k8s.io", "v1", "gateways", GATEWAY, project=project_gateway),
        Kind("", "v1", "pods", "Pod", selector=labels.SELECTOR, project=project_pod),
        Kind(
            "discovery.k8s.io",
            "v1",
            "endpointslices",
            "EndpointSlice",
            selector=labels.FRONT_SELECTOR,
            project=project_slice,
        ),
    )
}

CHILDREN = (CONTROLLER_REVISION, SERVICE, DEPLOYMENT, HPA, PDB, JOB, HTTP_ROUTE)

# A cluster may do without them: then no service has a gateway in front.
OPTIONAL = frozenset({HTTP_ROUTE, GATEWAY})


def service_key(obj: Obj) -> str:
    """ "namespace/service" of a child or pod, from its labels."""
    metadata = obj["metadata"]
    return (
        f"{metadata.get('namespace', '')}/{(metadata.get('labels') or {}).get(labels.SERVICE, '')}"
    )


def version_key(obj: Obj) -> str:
    """ "namespace/ModelVersion" of a pod, from its labels."""
    metadata = obj["metadata"]
    found = metadata.get("labels") or {}
    name = names.version_name(found.get(labels.MODEL, ""), found.get(labels.VERSION, ""))
    return f"{metadata.get('namespace', '')}/{name}"


def used_versions(service: Obj) -> list[str]:
    """ "namespace/ModelVersion" of every version that a service asks for or runs."""
    namespace = service["metadata"].get("namespace", "")
    wanted = (service.get("spec") or {}).get("model") or {}
    status = service.get("status") or {}
    used = [(wanted.get("name", ""), wanted.get("version", ""))]
    used += [
        (status[track].get("model", ""), status[track].get("version", ""))
        for track in ("stable", "candidate")
        if track in status
    ]
    return [
        f"{namespace}/{names.version_name(model, version)}"
        for model, version in dict.fromkeys(used)
    ]


def used_gateways(service: Obj) -> list[str]:
    """ "namespace/Gateway" of every gateway that a service's traffic comes through."""
    own = service["metadata"].get("namespace", "")
    traffic = (service.get("spec") or {}).get("traffic") or {}
    return [f"{ref.get('namespace', own)}/{ref['name']}" for ref in traffic.get("parentRefs", ())]


_INDEXES: dict[str, dict[str, Callable[[Obj], Iterable[str]]]] = {
    INFERENCE_SERVICE: {BY_VERSION: used_versions, BY_GATEWAY: used_gateways},
    MODEL_VERSION: {},
    GATEWAY: {},
    CONTROLLER_REVISION: {
        BY_SERVICE: lambda obj: [service_key(obj)],
        BY_VERSION: lambda obj: [version_key(obj)],
    },
    "Pod": {BY_SERVICE: lambda obj: [service_key(obj)], BY_VERSION: lambda obj: [version_key(obj)]},
}


@dataclass(frozen=True, slots=True)
class Caches:
    """One cache per watched kind."""

    of: dict[str, Cache] = field(
        default_factory=lambda: {
            name: Cache(kind, _INDEXES.get(name, {BY_SERVICE: lambda obj: [service_key(obj)]}))
            for name, kind in KINDS.items()
        }
    )

    def __getitem__(self, kind: str) -> Cache:
        return self.of[kind]
