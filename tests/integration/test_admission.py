"""The admission policies on a real API server: who may ask what of a rollout, and what no canary may mix.

Nothing runs here but the API server and the controllers: no operator.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.requests import RequestError, Verb, format_request, read_request
from testbed.cluster import Cluster
from tests.plane import APPLY, Obj, Plane, Refused, place
from tests.space import Space
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
REQUEST = "sluice.dev/request"
BY = "sluice.dev/requested-by"
REVISION = "kd7x2m9qwz"
TIME = "2026-10-05T03:04:05Z"
KEPT = "kept"  # an annotation that a change does not touch
LATER = "2999-10-05T03:04:05Z"
Annotate = Callable[..., Obj]
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
FORBIDDEN = 403
INVALID = 422


def ask(verb: str, time: str = TIME) -> str:
    return f"{verb} {REVISION} {time}" + (" previous" if verb == Verb.ROLLBACK else "")


@contextmanager
def acting_as(cluster: Cluster, user: str) -> Iterator[Plane]:
    """The API server as another user sees it."""
    plane = Plane(cluster.kubeconfig)
    plane.http.headers["Impersonate-User"] = user
    try:
        yield plane
    finally:
        plane.close()


@pytest.fixture(scope="module")
def admission(cluster: Cluster, plane: Plane) -> None:
    """CRDs, roles and policies, in force."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    cluster.kubectl("apply", "-f", str(ROOT / "config" / "operator" / "namespace.yaml"))
    for folder in ("rbac", "admission"):
        path = str(ROOT / "config" / folder)
        cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "-n", "sluice-system", "-k", path
        )
    nonsense = Space(plane, "default").service("nonsense").obj()
    nonsense["metadata"]["annotations"] = {REQUEST: "nonsense"}

    def is_in_force() -> bool:
        try:
            try_to(plane, "POST", place("InferenceService", "default"), nonsense)
        except Refused as refused:
            return "sluice-requests" in str(refused)
        return False

    wait_for(is_in_force, what="the policies are in force")


def try_to(plane: Plane, method: str, path: str, body: Any, form: str = "application/json") -> Obj:
    """A request that changes nothing; Refused as the real one would be."""
    return plane.call(method, f"{path}?dryRun=All", body, form)


def make_role(space: str, user: str, verbs: list[str], names: list[str]) -> list[Obj]:
    """A Role with rights to `verbs` of the services `names`, or all, and its binding to `user`."""
    rule: Obj = {
        "apiGroups": ["sluice.dev"],
        "resources": [f"inferenceservices/{verb}" for verb in verbs],
        "verbs": ["update"],
    }
    rbac = "rbac.authorization.k8s.io/v1"
    metadata = {"name": user, "namespace": space}
    return [
        {
            "apiVersion": rbac,
            "kind": "Role",
            "metadata": metadata,
            "rules": [rule | ({"resourceNames": names} if names else {})],
        },
        make_binding(space, user, "Role", user),
    ]


def make_binding(space: str, user: str, kind: str, role: str) -> Obj:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{user}-{role}", "namespace": space},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }


def may(plane: Plane, user: str, space: str, verb: str, resource: str, name: str = "") -> bool:
    """Whether RBAC lets `user` do `verb` to a resource of ours, written `plural/subresource`."""
    plural, _, sub = resource.partition("/")
    attributes = {
        "namespace": space,
        "group": "sluice.dev",
        "resource": plural,
        "subresource": sub,
        "name": name,
        "verb": verb,
    }
    answer = plane.call(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        },
    )
    return bool(answer["status"]["allowed"])


