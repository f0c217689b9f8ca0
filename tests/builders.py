"""Fluent builders of the objects that tests speak about; each gives a plain dictionary by `.obj()`.

Defaults are the smallest valid object.  Nothing here asserts.
"""

from __future__ import annotations

import copy
from typing import Any, Self

DIGEST = "sha256:" + "ab" * 32
IMAGE = "registry.testbed:5000/sluice/inference:test"


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
        self._obj["spec"]["rollout"] = {"deadline": duration}
        return self

    def suspended(self) -> Self:
        self._obj["spec"]["suspend"] = True
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
