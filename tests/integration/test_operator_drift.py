"""Other people's hands on a service's children: what is ours is set back, what isn't is left alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.plane import CHILD_KINDS, JSON_PATCH, Obj, Refused
from tests.space import Space
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

POD = "spec.template.spec"


def start(space: Space, replicas: int = 1, most: int | None = None) -> None:
    space.register("1.0.0")
    space.create(space.service().scales(replicas, most))
    space.wait_ready("1.0.0")


@pytest.mark.parametrize("kind", CHILD_KINDS)
def test_a_deleted_child_comes_back(space: Space, kind: str) -> None:
    start(space, 1, 3)
    before, pods = space.child(kind), space.pods()
    name = before["metadata"]["name"]
    space.plane.delete(kind, space.name, name)

    def is_back() -> Obj | None:
        found = space.plane.get(kind, space.name, name)
        return found if found and found["metadata"]["uid"] != before["metadata"]["uid"] else None

    after = wait_for(is_back, what=f"{kind} is back")
    space.wait_ready("1.0.0")
    note = f"{kind} {name} was missing: made again"

    def is_told() -> bool:
        assert (told := space.events("Repaired")) == [note], told
        return True

    wait_for(is_told, what="the repair is told")
    if kind != "Deployment":
        # A record is made again from what runs, with what the API server had filled in.
        assert space.pods() == pods
    if kind == "ControllerRevision":
        assert after["data"]["inputs"] == before["data"]["inputs"]


def test_a_deleted_front_service_comes_back(space: Space) -> None:
    start(space)
    before = space.plane.read("Service", space.name, "pizza")
    space.plane.delete("Service", space.name, "pizza")
    after = wait_for(lambda: space.plane.get("Service", space.name, "pizza"), what="it is back")

    assert after["spec"]["selector"] == before["spec"]["selector"]


@dataclass(frozen=True)
class Drift:
    """Somebody's change of a child: a JSON patch, and how to read what it changed."""

    kind: str
    patch: list[dict[str, Any]]
    read: Callable[[Obj], object]
    front: bool = False


def replace(path: str, value: object) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": path, "value": value}]


def add(path: str, value: object) -> list[dict[str, Any]]:
    return [{"op": "add", "path": path, "value": value}]


def pod_of(deployment: Obj) -> Any:
    return deployment["spec"]["template"]["spec"]


SIDECAR = {"name": "sidecar", "image": "example.com/sidecar:1"}
DRIFTS = {
    "the front Service selects other pods": Drift(
        "Service", replace("/spec/selector", {"app": "mine"}), lambda o: o["spec"]["selector"], True
    ),
    "the front Service has another port": Drift(
        "Service",
        add("/spec/ports/-", {"name": "other", "port": 81}),
        lambda o: [port["port"] for port in o["spec"]["ports"]],
        True,
    ),
    "a label of ours is gone": Drift(
        "PodDisruptionBudget",
        [{"op": "remove", "path": "/metadata/labels/sluice.dev~1version"}],
        lambda o: o["metadata"]["labels"],
    ),
    "no replicas": Drift(
        "Deployment", replace("/spec/replicas", 0), lambda o: o["spec"]["replicas"]
    ),
    "another image": Drift(
        "Deployment",
        replace("/spec/template/spec/containers/0/image", "example.com/other:1"),
        lambda o: pod_of(o)["containers"][0]["image"],
    ),
    "a sidecar": Drift(
        "Deployment",
        add("/spec/template/spec/containers/-", SIDECAR | {"securityContext": {}}),
        lambda o: [container["name"] for container in pod_of(o)["containers"]],
    ),
    "the server may gain privileges": Drift(
        "Deployment",
        replace(
            "/spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation",
            True,
        ),
        lambda o: pod_of(o)["containers"][0]["securityContext"]["allowPrivilegeEscalation"],
    ),
    "another ceiling": Drift(
        "HorizontalPodAutoscaler",
        replace("/spec/maxReplicas", 50),
        lambda o: o["spec"]["maxReplicas"],
    ),
    "eviction of all at once": Drift(
        "PodDisruptionBudget",
        replace("/spec/maxUnavailable", "100%"),
        lambda o: o["spec"]["maxUnavailable"],
    ),
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS)
def test_a_changed_child_is_set_back(space: Space, drift: Drift) -> None:
    # An autoscaler's own replicas are no drift, so most have none.
    start(space, 1, 3 if drift.kind == "HorizontalPodAutoscaler" else None)
    child = (
        space.plane.read(drift.kind, space.name, "pizza")
        if drift.front
        else space.child(drift.kind)
    )
    name, before = child["metadata"]["name"], drift.read(child)
    changed = space.plane.patch(drift.kind, space.name, name, drift.patch, form=JSON_PATCH)
    assert drift.read(changed) != before

    wait_for(
        lambda: drift.read(space.plane.read(drift.kind, space.name, name)) == before,
        what=f"{drift.kind} is as before",
    )
    note = f"{drift.kind} {name} had been changed: set back"
    wait_for(lambda: note in space.events("Repaired"), what="the repair is told")
    space.wait_ready("1.0.0")