@pytest.fixture(scope="module")
def home(cluster: Cluster, plane: Plane, admission: None) -> Iterator[Space]:
    """A namespace with its people.

    `editor` may write services; `manager` may besides ask everything; `only-VERB` may besides ask
    that, `never-VERB` everything but that, `of-pizza` may promote the service pizza.
    """
    space = Space(plane, f"t-{uuid.uuid4().hex[:8]}")
    space.make()
    verbs = [verb.value for verb in Verb]
    rights: dict[str, list[str]] = {"editor": [], "manager": verbs, "of-pizza": ["promote"]}
    rights |= {f"only-{verb}": [verb] for verb in verbs}
    rights |= {f"never-{verb}": [other for other in verbs if other != verb] for verb in verbs}
    grants = [make_binding(space.name, user, "ClusterRole", "sluice-editor") for user in rights]
    grants.append(make_binding(space.name, "manager", "ClusterRole", "sluice-release-manager"))
    for user, allowed in rights.items():
        if allowed and user != "manager":
            names = ["pizza"] if user == "of-pizza" else []
            grants += make_role(space.name, user, allowed, names)
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(grants))

    def are_known() -> bool:
        return all(
            may(plane, user, space.name, "patch", "inferenceservices")
            and all(
                may(plane, user, space.name, "update", f"inferenceservices/{verb}", "pizza")
                for verb in allowed
            )
            for user, allowed in rights.items()
        )

    wait_for(are_known, what="the API server knows who may do what")
    yield space
    space.remove()


