"""Least privilege: what config/rbac grants is what the operator uses, by the API server's own log.

One scenario makes it use every right it has; whatever other tests made it do before counts as well.
"""

import pytest
import yaml

from tests.audit import AuditLog
from tests.operator_process import NAMESPACE, ROOT, OperatorProcess
from tests.plane import CHILD_KINDS, JSON_PATCH, Obj
from tests.space import Space, make_env
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

Right = tuple[str, str, str]

# Granted, and never seen in a request: the authorizer is asked for it when a child with
# blockOwnerDeletion is written, where the cluster enforces that (OwnerReferencesPermissionEnforcement).
NEVER_REQUESTED: set[Right] = {
    ("update", "sluice.dev", "inferenceservices/finalizers"),
    # A Job's name has the time in it: nobody else's can be of the same but by foresight.
    ("get", "batch", "jobs"),
}

MORE_THAN_KEPT = 12


def read_granted() -> set[Right]:
    documents = yaml.safe_load_all((ROOT / "config" / "rbac" / "role.yaml").read_text())
    return {
        (verb, group, resource)
        for document in documents
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def add_owner(space: Space, kind: str, name: str) -> None:
    """One more owner: only a whole replacement takes it out again."""
    owner = space.plane.read("Namespace", "", space.name)["metadata"]
    reference = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "name": owner["name"],
        "uid": owner["uid"],
    }
    patch = [{"op": "add", "path": "/metadata/ownerReferences/-", "value": reference}]
    space.plane.patch(kind, space.name, name, patch, form=JSON_PATCH)


def has_one_owner(space: Space, kind: str, name: str) -> bool:
    return len(space.plane.read(kind, space.name, name)["metadata"]["ownerReferences"]) == 1


def take_out_foreign_owners(space: Space) -> None:
    """`update` of every kind of child."""
    space.create(space.service().scales(1, 3))
    space.wait_ready("1.0.0")
    for kind in CHILD_KINDS:
        if kind != "ControllerRevision":
            name = space.child(kind)["metadata"]["name"]
            add_owner(space, kind, name)
            wait_for(
                lambda kind=kind, name=name: has_one_owner(space, kind, name),
                what=f"the foreign owner of {kind} is taken out",
            )
    # A record can't be replaced, its data are immutable: then the foreign owner stays, and no harm is done.
    space.change({"rollout": {"deadline": "8s"}})
    space.move("1.1.0", BEHAVIOUR="never-ready")
    candidate = wait_for(lambda: space.status().get("candidate"), what="a candidate is there")
    name = f"pizza-{candidate['revision']}"
    wait_for(lambda: space.plane.get("ControllerRevision", space.name, name), what="its record")
    add_owner(space, "ControllerRevision", name)
    space.wait_condition("Stalled", "RolledBack")
    space.change({"rollout": {"deadline": "20m"}})

    def is_marked() -> bool:
        record = space.plane.read("ControllerRevision", space.name, name)
        annotations: dict[str, str] = record["metadata"]["annotations"]
        return annotations.get("sluice.dev/outcome") == "Rejected"

    wait_for(is_marked, what="the record says what became of its revision")


def run_into_foreign_objects(space: Space) -> None:
    """`get` of every kind of child: in one namespace each, somebody has an object of its name."""
    places = {}
    for kind in CHILD_KINDS:
        model = find_record(space) if kind == "ControllerRevision" else space.child(kind)
        place = places[kind] = Space(space.plane, f"{space.name}-{kind.lower()[:10]}")
        place.make()
        place.plane.create(make_namesake(model, place.name))
        place.register("1.0.0")
        place.create(place.service().scales(1, 3))
    try:
        for kind, place in places.items():
            stalled = place.wait_condition("Stalled", "ChildIsForeign")
            assert stalled["message"].startswith(f"{kind} pizza-")
    finally:
        for place in places.values():
            place.remove()


def find_record(space: Space) -> Obj:
    stable = space.status()["stable"]["revision"]
    return space.plane.read("ControllerRevision", space.name, f"pizza-{stable}")


def make_namesake(child: Obj, namespace: str) -> Obj:
    """Somebody's object of the same name that differs in a field of ours."""
    obj: Obj = {
        "apiVersion": child["apiVersion"],
        "kind": child["kind"],
        "metadata": {"name": child["metadata"]["name"], "namespace": namespace},
    }
    match child["kind"]:
        case "ControllerRevision":
            return obj | {"revision": 77, "data": {"of": "theirs"}}
        case "Service":
            return obj | {"spec": {"selector": {"app": "mine"}, "ports": [{"port": 1}]}}
        case "Deployment":
            pod = {
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{"name": "mine", "image": "example.com/mine:1"}],
            }
            template = {"metadata": {"labels": {"app": "mine"}}, "spec": pod}
            selector = {"matchLabels": {"app": "mine"}}
            return obj | {"spec": {"replicas": 0, "selector": selector, "template": template}}
        case "HorizontalPodAutoscaler":
            target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mine"}
            return obj | {"spec": {"maxReplicas": 99, "scaleTargetRef": target}}
        case _:
            selector = {"matchLabels": {"app": "mine"}}
            return obj | {"spec": {"maxUnavailable": 7, "selector": selector}}


