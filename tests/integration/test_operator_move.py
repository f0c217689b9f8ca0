"""From one revision to the next on a real control plane: traffic moves once, and nothing else does."""

import shutil
from pathlib import Path

import pytest

from testbed.cluster import Cluster
from tests.audit import AuditLog
from tests.operator_process import ROOT, OperatorProcess
from tests.plane import Obj
from tests.space import Space, find_condition, make_env
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane


def start(space: Space, replicas: int = 2, most: int | None = None) -> None:
    space.register("1.0.0", "1.1.0")
    space.create(space.service().scales(replicas, most))
    space.wait_ready("1.0.0")


def front_history(events: list[tuple[str, Obj]]) -> list[set[str]]:
    """The pods that the front Service reached, after each event of its EndpointSlices."""
    slices: dict[str, set[str]] = {}
    history = []
    for type_, part in events:
        if part["metadata"]["labels"].get("kubernetes.io/service-name") != "pizza":
            continue
        ready = {
            endpoint["targetRef"]["uid"]
            for endpoint in part.get("endpoints") or ()
            if endpoint["conditions"].get("ready", True)
        }
        slices[part["metadata"]["name"]] = set() if type_ == "DELETED" else ready
        history.append(set().union(*slices.values()))
    return history


def test_traffic_moves_in_one_write(space: Space, audit: AuditLog) -> None:
    start(space)
    old = space.pods()
    old_name = space.child("Deployment")["metadata"]["name"]
    begun = len(audit.writes(space.name))
    with (
        space.plane.following("EndpointSlice", space.name) as slices,
        space.plane.following("Pod", space.name) as pods,
    ):
        space.move("1.1.0")
        space.wait_ready("1.1.0")
        wait_for(lambda: not set(old) & set(space.pods()), what="the old pods are gone")
    new = space.pods()
    reached = front_history(slices.seen)
    fronts = [
        request
        for request in audit.writes(space.name)[begun:]
        if (request.resource, request.name) == ("services", "pizza")
    ]
    hurt = [
        pod["metadata"]["name"]
        for _, pod in pods.seen
        if any(status["restartCount"] for status in pod["status"].get("containerStatuses", ()))
    ]

    assert [(request.verb, request.code) for request in fronts] == [("patch", 200)]
    assert all(reached), "a moment without an endpoint"
    # Never fewer than one side of the switch, never half of each.
    assert all(pods_of == set(old) or pods_of == set(new) for pods_of in reached)
    assert reached[-1] == set(new)
    assert hurt == []
    # Each revision's pods were made once: promotion restarted none.
    made = {pod["metadata"]["uid"] for type_, pod in pods.seen if type_ == "ADDED"}
    assert made == set(new)
    assert {deployment["metadata"]["name"] for deployment in space.children("Deployment")} == {
        name for name in [space.child("Deployment")["metadata"]["name"]] if name != old_name
    }
    history = [(entry["version"], entry["outcome"]) for entry in space.status()["history"]]
    assert history == [("1.1.0", "Serving"), ("1.0.0", "Replaced")]


def test_stable_is_untouched_until_traffic_has_moved(space: Space) -> None:
    start(space)
    old, before = space.pods(), space.child("Deployment")
    space.move("1.1.0", LOAD_TIME="2s")
    wait_for(lambda: len(space.pods()) > len(old), what="the candidate's pods are there")
    name = before["metadata"]["name"]
    during = space.plane.read("Deployment", space.name, name)
    pods_during = space.pods()
    candidate = space.status()["candidate"]
    space.wait_ready("1.1.0")

    assert during["spec"] == before["spec"]
    assert during["metadata"]["generation"] == before["metadata"]["generation"]
    assert set(old) <= set(pods_during)
    assert (candidate["version"], candidate["weight"]) == ("1.1.0", 0)


def test_back_to_stable_is_an_abort(space: Space) -> None:
    start(space)
    old = space.pods()
    space.move("1.1.0", BEHAVIOUR="never-ready")
    wait_for(lambda: len(space.pods()) > len(old), what="the candidate's pods are there")
    space.change({"model": {"version": "1.0.0"}, "runtime": {"env": None}})
    space.wait_ready("1.0.0")
    wait_for(lambda: set(space.pods()) == set(old), what="only stable's own pods are left")

    assert len(space.children("Deployment")) == 1
    assert "candidate" not in space.status()


def test_a_third_version_takes_the_candidates_place(space: Space) -> None:
    start(space)
    space.create(space.version("1.2.0"))
    space.move("1.1.0", BEHAVIOUR="never-ready")
    wait_for(
        lambda: space.status().get("candidate", {}).get("version") == "1.1.0",
        what="1.1.0 is the candidate",
    )
    space.change({"model": {"version": "1.2.0"}, "runtime": {"env": None}})
    space.wait_ready("1.2.0")

    wait_for(lambda: len(space.pods()) == 2, what="only 1.2.0 runs")
    outcomes = [(entry["version"], entry["outcome"]) for entry in space.status()["history"]]
    assert outcomes == [("1.2.0", "Serving"), ("1.0.0", "Replaced")]