@pytest.fixture
def name(home: Space) -> str:
    """A service that nobody has asked anything of."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    home.create(home.service(name))
    return name


@pytest.fixture
def annotate(cluster: Cluster, home: Space) -> Annotate:
    """Set annotations of a service as a user: a merge patch, as `kubectl annotate` sends."""

    def annotate(user: str, name: str, request: str | None = KEPT, by: str | None = KEPT) -> Obj:
        wanted = {REQUEST: request, BY: by}
        change = {"annotations": {key: value for key, value in wanted.items() if value != KEPT}}
        with acting_as(cluster, user) as them:
            return them.patch("InferenceService", home.name, name, {"metadata": change})

    return annotate


def annotations_of(home: Space, name: str) -> dict[str, str]:
    found: dict[str, str] = home.read(name)["metadata"].get("annotations", {})
    return found


# --- who may ask what ---


@pytest.mark.parametrize("verb", list(Verb))
def test_the_right_to_a_verb_is_enough(
    home: Space, name: str, annotate: Annotate, verb: Verb
) -> None:
    annotate(f"only-{verb}", name, ask(verb), by=f"only-{verb}")
    assert annotations_of(home, name) == {REQUEST: ask(verb), BY: f"only-{verb}"}


@pytest.mark.parametrize("verb", list(Verb))
def test_the_rights_to_all_other_verbs_are_not(
    home: Space, name: str, annotate: Annotate, verb: Verb
) -> None:
    with pytest.raises(Refused) as refused:
        annotate(f"never-{verb}", name, ask(verb))
    assert refused.value.code == FORBIDDEN
    assert str(refused.value).endswith(
        f'sluice.dev/request: user "never-{verb}" may not {verb} {home.name}/{name}: it takes the '
        f"right to update inferenceservices/{verb} (apiGroup sluice.dev) of it, which the "
        "ClusterRole sluice-release-manager has"
    )
    assert annotations_of(home, name) == {}


def test_the_release_manager_may_ask_everything(home: Space, name: str, annotate: Annotate) -> None:
    for verb in Verb:
        annotate("manager", name, ask(verb), by="manager")
        assert annotations_of(home, name)[REQUEST] == ask(verb)


def test_a_right_to_one_service_is_none_to_another(
    home: Space, name: str, annotate: Annotate
) -> None:
    home.create(home.service("pizza"))
    annotate("of-pizza", "pizza", ask("promote"))
    with pytest.raises(Refused, match=f"may not promote {home.name}/{name}"):
        annotate("of-pizza", name, ask("promote"))


def test_what_format_request_writes_is_admitted(home: Space, name: str, annotate: Annotate) -> None:
    now = datetime(2026, 10, 5, 3, 4, 5, 250_000, tzinfo=UTC)
    for verb in Verb:
        text = format_request(verb, REVISION, now, "1.4.0-rc.1" if verb is Verb.ROLLBACK else "")
        annotate("manager", name, text)
        assert annotations_of(home, name)[REQUEST] == text


# --- who asked ---


def test_nobody_asks_in_another_name(name: str, annotate: Annotate) -> None:
    with pytest.raises(Refused) as refused:
        annotate("manager", name, ask("promote"), by="only-promote")
    assert refused.value.code == FORBIDDEN
    assert 'is "only-promote", but the request is made by "manager"' in str(refused.value)


def test_a_name_left_from_an_earlier_request_is_not_given_the_next(
    home: Space, name: str, annotate: Annotate
) -> None:
    annotate("only-pause", name, ask("pause"), by="only-pause")
    with pytest.raises(Refused, match='is "only-pause", but the request is made by "manager"'):
        annotate("manager", name, ask("resume"))
    annotate("manager", name, ask("resume"), by=None)
    assert annotations_of(home, name) == {REQUEST: ask("resume")}


@pytest.mark.parametrize("by", ["only-pause", "manager", None], ids=["other", "own", "none"])
def test_the_author_of_a_request_stays(name: str, annotate: Annotate, by: str | None) -> None:
    annotate("only-pause", name, ask("pause"), by="only-pause" if by != "only-pause" else KEPT)
    with pytest.raises(Refused) as refused:
        annotate("manager", name, by=by)
    assert "the request is the old one" in str(refused.value)


def test_an_author_without_a_request_is_refused(home: Space, name: str, annotate: Annotate) -> None:
    with pytest.raises(Refused, match="there is none; take it out too"):
        annotate("manager", name, by="manager")
    annotate("manager", name, ask("pause"), by="manager")
    with pytest.raises(Refused, match="there is none; take it out too"):
        annotate("manager", name, request=None)
    annotate("editor", name, request=None, by=None)
    assert annotations_of(home, name) == {}


# --- what is well formed ---

MALFORMED = [
    "",
    "promot",
    f"Promote {REVISION} {TIME}",
    f" promote {REVISION} {TIME}",
    f'promote "{REVISION}\n {TIME}',
    f"promote {REVISION}",
    f"promote {REVISION}  {TIME}",
    f"promote-full {REVISION} {TIME} previous",
    f"rollback {REVISION} {TIME}",
    f"promote {REVISION}x {TIME}",
    f"promote pizza-1.0. {TIME}",
    f"promote {REVISION} now",
    f"promote {REVISION} 2026-10-05T03:04:05",
    f"promote {REVISION} 2026-10-05T03:04Z",
    f"promote {REVISION} 2026-02-30T03:04:05Z",
    f"promote {REVISION} 2026-10-05T24:00:00Z",
    f"promote {REVISION} 2026-10-05T03:04:60Z",
    f"promote {REVISION} 1970-01-01T00:00:00Z",
    f"rollback {REVISION} {TIME} yesterday",
    f"rollback {REVISION} {TIME} 01.4.0",
    f"rollback {REVISION} {TIME} ",
    "x" * 257,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_the_policy_refuses_what_the_operator_would_and_says_the_same(
    name: str, annotate: Annotate, text: str
) -> None:
    expected = read_request({REQUEST: text})
    assert isinstance(expected, RequestError)
    with pytest.raises(Refused) as refused:
        annotate("manager", name, text)
    assert refused.value.code == INVALID
    assert str(refused.value).endswith(f"denied request: {expected.message}")


@pytest.mark.parametrize(
    "text",
    [
        f"promote {REVISION} 2024-02-29T23:59:59.123456789-23:59",
        f"rollback {REVISION} 2999-12-31T23:59:59+00:00 stable",
        f"rollback {REVISION} {TIME} 10.0.1-rc.1.x-y",
    ],
)
def test_the_policy_takes_what_the_operator_would(
    home: Space, name: str, annotate: Annotate, text: str
) -> None:
    assert not isinstance(read_request({REQUEST: text}), RequestError)
    annotate("manager", name, text)
    assert annotations_of(home, name)[REQUEST] == text


# --- who asks for nothing ---


def test_what_is_applied_again_asks_for_nothing(
    cluster: Cluster, home: Space, name: str, annotate: Annotate
) -> None:
    annotate("manager", name, ask("promote"), by="manager")
    wanted = home.service(name).scales(1, 3).obj()
    wanted["metadata"] = {"name": name, "annotations": {REQUEST: ask("promote"), BY: "manager"}}
    with acting_as(cluster, "editor") as editor:
        editor.patch("InferenceService", home.name, name, wanted, form=APPLY)
        read = editor.read("InferenceService", home.name, name)
        read["metadata"]["labels"] = {"team": "pizza"}
        editor.call("PUT", place("InferenceService", home.name, name), read)
    after = home.read(name)
    assert after["spec"]["scaling"]["maxReplicas"] == 3
    assert after["metadata"]["labels"] == {"team": "pizza"}
    assert after["metadata"]["annotations"] == {REQUEST: ask("promote"), BY: "manager"}


def test_an_old_request_put_back_is_a_request(name: str, annotate: Annotate) -> None:
    annotate("manager", name, ask("promote"))
    annotate("manager", name, ask("pause"))
    with pytest.raises(Refused, match='user "editor" may not promote'):
        annotate("editor", name, ask("promote"))


def test_status_brings_no_request_in(home: Space, plane: Plane, name: str) -> None:
    change = {"metadata": {"annotations": {REQUEST: ask("promote")}}, "status": {"phase": "Ready"}}
    plane.patch("InferenceService", home.name, name, change, sub="status")
    assert annotations_of(home, name) == {}
    assert home.status(name)["phase"] == "Ready"


# --- creation ---


def create_as(cluster: Cluster, user: str, home: Space, annotations: dict[str, str]) -> Obj:
    obj = home.service(f"s-{uuid.uuid4().hex[:8]}").obj()
    obj["metadata"]["annotations"] = annotations
    with acting_as(cluster, user) as them:
        return them.create(obj)


def test_a_restored_service_keeps_the_request_it_had(cluster: Cluster, home: Space) -> None:
    """It is older than the object, so the operator refuses it: it needs no right."""
    before = {REQUEST: ask("promote", "2025-10-05T03:04:05Z"), BY: "only-promote"}
    assert create_as(cluster, "editor", home, before)["metadata"]["annotations"] == before


def test_a_service_created_with_a_live_request_takes_the_right(
    cluster: Cluster, home: Space
) -> None:
    live = {REQUEST: ask("promote", LATER)}
    with pytest.raises(Refused, match='user "editor" may not promote'):
        create_as(cluster, "editor", home, live)
    with pytest.raises(Refused, match='is "editor", but the request is made by "manager"'):
        create_as(cluster, "manager", home, live | {BY: "editor"})
    create_as(cluster, "manager", home, live | {BY: "manager"})


def test_a_service_is_not_created_with_half_a_request(cluster: Cluster, home: Space) -> None:
    with pytest.raises(Refused, match='"promot" is no verb'):
        create_as(cluster, "manager", home, {REQUEST: "promot"})
    with pytest.raises(Refused, match="there is none; take it out too"):
        create_as(cluster, "manager", home, {BY: "manager"})


# --- embedding spaces ---


def make_version(home: Space, version: str, space: str | None) -> Obj:
    obj = home.version(version).obj()
    if space is None:
        obj["spec"].pop("embedding")
        obj["spec"]["tasks"] = ["Classification"]
    else:
        obj["spec"]["embedding"]["space"] = space
    return obj


TRAFFIC: Obj = {"parentRefs": [{"name": "eg"}], "hostnames": ["pizza.example.com"]}
CANARY: Obj = {"strategy": "Canary", "canary": {"steps": [{"weight": 5}, {"weight": 100}]}}
BLUE_GREEN: Obj = {"strategy": "BlueGreen", "canary": None}
STABLE: Obj = {
    "model": "pizza-spatial",
    "version": "1.1.0",
    "revision": REVISION,
    "replicas": 1,
    "readyReplicas": 1,
    "weight": 100,
}


@pytest.fixture
def spaces(plane: Plane, admission: None) -> Iterator[Space]:
    """A namespace of the test's own, with the service pizza on stable 1.1.0 of space pizza-1."""
    space = Space(plane, f"t-{uuid.uuid4().hex[:8]}")
    space.make()
    make_canary(space, {**STABLE, "space": "pizza-1"})
    yield space
    space.remove()


