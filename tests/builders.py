"""Fluent builders of the objects that tests speak about; each gives a plain dictionary by `.obj()`.

Defaults are the smallest valid object.  Nothing here asserts.
"""

from __future__ import annotations

import copy
from typing import Any, Self

DIGEST = "sha256:" + "ab" * 32
IMAGE = "registry.testbed:5000/sluice/inference:test"
ERRORS = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "1"}


class Builder:
    """A dictionary under construction."""

    def __init__(self, obj: dict[str, Any]) -> None:
        self._obj = obj

    def obj(self) -> dict[str, Any]:
        """The object, the caller's own copy."""
        return copy.deepcopy(self._obj)

    def generation(self, number: int) -> Self:
        self._obj["metadata"]["generation"] = number
        return self

    def status(self, status: dict[str, Any]) -> Self:
        self._obj["status"] = status
        return self


class ServiceBuilder(Builder):
    """An InferenceService."""

    def runs(self, version: str, model: str = "pizza-spatial") -> Self:
        self._obj["spec"]["model"] = {"name": model, "version": version}
        return self

    def scales(self, low: int, high: int | None = None, **extra: Any) -> Self:
        self._obj["spec"]["scaling"] = {"minReplicas": low, "maxReplicas": high or low, **extra}
        return self

    def runtime(self, **fields: Any) -> Self:
        self._obj["spec"]["runtime"] |= fields
        return self

    def env(self, **values: str) -> Self:
        return self.runtime(env=[{"name": key, "value": value} for key, value in values.items()])

    def deadline(self, duration: str) -> Self:
        return self.rollout(deadline=duration)

    def suspended(self) -> Self:
        self._obj["spec"]["suspend"] = True
        return self

    def traffic(self, *hostnames: str, gateway: str = "eg", timeout: str = "5s") -> Self:
        """Behind one Gateway in its own namespace."""
        self._obj["spec"]["traffic"] = {
            "parentRefs": [{"name": gateway}],
            "hostnames": list(hostnames or ("pizza.example.com",)),
            "timeout": timeout,
        }
        return self

    def rollout(self, **fields: Any) -> Self:
        """Fields of `spec.rollout`, in camelCase."""
        self._obj["spec"]["rollout"] = self._obj["spec"].get("rollout", {}) | fields
        return self

    def canary(self, *steps: int | dict[str, Any], **fields: Any) -> Self:
        """Steps are weights, or steps as they stand in the spec."""
        written = [{"weight": step} if isinstance(step, int) else step for step in steps]
        return self.rollout(strategy="Canary", canary={"steps": written}, **fields)

    def blue_green(self, hold: str | None = None, *, approval: bool = False, **fields: Any) -> Self:
        """A switch in one write."""
        details: dict[str, Any] = {"approval": "Required"} if approval else {}
        if hold is not None:
            details["hold"] = hold
        return self.rollout(strategy="BlueGreen", blueGreen=details, **fields)

    def analysis(self, *checks: dict[str, Any], **fields: Any) -> Self:
        """Checks as they stand in the spec; without any: at most 1 % errors."""
        wanted = list(checks) or [ERRORS]
        return self.rollout(analysis={"checks": wanted, **fields})

    def asks(self, request: str, by: str = "") -> Self:
        """The annotation of a request."""
        annotations = self._obj["metadata"].setdefault("annotations", {})
        annotations["sluice.dev/request"] = request
        if by:
            annotations["sluice.dev/requested-by"] = by
        return self


class VersionBuilder(Builder):
    """A ModelVersion."""

    def digest(self, digest: str) -> Self:
        self._obj["spec"]["artifact"]["digest"] = digest
        return self

    def uri(self, uri: str) -> Self:
        self._obj["spec"]["artifact"]["uri"] = uri
        return self

    def lifecycle(self, value: str) -> Self:
        self._obj["spec"]["lifecycle"] = value
        return self

    def gpus(self, count: int = 1, **extra: Any) -> Self:
        self._obj["spec"].setdefault("requirements", {})["gpu"] = {"count": count, **extra}
        return self

    def space(self, space: str) -> Self:
        """The embedding space of its answers."""
        self._obj["spec"]["embedding"]["space"] = space
        return self

    def memory(self, quantity: str) -> Self:
        self._obj["spec"].setdefault("requirements", {})["memory"] = quantity
        return self


def inference_service(name: str = "pizza", namespace: str = "vision") -> ServiceBuilder:
    """`pizza` of one replica, running pizza-spatial 1.0.0."""
    return ServiceBuilder(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{name}",
                "generation": 1,
                "resourceVersion": "1",
            },
            "spec": {
                "model": {"name": "pizza-spatial", "version": "1.0.0"},
                "runtime": {"image": IMAGE},
            },
        }
    )


def model_version(
    version: str = "1.0.0", model: str = "pizza-spatial", namespace: str = "vision"
) -> VersionBuilder:
    """An ONNX classifier and embedder from the testbed's registry, on CPU."""
    return VersionBuilder(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {
                "name": f"{model}-{version}",
                "namespace": namespace,
                "uid": f"uid-{model}-{version}",
                "generation": 1,
                "resourceVersion": "1",
            },
            "spec": {
                "model": model,
                "version": version,
                "lifecycle": "Active",
                "tasks": ["Classification", "ImageEmbedding"],
                "architecture": "SpatialDualEncoder",
                "embedding": {"space": "pizza-1", "dimension": 128},
                "artifact": {
                    "uri": f"oci://registry.testbed:5000/models/{model}:{version}",
                    "digest": DIGEST,
                    "format": "ONNX",
                },
            },
        }
    )


def gateway(
    name: str = "eg", namespace: str = "vision", address: str = "192.0.2.1", protocol: str = "HTTP"
) -> Builder:
    """A Gateway with one listener; an empty address is one that has none yet."""
    return Builder(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
            "spec": {"listeners": [{"name": "web", "port": 80, "protocol": protocol}]},
            "status": {"addresses": [{"value": address}] if address else []},
        }
    )
