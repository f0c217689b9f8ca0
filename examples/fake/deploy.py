"""Puts the fake model onto a testbed: versions of nothing, served by the real server's `fake` backend.

Its artifact is a real one (pushed, fetched, verified) with an empty model in it; how the pods answer is
said by environment variables of the runtime.  Load tests, benchmarks and crash plans share it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from testbed.addons import REGISTRY
from testbed.cluster import Cluster
from testbed.environment import without_proxies
from testbed.netns import BRIDGE_ADDRESS

MODEL = "fake"
SPACE = "fake-1"
GATEWAY = {"name": "eg", "namespace": "gateways", "sectionName": "http"}


def find_host(service: str) -> str:
    """What a gateway knows a service by."""
    return f"{service}.example.com"


def publish(cluster: Cluster) -> str:
    """Pushes the empty artifact into the instance's registry; gives its digest."""
    host = f"127.0.0.1:{cluster.forward('registry', BRIDGE_ADDRESS, 5000)}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text("{}")
        answer = subprocess.run(
            [
                *(sys.executable, "-m", "sluice_inference", "push"),
                *(folder, f"oci://{host}/models/{MODEL}:empty"),
            ],
            env={**without_proxies(os.environ), "ARTIFACT_PLAIN_HTTP": host},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return answer.stdout.strip()


def write_image(path: Path) -> Path:
    """The smallest picture that the server takes without scaling, as PNG; gives the path."""
    Image.new("RGB", (32, 32), (200, 80, 40)).save(path, "PNG")
    return path


def make_version(
    version: str, digest: str, space: str = SPACE, **evaluation: str
) -> dict[str, Any]:
    """A ModelVersion; `evaluation` registers metrics, as latencyP95Ms="12"."""
    spec: dict[str, Any] = {
        "model": MODEL,
        "version": version,
        "tasks": ["Classification", "ImageEmbedding"],
        "architecture": "SpatialDualEncoder",
        "embedding": {"space": space, "dimension": 64},
        "artifact": {
            "uri": f"oci://{REGISTRY}/models/{MODEL}:empty",
            "digest": digest,
            "format": "ONNX",
        },
    }
    if evaluation:
        metrics = [{"name": name, "value": value} for name, value in evaluation.items()]
        spec["evaluation"] = {"dataset": "none", "metrics": metrics}
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"{MODEL}-{version}"},
        "spec": spec,
    }


def make_service(
    version: str,
    image: str,
    *,
    name: str = MODEL,
    env: Mapping[str, str] | None = None,
    rollout: Mapping[str, Any] | None = None,
    replicas: int = 2,
    cpu: str = "20m",
    through_gateway: bool = True,
    timeout: str = "10s",
) -> dict[str, Any]:
    """An InferenceService whose pods answer as `env` says (docs/inference.md, "The test double")."""
    variables = {"BACKEND": "fake", "ARTIFACT_PLAIN_HTTP": REGISTRY, **(env or {})}
    spec: dict[str, Any] = {
        "model": {"name": MODEL, "version": version},
        "runtime": {
            "image": image,
            "env": [{"name": key, "value": value} for key, value in sorted(variables.items())],
            "resources": {"requests": {"cpu": cpu, "memory": "96Mi"}},
        },
        "scaling": {"minReplicas": replicas},
    }
    if through_gateway:
        hosts = [find_host(name)]
        spec["traffic"] = {"parentRefs": [GATEWAY], "hostnames": hosts, "timeout": timeout}
    if rollout:
        spec["rollout"] = dict(rollout)
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }


def apply(cluster: Cluster, namespace: str, objects: Sequence[Mapping[str, Any]]) -> None:
    """As a user does."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=text)