def test_suspended_means_hands_off(space: Space, audit: AuditLog) -> None:
    start(space)
    space.change({"suspend": True, "model": {"version": "1.1.0"}})
    space.wait_condition("Suspended", "Suspended")
    begun = len(audit.writes(space.name))
    name = space.child("Deployment")["metadata"]["name"]
    space.plane.patch("Deployment", space.name, name, {"spec": {"replicas": 1}})
    wait_for(lambda: len(space.pods()) == 1, what="the change has its effect")
    ready = find_condition(space.read(), "Ready") or {}
    # Only words, its own, its versions' and events, never a child.
    touched = {request.resource for request in audit.writes(space.name)[begun:]}
    space.change({"suspend": False})
    space.wait_ready("1.1.0")

    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert touched <= {"inferenceservices", "modelversions", "events"}


def test_the_bounds_of_the_autoscaler_follow_the_spec(space: Space) -> None:
    start(space, 2, 4)
    pods = space.pods()
    space.change({"scaling": {"minReplicas": 2, "maxReplicas": 6}})
    wait_for(
        lambda: space.child("HorizontalPodAutoscaler")["spec"]["maxReplicas"] == 6,
        what="the autoscaler has the new bound",
    )
    space.change({"scaling": {"minReplicas": 2, "maxReplicas": 2}})
    wait_for(lambda: not space.children("HorizontalPodAutoscaler"), what="the autoscaler is gone")
    space.wait_ready("1.0.0")

    assert space.pods() == pods


def test_the_api_server_dies_amid_the_move(space: Space, cluster: Cluster) -> None:
    start(space)
    space.move("1.1.0", LOAD_TIME="3s")
    wait_for(lambda: len(space.pods()) == 4, what="the candidate's pods are there")
    cluster.restart("kube-apiserver")
    space.wait_ready("1.1.0", seconds=90)

    wait_for(lambda: len(space.pods()) == 2, what="only 1.1.0 runs", seconds=90)
    assert len(space.children("Deployment")) == 1


@pytest.fixture
def changed_source(tmp_path: Path) -> Path:
    """An operator whose templates differ: another preStop, another grace."""
    source = tmp_path / "operator"
    shutil.copytree(ROOT / "operator", source, ignore=shutil.ignore_patterns("__pycache__"))
    module = source / "sluice" / "resources" / "pod.py"
    text = module.read_text()
    changed = text.replace("PRE_STOP_SECONDS = 5\n", "PRE_STOP_SECONDS = 9\n").replace(
        "EXIT_SECONDS = 10\n", "EXIT_SECONDS = 25\n"
    )
    assert changed.count("= 9\n") == text.count("= 9\n") + 1
    assert changed.count("= 25\n") == text.count("= 25\n") + 1
    module.write_text(changed)
    return source


def test_an_operator_with_other_templates_restarts_nothing(
    space: Space, operator: OperatorProcess, changed_source: Path, audit: AuditLog
) -> None:
    start(space)
    pods, before = space.pods(), space.children("Deployment")
    begun = len(audit.writes(space.name))
    operator.use(changed_source)
    try:
        operator.restart()
        # It is heard of again: a change of the bounds is carried out, and nothing besides.
        space.change({"scaling": {"minReplicas": 2, "maxReplicas": 3}})
        wait_for(
            lambda: space.children("HorizontalPodAutoscaler"), what="the changed operator works"
        )
        space.wait_ready("1.0.0")
        kept = space.pods(), [item["spec"] for item in space.children("Deployment")]
        touched = {request.resource for request in audit.writes(space.name)[begun:]}
        space.move("1.1.0")
        space.wait_ready("1.1.0")
        (pod, *_) = [
            pod
            for pod in space.pods().values()
            if pod["metadata"]["labels"]["sluice.dev/version"] == "1.1.0"
        ]
    finally:
        operator.use(ROOT / "operator")
        operator.restart()

    assert kept == (pods, [item["spec"] for item in before])
    # The versions' statuses name who uses them.
    assert touched <= {"horizontalpodautoscalers", "inferenceservices", "modelversions", "events"}
    # The new templates are for new revisions.
    assert pod["spec"]["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 9}}


def test_another_setting_of_the_runtime_is_a_new_revision(space: Space) -> None:
    start(space, 1)
    old = space.status()["stable"]["revision"]
    space.change({"runtime": {"env": make_env(NOTE="changed")}})
    space.wait_ready("1.0.0")

    assert space.status()["stable"]["revision"] != old