def make_foreign(space: Space, references: list[Obj], selector: Obj | None) -> Obj:
    ports = [{"name": "own", "port": 9000}]
    return space.plane.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "pizza",
                "namespace": space.name,
                "ownerReferences": references,
            },
            "spec": {"ports": ports} | ({"selector": selector} if selector else {}),
        }
    )


def make_controller(space: Space) -> Obj:
    made = space.plane.create(
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": "their-own", "namespace": space.name},
            "revision": 1,
            "data": {"of": "theirs"},
        }
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "name": "their-own",
        "uid": made["metadata"]["uid"],
        "controller": True,
    }


@pytest.mark.parametrize(
    ("owned", "selector", "words"),
    [
        pytest.param(
            False, {"app": "mine"}, "Service pizza exists and is not Sluice's", id="nobody's"
        ),
        # Nothing in it contradicts ours, field by field: a server-side apply would just take it over.
        pytest.param(
            False, None, "Service pizza exists and is not Sluice's", id="nobody's, and no selector"
        ),
        pytest.param(
            True,
            {"app": "mine"},
            "Service pizza is owned by ControllerRevision their-own",
            id="somebody's",
        ),
    ],
)
def test_a_foreign_service_is_left_alone(
    space: Space, owned: bool, selector: Obj | None, words: str
) -> None:
    before = make_foreign(space, [make_controller(space)] if owned else [], selector)
    space.register("1.0.0")
    space.create(space.service())
    stalled = space.wait_condition("Stalled", "ChildIsForeign")
    after = space.plane.read("Service", space.name, "pizza")
    space.plane.delete("Service", space.name, "pizza")
    space.wait_ready("1.0.0")

    assert words in stalled["message"]
    assert after == before


def test_a_deleted_service_leaves_nothing(space: Space) -> None:
    start(space, 2, 3)
    space.plane.delete("InferenceService", space.name, "pizza")

    wait_for(lambda: not space.traces(), what="nothing is left")


def test_made_again_at_once_under_the_same_name(space: Space) -> None:
    start(space, 2)
    first = set(space.pods())
    space.plane.delete("InferenceService", space.name, "pizza")
    space.create(space.service().scales(2))
    obj = space.wait_ready("1.0.0")

    def is_replaced() -> bool:
        pods = set(space.pods())
        return len(pods) == 2 and not pods & first

    wait_for(is_replaced, what="only pods of the new service are left")
    for child in space.children("Service"):
        assert child["metadata"]["ownerReferences"][0]["uid"] == obj["metadata"]["uid"]


def test_the_restricted_standard_would_refuse_more(space: Space) -> None:
    """The namespace of these tests is strict: what it let in needs no privileges."""
    with pytest.raises(Refused, match="violates PodSecurity"):
        space.plane.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "root", "namespace": space.name},
                "spec": {"containers": [SIDECAR]},
            }
        )
