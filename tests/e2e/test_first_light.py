"""A model version served on a real node: pods, images, packets, and a move that nobody notices."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from examples.pizza import deploy
from testbed import install
from testbed.cluster import Cluster
from tests.e2e.conftest import Stage

pytestmark = pytest.mark.node


def apply(cluster: Cluster, namespace: str, manifest: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=manifest)


def get(cluster: Cluster, namespace: str, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cluster.kubectl("get", *what, "-n", namespace, "-o", "json").stdout
    )
    return found


def test_a_version_is_served_and_the_next_takes_over(stage: Stage, namespace: str) -> None:
    """The whole path once. One test, because each part stands on the one before."""
    cluster = stage.cluster
    for version in ("1.0.0", "1.1.0"):
        apply(cluster, namespace, deploy.make_version(version))
    apply(cluster, namespace, deploy.make_service("1.0.0", stage.image))
    deploy.wait_ready(cluster, namespace, "1.0.0")
    url = deploy.find_address(cluster, namespace)

    answer = deploy.wait_answer(cluster, url, stage.scene)
    (prediction,), (embedding,) = answer["predictions"], answer["embeddings"]
    assert answer["version"] == "1.0.0"
    assert len(embedding) == answer["dimension"]
    assert sum(number * number for number in embedding) == pytest.approx(1.0, abs=1e-3)
    assert prediction["label"]

    pods = get(cluster, namespace, "pods")["items"]
    assert len(pods) == 2
    for pod in pods:
        (server,) = pod["spec"]["containers"]
        assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["spec"]["runtimeClassName"] == "nvidia"
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    found = get(cluster, namespace, "modelversions.sluice.dev", "pizza-spatial-1.0.0")
    verified = [c for c in found["status"]["conditions"] if c["type"] == "ArtifactVerified"]
    assert [c["status"] for c in verified] == ["True"]
    assert found["spec"]["artifact"]["digest"] == stage.digests["1.0.0"]

    with deploy.run_load(cluster, url, stage.scene, rate=50) as load:
        load.wait_more(150)  # some traffic before anything moves
        apply(cluster, namespace, deploy.make_service("1.1.0", stage.image))
        deploy.wait_for(
            lambda: deploy.list_pods(cluster, namespace, "1.1.0") or None, 60, "a pod of 1.1.0"
        )
        operator = install.operator_pods(cluster)
        cluster.kubectl("delete", "pod", "-n", install.NAMESPACE, "--wait=false", *operator)
        deploy.wait_ready(cluster, namespace, "1.1.0")
        deploy.wait_gone(cluster, namespace, "1.0.0")
        load.wait_more(150)  # and some after the last old pod
        report = load.stop()
    assert report["failed"] == 0, report["failures"]
    assert report["requests"] > 500
    assert len(report["revisions"]) == 2

    assert deploy.classify(cluster, url, stage.scene)["version"] == "1.1.0"
    status = get(cluster, namespace, deploy.KIND, deploy.SERVICE)["status"]
    assert [(entry["version"], entry["outcome"]) for entry in status["history"]] == [
        ("1.1.0", "Serving"),
        ("1.0.0", "Replaced"),
    ]
    story = [
        item["reason"]
        for item in sorted(
            get(cluster, namespace, "events.events.k8s.io")["items"],
            key=lambda item: item["metadata"]["creationTimestamp"],
        )
        if item["regarding"]["kind"] == "InferenceService"
    ]
    assert story[-1] == "Serving"
    assert {"RollingOut", "Draining", "Serving"} <= set(story)

    cluster.kubectl("delete", deploy.KIND, deploy.SERVICE, "-n", namespace, "--wait=true")
    deploy.wait_for(lambda: is_empty(cluster, namespace) or None, 90, "an empty namespace")


def is_empty(cluster: Cluster, namespace: str) -> bool:
    kinds = "pods,deployments,services,hpa,pdb,controllerrevisions,endpointslices"
    return get(cluster, namespace, kinds)["items"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("truncated", "422", "IMAGE_CORRUPT"),
        ("text", "415", "UNSUPPORTED_MEDIA_TYPE"),
        ("huge", "413", "IMAGE_TOO_LARGE"),
    ],
)
def test_bad_pictures_get_clear_answers(
    stage: Stage, served: str, body: str, status: str, code: str
) -> None:
    png = stage.scene.read_bytes()
    bodies = {
        "truncated": png[: len(png) // 2],
        "text": b"this is no picture at all, whatever its content type says",
        "huge": b"\x89PNG\r\n\x1a\n" + b"\0" * (32 << 20),
    }
    file = stage.cluster.folder / f"body-{body}"
    file.write_bytes(bodies[body])
    answer = stage.cluster.run_inside(
        [
            *("curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}"),
            *("-H", "Content-Type: image/png", "--data-binary", f"@{file}", f"{served}/classify"),
        ]
    )
    text, _, found = answer.stdout.rpartition("\n")

    assert found == status, text
    error = json.loads(text)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"]


@pytest.fixture(scope="module")
def served(stage: Stage) -> Any:
    """The URL of one replica of 1.0.0, for tests that only ask."""
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    deploy.make_namespace(stage.cluster, namespace)
    apply(stage.cluster, namespace, deploy.make_version("1.0.0"))
    apply(stage.cluster, namespace, deploy.make_service("1.0.0", stage.image, replicas=1))
    deploy.wait_ready(stage.cluster, namespace, "1.0.0")
    url = deploy.find_address(stage.cluster, namespace)
    deploy.wait_answer(stage.cluster, url, stage.scene)
    yield url
    stage.cluster.kubectl("delete", "namespace", namespace, "--wait=false")
