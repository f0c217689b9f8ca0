"""Artifacts that are wrong, far away or too big for the node: each ends in a condition that says so."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.pizza import deploy
from testbed.cluster import Cluster
from tests.e2e.conftest import Stage

pytestmark = pytest.mark.node

CLAIM = "models"


def change_version(version: str, **artifact: Any) -> dict[str, Any]:
    """The ModelVersion as training wrote it, with another artifact."""
    manifest: dict[str, Any] = yaml.safe_load(deploy.make_version(version))
    manifest["spec"]["artifact"] |= artifact
    return manifest


def make_claim(namespace: str, folder: Path) -> list[dict[str, Any]]:
    """A claim on a folder of the node, as a platform team would offer a file share."""
    name = f"{CLAIM}-{namespace}"
    size = {"storage": "1Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": namespace, "name": CLAIM},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": namespace},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": name,
                "resources": {"requests": size},
            },
        },
    ]


def apply(cluster: Cluster, namespace: str, *manifests: Any) -> None:
    text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=text)


def wait_condition(cluster: Cluster, namespace: str, type_: str, reason: str) -> dict[str, Any]:
    """The service's condition of this type, once it has this reason."""

    def look() -> dict[str, Any] | None:
        answer = cluster.kubectl("get", deploy.KIND, deploy.SERVICE, "-n", namespace, "-o", "json")
        for item in json.loads(answer.stdout).get("status", {}).get("conditions", []):
            if (item["type"], item["reason"]) == (type_, reason):
                return dict(item)
        return None

    return deploy.wait_for(look, 120, f"{type_} with reason {reason}")


def test_a_corrupt_byte_on_a_claim(stage: Stage, namespace: str, tmp_path: Path) -> None:
    """And with the byte mended, the same claim serves: pvc:// works."""
    cluster = stage.cluster
    folder = cluster.folder / f"share-{namespace}"
    shutil.copytree(deploy.OUT / "1.0.0" / "artifact", folder / "good")
    shutil.copytree(deploy.OUT / "1.0.0" / "artifact", folder / "bad")
    weights = folder / "bad" / "image.onnx"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    for path in (cluster.folder, folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    apply(cluster, namespace, *make_claim(namespace, folder))
    service = json.loads(deploy.make_service("1.0.0", stage.image, replicas=1))

    apply(cluster, namespace, change_version("1.0.0", uri=f"pvc://{CLAIM}/bad"), service)
    found = wait_condition(cluster, namespace, "Stalled", "FileCorrupt")
    assert "image.onnx" in found["message"]
    assert "sha256" in found["message"]
    version = cluster.kubectl(
        *("get", "modelversions.sluice.dev", "pizza-spatial-1.0.0", "-n", namespace, "-o", "json")
    )
    conditions = {c["type"]: c for c in json.loads(version.stdout)["status"]["conditions"]}
    assert conditions["ArtifactVerified"]["status"] == "False"
    assert conditions["Ready"]["status"] == "False"

    good = change_version("1.0.0", uri=f"pvc://{CLAIM}/good")
    good["metadata"]["name"], good["spec"]["version"] = "pizza-spatial-1.0.1", "1.0.1"
    service["spec"]["model"]["version"] = "1.0.1"
    apply(cluster, namespace, good, service)
    deploy.wait_ready(cluster, namespace, "1.0.1")
    cluster.kubectl("delete", "persistentvolume", f"{CLAIM}-{namespace}", "--wait=false")
    shutil.rmtree(folder)


NOWHERE = "sha256:" + "00" * 32

CASES = {
    # name: type, reason, words of the message
    "a digest that nobody pushed": ("Stalled", "DigestMismatch", ["sha256:0000"]),
    "nobody at the address": ("Reconciling", "Unreachable", ["https://127.0.0.1:9"]),
    "no such tag": ("Reconciling", "NotFound", ["9.9.9"]),
    "more GPUs than any node has": (
        "Reconciling",
        "WaitingForCapacity",
        ["Insufficient nvidia.com/gpu"],
    ),
    "an image that is not there": ("Reconciling", "ImagePullBackOff", ["not-there"]),
}


def make_wrong(name: str, stage: Stage) -> list[dict[str, Any]]:
    """ModelVersion and InferenceService with one thing wrong."""
    version = change_version("1.0.0")
    image = stage.image
    match name:
        case "a digest that nobody pushed":
            version = change_version("1.0.0", digest=NOWHERE)
        case "nobody at the address":
            version = change_version("1.0.0", uri="https://127.0.0.1:9/models/")
        case "no such tag":
            uri = str(version["spec"]["artifact"]["uri"]).rpartition(":")[0] + ":9.9.9"
            version = change_version("1.0.0", uri=uri, digest=NOWHERE)
        case "more GPUs than any node has":
            version["spec"]["requirements"]["gpu"]["count"] = 16
        case "an image that is not there":
            image = "registry.testbed:5000/sluice/not-there:1"
    return [version, json.loads(deploy.make_service("1.0.0", image, replicas=1))]


@pytest.fixture(scope="module")
def wrong(stage: Stage) -> Iterator[dict[str, str]]:
    """A namespace for each case; all go wrong side by side, because each takes its time."""
    namespaces = {name: f"e2e-{uuid.uuid4().hex[:8]}" for name in CASES}
    for name, namespace in namespaces.items():
        deploy.make_namespace(stage.cluster, namespace)
        apply(stage.cluster, namespace, *make_wrong(name, stage))
    yield namespaces
    stage.cluster.kubectl("delete", "namespace", "--wait=false", *namespaces.values())


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said(stage: Stage, wrong: dict[str, str], name: str) -> None:
    type_, reason, words = CASES[name]

    found = wait_condition(stage.cluster, wrong[name], type_, reason)
    ready = wait_condition(stage.cluster, wrong[name], "Ready", reason)

    for word in words:
        assert word in found["message"], found
    assert ready["status"] == ("False" if type_ == "Stalled" else "Unknown")