def make_canary(space: Space, stable: Obj | None, name: str = "pizza") -> None:
    obj = space.service(name).runs("1.1.0").obj()
    obj["spec"] |= {"traffic": TRAFFIC, "rollout": CANARY}
    space.plane.create(obj)
    if stable:
        status = {"status": {"stable": stable}}
        space.plane.patch("InferenceService", space.name, name, status, sub="status")


def change(space: Space, spec: Obj, name: str = "pizza") -> None:
    """As a change of spec would go; nothing is changed."""
    path = place("InferenceService", space.name, name)
    try_to(space.plane, "PATCH", path, {"spec": spec}, "application/merge-patch+json")


def wait_until_refused(space: Space, spec: Obj, name: str = "pizza") -> Refused:
    """The refusal of that change; the API server sees a new ModelVersion a moment later."""

    def is_refused() -> Refused | None:
        try:
            change(space, spec, name)
        except Refused as refused:
            return refused
        return None

    refused = wait_for(is_refused, what=f"{spec} is refused")
    assert refused is not None
    return refused


def test_a_canary_into_another_space_is_refused_with_the_way_out(
    spaces: Space, plane: Plane
) -> None:
    for version, space in (("1.2.0", "pizza-1"), ("2.0.0", "pizza-2"), ("3.0.0", None)):
        plane.create(make_version(spaces, version, space))
    refused = wait_until_refused(spaces, {"model": {"version": "2.0.0"}})
    assert refused.code == INVALID
    assert str(refused).endswith(
        "denied request: spec.model: pizza-spatial-2.0.0 has embedding space pizza-2, stable 1.1.0 "
        "serves pizza-1: a canary would mix the answers of both under one route; set "
        "spec.rollout.strategy to BlueGreen, which switches in one write"
    )
    change(spaces, {"model": {"version": "1.2.0"}})
    change(spaces, {"model": {"version": "2.0.0"}, "rollout": BLUE_GREEN})
    # No vectors, nothing to mix.
    change(spaces, {"model": {"version": "3.0.0"}})
    # Not there yet: the service waits for it, and the operator looks again.
    change(spaces, {"model": {"version": "9.0.0"}})