def make_more_revisions_than_are_kept(space: Space) -> None:
    """`delete` of records."""
    for number in range(MORE_THAN_KEPT):
        space.change({"runtime": {"env": make_env(BEHAVIOUR="never-ready", NUMBER=str(number))}})
        wait_for(
            lambda number=number: str(number) in list_numbers(space),
            what=f"the record of revision {number}",
        )
    wait_for(
        lambda: "0" not in list_numbers(space), what="the oldest record is removed", seconds=30
    )
    go_back(space)


def go_back(space: Space) -> None:
    """Back to stable, and nothing else is left of what was tried."""
    space.change({"model": {"version": "1.0.0"}, "runtime": {"env": None}})
    space.wait_ready("1.0.0")
    wait_for(
        lambda: len(space.children("PodDisruptionBudget")) == 1, what="only stable has children"
    )


def list_numbers(space: Space) -> list[str]:
    return [
        variable["value"]
        for record in space.children("ControllerRevision")
        for variable in record["data"]["inputs"]["runtime"].get("env", ())
        if variable["name"] == "TESTBED_NUMBER"
    ]


def remove_an_autoscaler(space: Space) -> None:
    """`delete` of a HorizontalPodAutoscaler, and of all else by a move."""
    space.change({"scaling": {"minReplicas": 1, "maxReplicas": 1}})
    wait_for(lambda: not space.children("HorizontalPodAutoscaler"), what="no autoscaler")
    space.change({"scaling": {"minReplicas": 1, "maxReplicas": 3}})
    space.move("1.1.0", NOTE="well")
    space.wait_ready("1.1.0")
    wait_for(
        lambda: len(space.children("PodDisruptionBudget")) == 1, what="only 1.1.0 has children"
    )


def come_and_go_through_a_gateway(space: Space) -> None:
    """Every right on a route: made, found foreign in part, changed, and not wanted any more."""
    parents = [{"name": "eg"}]
    space.change({"traffic": {"parentRefs": parents, "hostnames": ["pizza.example.com"]}})
    wait_for(lambda: space.plane.get("HTTPRoute", space.name, "pizza"), what="a route")
    add_owner(space, "HTTPRoute", "pizza")
    wait_for(
        lambda: has_one_owner(space, "HTTPRoute", "pizza"),
        what="the foreign owner of the route is taken out",
    )
    space.change({"traffic": None})
    wait_for(lambda: not space.plane.get("HTTPRoute", space.name, "pizza"), what="no route")


def check_before_promotion(space: Space) -> None:
    """A Job comes and goes."""
    job = {"args": ["check"], "env": make_env(LOAD_TIME="1s")}
    space.change({"rollout": {"prePromotion": {"job": job}}})
    space.move("1.0.0", NOTE="checked")
    wait_for(lambda: space.children("Job"), what="a Job checks the candidate")
    space.wait_ready("1.0.0")
    wait_for(lambda: not space.children("Job"), what="the Job is gone")


def lose_the_lease_and_repeat_an_event(space: Space, operator: OperatorProcess) -> None:
    """`create` of the Lease, and `patch` of an Event that a predecessor had sent."""
    pdb = space.child("PodDisruptionBudget")["metadata"]["name"]
    note = f"PodDisruptionBudget {pdb} was missing: made again"
    space.plane.delete("PodDisruptionBudget", space.name, pdb)
    wait_for(lambda: space.events("Repaired").count(note), what="the first repair is told")
    operator.stop()
    space.plane.delete("Lease", NAMESPACE, "sluice-operator")
    operator.start()
    operator.wait_until_working()
    space.plane.delete("PodDisruptionBudget", space.name, pdb)

    def has_series() -> bool:
        events = space.plane.list("Event", space.name)
        return any(event["note"] == note and event.get("series") for event in events)

    wait_for(has_series, what="the second repair counts up the first one's event")


def test_granted_is_used(space: Space, operator: OperatorProcess, whole_audit: AuditLog) -> None:
    space.register("1.0.0", "1.1.0")
    take_out_foreign_owners(space)
    go_back(space)
    run_into_foreign_objects(space)
    make_more_revisions_than_are_kept(space)
    remove_an_autoscaler(space)
    check_before_promotion(space)
    come_and_go_through_a_gateway(space)
    lose_the_lease_and_repeat_an_event(space, operator)
    operator.restart()
    requests = whole_audit.requests()
    used = {request.right for request in requests}
    # An apply that creates is a patch in the log, and the authorizer is asked for both.
    used |= {("create", *request.right[1:]) for request in requests if request.code == 201}
    granted = read_granted()
    # An API server that has just been started refuses all until it has read its roles.
    forbidden = [
        str(request)
        for request in requests
        if request.decision == "forbid" and request.right not in granted
    ]

    assert forbidden == []
    assert used - granted == set(), "used, though config/rbac does not grant it"
    assert granted - used == NEVER_REQUESTED, "granted and not used"
