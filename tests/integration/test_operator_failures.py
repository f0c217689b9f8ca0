"""What goes wrong on the way to a revision: who says so, in which words, and who goes on serving."""

import json
from typing import Any

import pytest

from testbed.kwok import make_node
from tests.operator_process import OperatorProcess
from tests.space import SIMULATED, Space, find_condition, make_env
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane


def report(reason: str, message: str, *, permanent: bool) -> str:
    """What `fetch` leaves as its termination message (docs/contract.md)."""
    return json.dumps(
        {"outcome": "Failed", "reason": reason, "message": message, "permanent": permanent}
    )


DIGEST = report("DigestMismatch", "the manifest is sha256:1b, the version names ab", permanent=True)
CORRUPT = report("FileCorrupt", "image.onnx: sha256 is 9f, the manifest says 1b", permanent=True)
AWAY = report("Unreachable", "registry.testbed:5000: connection refused", permanent=False)


def begin(space: Space, **env: str) -> None:
    """A first deployment whose pods behave so."""
    space.register("1.0.0")
    space.create(space.service().runtime(env=make_env(**env)))


def start(space: Space) -> None:
    space.register("1.0.0", "1.1.0")
    space.create(space.service())
    space.wait_ready("1.0.0")


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        pytest.param(DIGEST, "DigestMismatch", "the version names ab", id="another manifest"),
        pytest.param(CORRUPT, "FileCorrupt", "image.onnx: sha256 is 9f", id="a corrupt file"),
    ],
)
def test_a_first_deployment_of_a_bad_artifact(
    space: Space, message: str, reason: str, words: str
) -> None:
    begin(space, BEHAVIOUR="fetch-failed", MESSAGE=message)
    stalled = space.wait_condition("Stalled", reason)
    ready = find_condition(space.read(), "Ready") or {}
    version = wait_for(
        lambda: find_condition(
            space.plane.read("ModelVersion", space.name, "pizza-spatial-1.0.0"), "Stalled"
        ),
        what="the version is stalled too",
    )

    assert words in stalled["message"]
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert (version["reason"], words in version["message"]) == (reason, True)


def test_an_update_to_a_bad_artifact_is_rolled_back_for_good(
    space: Space, operator: OperatorProcess
) -> None:
    start(space)
    pods = space.pods()
    space.move("1.1.0", BEHAVIOUR="fetch-failed", MESSAGE=CORRUPT)
    stalled = space.wait_condition("Stalled", "RolledBack")
    available = find_condition(space.read(), "Available") or {}
    wait_for(lambda: space.pods() == pods, what="only stable's own pods are left")
    operator.kill()
    # Neither a restart nor a lost status brings the rejected revision back.
    space.plane.patch("InferenceService", space.name, "pizza", {"status": None}, sub="status")
    with space.plane.following("Pod", space.name) as following:
        operator.start()
        operator.wait_until_working()
        again = space.wait_condition("Stalled", "RolledBack")
        space.wait_condition("Available", "StableServes")
    made = [pod["metadata"]["name"] for type_, pod in following.seen if type_ == "ADDED"]
    space.change({"model": {"version": "1.0.0"}, "runtime": {"env": None}})
    space.wait_ready("1.0.0")

    assert stalled["message"].startswith("rolled back to 1.0.0: 1.1.0: FileCorrupt")
    assert "image.onnx: sha256 is 9f, the manifest says 1b" in stalled["message"]
    assert again["message"] == stalled["message"]
    assert available["status"] == "True"
    assert made == []
    assert space.pods() == pods


@pytest.mark.parametrize(
    ("env", "reason", "words"),
    [
        pytest.param(
            {"BEHAVIOUR": "fetch-failed", "MESSAGE": AWAY, "EXIT_CODE": "4"},
            "Unreachable",
            "connection refused",
            id="the registry is away",
        ),
        pytest.param(
            {"BEHAVIOUR": "crash-loop", "MESSAGE": "boom", "EXIT_CODE": "7"},
            "Error",
            "ended with exit code 7",
            id="the server crashes",
        ),
        pytest.param(
            {"BEHAVIOUR": "image-pull-failed"},
            "ImagePullBackOff",
            "ImagePullBackOff",
            id="no such image",
        ),
    ],
)
def test_what_may_mend_itself_is_under_way_and_mends_itself(
    space: Space, env: dict[str, str], reason: str, words: str
) -> None:
    begin(space, **env)
    reconciling = space.wait_condition("Reconciling", reason)
    (pod,) = space.pods().values()
    well = {"metadata": {"annotations": {"testbed.sluice.dev/behaviour": "ready"}}}
    space.plane.patch("Pod", space.name, pod["metadata"]["name"], well)
    space.wait_ready("1.0.0")

    assert "0/1 pods ready" in reconciling["message"]
    assert words in reconciling["message"]


