"""The first deployment on a real control plane: the conditions on the way, and what is there at its end."""

from typing import Any

import pytest

from testbed.cluster import Cluster
from tests.plane import CHILD_KINDS, Obj
from tests.space import Space, find_condition
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

GPU = "nvidia.com/gpu"
H100 = "NVIDIA-H100-80GB-HBM3"


def deploy_on_gpus(space: Space) -> None:
    space.plane.create(space.version("1.0.0").gpus(1, products=[H100], memory="40Gi").obj())
    space.create(
        space.service()
        .scales(2, 4)
        .runtime(nodeSelector={"type": "kwok"}, priorityClassName="system-cluster-critical")
    )


def test_the_conditions_tell_a_story(space: Space) -> None:
    with space.plane.following("InferenceService", space.name) as following:
        space.create(space.service().scales(2))
        space.wait_condition("Reconciling", "WaitingForVersion")
        space.register("1.0.0")
        space.wait_ready("1.0.0")
    told: list[tuple[str, str]] = []
    for _, obj in following.seen:
        ready = find_condition(obj, "Ready")
        if ready and (not told or told[-1] != (ready["status"], ready["reason"])):
            told.append((ready["status"], ready["reason"]))

    assert told == [
        ("Unknown", "Pending"),  # the API server's own, before the operator saw it
        ("Unknown", "WaitingForVersion"),
        ("Unknown", "RollingOut"),
        ("True", "Serving"),
    ]
    status = space.status()
    assert status["stable"] | {"revision": ""} == {
        "model": "pizza-spatial",
        "version": "1.0.0",
        "revision": "",
        "digest": space.version("1.0.0").obj()["spec"]["artifact"]["digest"],
        "replicas": 2,
        "readyReplicas": 2,
        "weight": 100,
        "space": "pizza-1",
    }
    assert "candidate" not in status
    assert status["message"] == "1.0.0: 2/2 pods ready"
    wait_for(lambda: space.events("Serving"), what="the event, which nothing waits for")
    assert space.events("Serving") == ["1.0.0: 2/2 pods ready"]


def test_kubectl_wait_and_the_printed_columns(space: Space, cluster: Cluster) -> None:
    space.register("1.0.0")
    space.create(space.service())
    cluster.kubectl(
        *("wait", "-n", space.name, "--for=condition=Ready", "msvc/pizza", "--timeout=60s")
    )
    printed = cluster.kubectl("get", "-n", space.name, "msvc", "pizza").stdout.splitlines()

    assert "1.0.0" in printed[1]
    assert "True" in printed[1]


def test_children_and_pods_on_gpu_nodes(space: Space) -> None:
    deploy_on_gpus(space)
    obj = space.wait_ready("1.0.0")
    owner = {"kind": "InferenceService", "name": "pizza", "uid": obj["metadata"]["uid"]}
    counts = {kind: len(space.children(kind)) for kind in CHILD_KINDS}
    for kind in CHILD_KINDS:
        for child in space.children(kind):
            (reference,) = child["metadata"]["ownerReferences"]
            assert reference | owner == reference
            assert reference["controller"] is True
            assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "sluice"

    assert counts == {
        "ControllerRevision": 1,
        "Service": 2,
        "Deployment": 1,
        "HorizontalPodAutoscaler": 1,
        "PodDisruptionBudget": 1,
    }
    check_pods(list(space.pods().values()))
    hpa = space.child("HorizontalPodAutoscaler")
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (2, 4)
    assert space.child("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_behavior_may_leave_its_policies_to_kubernetes(space: Space) -> None:
    """An HPA with an empty list of policies is refused; one without the list gets the defaults."""
    window = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    space.register("1.0.0")
    space.create(space.service().scales(1, 3, behavior=window))
    space.wait_ready("1.0.0")
    behavior = space.child("HorizontalPodAutoscaler")["spec"]["behavior"]

    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 60
    assert behavior["scaleDown"]["policies"]


def check_pods(pods: list[Obj]) -> None:
    assert len(pods) == 2
    for pod in pods:
        spec: dict[str, Any] = pod["spec"]
        (fetch,), (server,) = spec["initContainers"], spec["containers"]
        assert spec["nodeName"].startswith("gpu-")
        assert spec["nodeSelector"] == {"type": "kwok"}
        assert (fetch["name"], server["name"]) == ("fetch", "server")
        assert server["resources"]["requests"][GPU] == server["resources"]["limits"][GPU] == "1"
        assert GPU not in fetch["resources"].get("requests", {})
        assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
        assert H100 in str(spec["affinity"]["nodeAffinity"])
        assert server["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= server.keys()
        assert spec["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
        assert spec["terminationGracePeriodSeconds"] > 30
        assert spec["automountServiceAccountToken"] is False
        for container in (fetch, server):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_runtime_class_reaches_the_pods(space: Space) -> None:
    name = f"class-{space.name}"
    space.plane.create(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": name},
            "handler": "nvidia",
        }
    )
    space.register("1.0.0")
    space.create(space.service().runtime(runtimeClassName=name))
    space.wait_ready()
    space.plane.delete("RuntimeClass", "", name)

    (pod,) = space.pods().values()
    assert pod["spec"]["runtimeClassName"] == name


def test_the_front_service_reaches_the_pods(space: Space) -> None:
    space.register("1.0.0")
    space.create(space.service().scales(2))
    space.wait_ready()
    slices = space.plane.list("EndpointSlice", space.name, "kubernetes.io/service-name=pizza")
    behind = {
        endpoint["targetRef"]["uid"] for part in slices for endpoint in part.get("endpoints") or ()
    }

    assert behind == set(space.pods())


def test_a_version_says_who_verified_it_and_who_uses_it(space: Space) -> None:
    space.create(space.service())
    space.create(space.service("pasta"))
    space.wait_condition("Reconciling", "WaitingForVersion")
    space.wait_condition("Reconciling", "WaitingForVersion", name="pasta")
    space.register("1.0.0", "1.1.0")

    def read(version: str) -> Obj:
        return space.plane.read("ModelVersion", space.name, f"pizza-spatial-{version}")

    def is_verified() -> bool:
        found = find_condition(read("1.0.0"), "ArtifactVerified")
        return found is not None and (found["status"], found["reason"]) == ("True", "Verified")

    wait_for(is_verified, what="the version is verified")
    used = read("1.0.0")["status"]["usedBy"]
    unused = wait_for(lambda: read("1.1.0").get("status"), what="the other one has a status")

    assert used["count"] == 2
    assert [service["name"] for service in used["services"]] == ["pasta", "pizza"]
    assert unused["usedBy"] == {"count": 0, "services": []}
    unread = find_condition(read("1.1.0"), "ArtifactVerified") or {}
    assert (unread["status"], unread["reason"]) == ("Unknown", "NotFetched")