def test_an_update_that_asks_for_no_version_is_never_held_up(
    spaces: Space, plane: Plane, cluster: Cluster
) -> None:
    """The version may be there before the policy, or have been asked for under another strategy."""
    spaces.change({"model": {"version": "2.0.0"}})
    plane.create(make_version(spaces, "2.0.0", "pizza-2"))
    # Going back from it and there again is refused: the policy knows the version.
    home = {"model": {"version": "1.1.0"}}
    make_canary(spaces, {**STABLE, "space": "pizza-1"}, "other")
    wait_until_refused(spaces, {"model": {"version": "2.0.0"}}, "other")
    change(spaces, {"scaling": {"minReplicas": 3}})
    change(spaces, {"suspend": True})
    abort = {"metadata": {"annotations": {REQUEST: ask("abort")}, "labels": {"team": "pizza"}}}
    plane.patch("InferenceService", spaces.name, "pizza", abort)
    assert spaces.read()["metadata"]["labels"] == {"team": "pizza"}
    change(spaces, home)


def test_without_a_stable_space_there_is_nothing_to_mix(spaces: Space, plane: Plane) -> None:
    plane.create(make_version(spaces, "2.0.0", "pizza-2"))
    wait_until_refused(spaces, {"model": {"version": "2.0.0"}})
    make_canary(spaces, None, "first")
    make_canary(spaces, STABLE, "classifier")
    for name in ("first", "classifier"):
        change(spaces, {"model": {"version": "2.0.0"}}, name)


def test_without_a_version_everything_passes(spaces: Space) -> None:
    assert spaces.plane.list("ModelVersion", spaces.name) == []
    change(spaces, {"model": {"version": "2.0.0"}})