def test_no_node_has_so_many_gpus_until_one_has(space: Space) -> None:
    """The pods ask for more GPUs than any node has; then such a node comes."""
    space.create(space.version("1.0.0").gpus(12))
    space.create(
        space.service().runtime(
            tolerations=[*SIMULATED, {"key": f"sluice.test/{space.name}", "operator": "Exists"}]
        )
    )
    waiting = space.wait_condition("Reconciling", "WaitingForCapacity")
    node: dict[str, Any] = make_node(900)
    node["metadata"]["name"] = f"big-{space.name}"
    node["metadata"]["labels"]["kubernetes.io/hostname"] = node["metadata"]["name"]
    node["spec"]["taints"].append({"key": f"sluice.test/{space.name}", "effect": "NoSchedule"})
    for amounts in ("capacity", "allocatable"):
        node["status"][amounts] = node["status"][amounts] | {"nvidia.com/gpu": "16"}
    space.plane.create(node)
    space.wait_ready("1.0.0", seconds=90)
    (pod,) = space.pods().values()
    space.plane.delete("InferenceService", space.name, "pizza")
    wait_for(lambda: not space.pods(), what="the pod is gone")
    space.plane.delete("Node", "", node["metadata"]["name"])

    assert "Insufficient nvidia.com/gpu" in waiting["message"]
    assert pod["spec"]["nodeName"] == node["metadata"]["name"]


def test_a_quota_is_in_the_way(space: Space) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "tight", "namespace": space.name},
        "spec": {"hard": {"pods": "0"}},
    }
    space.plane.create(quota)
    wait_for(
        lambda: (
            space.plane.read("ResourceQuota", space.name, "tight").get("status", {}).get("used")
        ),
        what="the quota is counted",
    )
    begin(space)
    reconciling = space.wait_condition("Reconciling", "FailedCreate")
    space.plane.delete("ResourceQuota", space.name, "tight")
    space.wait_ready("1.0.0")

    assert "exceeded quota: tight" in reconciling["message"]


def test_an_update_past_its_deadline_is_rolled_back(space: Space) -> None:
    start(space)
    pods = space.pods()
    space.change({"rollout": {"deadline": "3s"}})
    space.move("1.1.0", BEHAVIOUR="never-ready")
    stalled = space.wait_condition("Stalled", "RolledBack")
    wait_for(lambda: space.pods() == pods, what="only stable's own pods are left")

    assert "0/1 pods ready and no progress for 3s" in stalled["message"]


def test_a_first_deployment_past_its_deadline_goes_on_trying(space: Space) -> None:
    space.register("1.0.0")
    space.create(space.service().deadline("2s").runtime(env=make_env(BEHAVIOUR="never-ready")))
    stalled = space.wait_condition("Stalled", "ProgressDeadlineExceeded")
    (pod,) = space.pods().values()
    well = {"metadata": {"annotations": {"testbed.sluice.dev/behaviour": "ready"}}}
    space.plane.patch("Pod", space.name, pod["metadata"]["name"], well)
    space.wait_ready("1.0.0")

    assert "0/1 pods ready and no progress for 2s" in stalled["message"]


def test_a_version_that_is_not_there_yet(space: Space) -> None:
    start(space)
    space.move("1.2.0")
    reconciling = space.wait_condition("Reconciling", "WaitingForVersion")
    available = find_condition(space.read(), "Available") or {}
    space.register("1.2.0")
    space.wait_ready("1.2.0")

    assert "ModelVersion pizza-spatial-1.2.0 is not in namespace" in reconciling["message"]
    assert available["status"] == "True"


def test_a_retired_version_is_not_begun(space: Space) -> None:
    start(space)
    retire = {"spec": {"lifecycle": "Retired"}}
    space.plane.patch("ModelVersion", space.name, "pizza-spatial-1.1.0", retire)
    space.move("1.1.0")
    stalled = space.wait_condition("Stalled", "VersionRetired")
    serving = space.status()["stable"]["version"]
    active = {"spec": {"lifecycle": "Active"}}
    space.plane.patch("ModelVersion", space.name, "pizza-spatial-1.1.0", active)
    space.wait_ready("1.1.0")

    assert "pizza-spatial-1.1.0 is Retired" in stalled["message"]
    assert serving == "1.0.0"


def test_stable_loses_its_pods(space: Space) -> None:
    start(space)
    (pod,) = space.pods().values()
    ill = {"metadata": {"annotations": {"testbed.sluice.dev/behaviour": "never-ready"}}}
    well = {"metadata": {"annotations": {"testbed.sluice.dev/behaviour": "ready"}}}
    space.plane.patch("Pod", space.name, pod["metadata"]["name"], ill)
    stalled = space.wait_condition("Stalled", "StableUnhealthy")
    available = find_condition(space.read(), "Available") or {}
    space.plane.patch("Pod", space.name, pod["metadata"]["name"], well)
    space.wait_ready("1.0.0")

    assert "0/1 pods ready" in stalled["message"]
    assert available["status"] == "False"


def test_what_the_api_server_refuses_is_said_in_its_words(space: Space) -> None:
    """The schema keeps volumes as core/v1 has them; only the API server itself knows them all."""
    space.register("1.0.0")
    space.create(
        space.service().runtime(volumes=[{"name": "bad", "secret": {"defaultMode": 99999}}])
    )
    stalled = space.wait_condition("Stalled", "ChildRefused")
    space.change({"runtime": {"volumes": None}})
    space.wait_ready("1.0.0")

    assert "Deployment pizza-" in stalled["message"]
    assert "defaultMode" in stalled["message"]