def test_the_one_wrong_version_is_found_among_many(spaces: Space, plane: Plane) -> None:
    for number in range(40):
        plane.create(make_version(spaces, f"1.2.{number}", "pizza-1"))
    plane.create(make_version(spaces, "2.0.0", "pizza-2"))
    other = make_version(spaces, "1.2.3", "tomato-1")
    other["metadata"]["name"], other["spec"]["model"] = "tomato-1.2.3", "tomato"
    plane.create(other)
    wait_until_refused(spaces, {"model": {"name": "tomato", "version": "1.2.3"}})
    wait_until_refused(spaces, {"model": {"version": "2.0.0"}})
    for number in range(40):
        change(spaces, {"model": {"version": f"1.2.{number}"}})


def test_versions_of_other_namespaces_do_not_count(
    spaces: Space, home: Space, plane: Plane
) -> None:
    plane.create(make_version(home, "2.0.0", "pizza-2"))
    make_canary(home, {**STABLE, "space": "pizza-1"}, "elsewhere")
    wait_until_refused(home, {"model": {"version": "2.0.0"}}, "elsewhere")
    change(spaces, {"model": {"version": "2.0.0"}})


# --- the policies themselves ---


def test_what_a_namespace_takes_with_it_is_let_go(spaces: Space, plane: Plane) -> None:
    plane.create(make_version(spaces, "2.0.0", "pizza-2"))
    wait_until_refused(spaces, {"model": {"version": "2.0.0"}})
    held = {"annotations": {REQUEST: ask("pause")}, "finalizers": ["example.com/hold"]}
    plane.patch("InferenceService", spaces.name, "pizza", {"metadata": held})
    spaces.remove()
    wait_for(
        lambda: "deletionTimestamp" in spaces.read()["metadata"], what="pizza is being deleted"
    )
    plane.patch("InferenceService", spaces.name, "pizza", {"metadata": {"finalizers": None}})
    wait_for(
        lambda: plane.get("InferenceService", spaces.name, "pizza") is None, what="pizza is gone"
    )


@pytest.mark.parametrize("name", ["requests", "embedding-space"])
def test_every_field_of_a_policy_is_in_the_schemas(
    admission: None, plane: Plane, name: str
) -> None:
    """A copy, without a binding: types are looked at once only, perhaps before today's CRDs were there."""
    path = ROOT / "config" / "admission" / f"{name}.yaml"
    policy: Obj = next(yaml.safe_load_all(path.read_text()))
    policy["metadata"]["name"] = f"types-{uuid.uuid4().hex[:8]}"
    place_of_copy = f"{POLICIES}/{policy['metadata']['name']}"
    plane.call("POST", POLICIES, policy)
    try:
        status = wait_for(
            lambda: plane.call("GET", place_of_copy).get("status"), what=f"{name} is looked at"
        )
    finally:
        plane.call("DELETE", place_of_copy)
    assert status == {"observedGeneration": 1, "typeChecking": {}}


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "get", "inferenceservices", True),
        ("view", "patch", "inferenceservices", False),
        ("edit", "patch", "modelversions", True),
        ("edit", "update", "inferenceservices/promote", False),
        ("admin", "delete", "inferenceservices", True),
        ("admin", "update", "inferenceservices/rollback", True),
        ("admin", "update", "inferenceservices/status", False),
        ("sluice-viewer", "watch", "modelversions", True),
        ("sluice-viewer", "patch", "modelversions", False),
        ("sluice-editor", "create", "modelversions", True),
        ("sluice-editor", "update", "inferenceservices/abort", False),
        ("sluice-editor", "patch", "inferenceservices/status", False),
        ("sluice-release-manager", "update", "inferenceservices/abort", True),
        ("sluice-release-manager", "patch", "inferenceservices", False),
    ],
)
def test_what_the_roles_of_people_grant(
    cluster: Cluster, home: Space, plane: Plane, role: str, verb: str, resource: str, allowed: bool
) -> None:
    user = f"has-{role}"
    binding = make_binding(home.name, user, "ClusterRole", role)
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(binding))
    # Each of the roles grants one of these; only then is a "no" about the role and not about time.
    known = [("get", "inferenceservices"), ("update", "inferenceservices/promote")]
    wait_for(
        lambda: any(may(plane, user, home.name, *right) for right in known), what=f"{user} is known"
    )
    wait_for(
        lambda: may(plane, user, home.name, verb, resource) == allowed,
        what=f"{role}: {verb} {resource} allowed={allowed}",
    )
