"""Canary and blue/green with clients: requests through a simulated gateway, answered by simulated pods.

What clients get is looked at from their side; what the service says of itself is held to product.md.
Errors that a pod was told to give are its own; every other one is ours, and there may be none.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from sluice.requests import Verb
from testbed.cluster import Cluster
from testbed.dataplane import DataPlane
from tests.builders import ServiceBuilder
from tests.operator_process import OperatorProcess
from tests.plane import Obj, Plane, Refused
from tests.space import Space
from tests.traffic_client import Answer, Client
from tests.traffic_load import Load, share
from tests.waiting import wait_for

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("data")]

HOST = "pizza.example.com"
RATE = 100.0
ABORT_S = 3.0
LENIENT = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "20"}
STRICT = {**LENIENT, "maxPercent": "1"}
FORBIDDEN = 403


@dataclass(frozen=True)
class Stage:
    """A namespace with a simulated Gateway, and clients of it."""

    space: Space
    cluster: Cluster
    address: str

    def deploy(self, builder: ServiceBuilder) -> str:
        """Create a service that runs 1.0.0, wait until it is Ready; returns its revision."""
        self.space.register("1.0.0", "1.1.0")
        self.space.create(builder)
        self.space.wait_ready("1.0.0")
        return str(self.space.status()["stable"]["revision"])

    def load(self, rate: float = RATE) -> Load:
        """Clients of the service, at a steady rate."""
        return Load(self.cluster.enter, self.address, [HOST], rate)

    def ask(self, count: int = 20, **headers: str) -> list[Answer]:
        """Requests at once; underscores in names of headers mean dashes."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        named |= {"Host": HOST, "Content-Type": "application/json"}
        client = Client(self.cluster.enter)
        return client.send(self.address, 80, headers=named, count=count, at_once=4)


@pytest.fixture
def stage(space: Space, cluster: Cluster, data: DataPlane) -> Stage:
    return Stage(space, cluster, space.make_gateway())


def service(space: Space) -> ServiceBuilder:
    """Two pods behind the gateway, whose requests end within a second."""
    return space.service().scales(2).traffic(HOST, timeout="1s")


def checked(builder: ServiceBuilder, check: dict[str, Any], samples: int = 20) -> ServiceBuilder:
    return builder.analysis(check, interval="1s", minSamples=samples)


def find_weights(seen: list[tuple[str, Obj]]) -> list[int]:
    """The candidate's weights as status told them, each once."""
    weights: list[int] = []
    for _, obj in seen:
        candidate = obj.get("status", {}).get("candidate")
        if candidate and (not weights or weights[-1] != candidate["weight"]):
            weights.append(candidate["weight"])
    return weights


def outcomes(space: Space) -> list[tuple[str, str, int | None]]:
    """The history, newest first: version, outcome, weight where one is told."""
    history = space.status()["history"]
    return [(entry["version"], entry["outcome"], entry.get("weight")) for entry in history]


def wait_alone(space: Space) -> None:
    """Return once nothing runs but stable."""
    wait_for(
        lambda: (
            {each["metadata"]["name"] for each in space.children("Deployment")}
            == {f"pizza-{space.status()['stable']['revision']}"}
        ),
        what="nothing runs but stable",
    )


def test_a_canary_goes_to_100_along_its_steps(stage: Stage, plane: Plane) -> None:
    space = stage.space
    steps = ({"weight": 10, "hold": "1s"}, 50, 100)
    stable = stage.deploy(checked(service(space).canary(*steps), LENIENT))
    with plane.following("InferenceService", space.name) as following, stage.load() as load:
        space.move("1.1.0")
        done = space.wait_ready("1.1.0")
        wait_alone(space)
    candidate = done["status"]["stable"]["revision"]

    assert load.report.broken == []
    assert load.report.errors(HOST) == {}
    shares = share(load.report, HOST)
    assert set(shares) == {stable, candidate}
    assert find_weights(following.seen)[:3] == [0, 10, 50]
    assert find_weights(following.seen) == sorted(find_weights(following.seen))
    assert outcomes(space) == [("1.1.0", "Serving", 100), ("1.0.0", "Replaced", 100)]
    (check,) = next(
        obj["status"]["rollout"]["checks"]
        for _, obj in following.seen
        if obj["status"]["rollout"].get("step") == 2 and obj["status"]["rollout"].get("checks")
    )
    assert (check["name"], check["verdict"], check["threshold"]) == ("errors", "Pass", "20.00%")
    assert check["samples"] >= 20
    started, *_ = [note for note in space.events("Analysing") if "step 1/3 weight 10" in note]
    assert started.startswith("1.0.0 -> 1.1.0: ")
    assert "1.1.0: 2/2 pods ready" in space.events("Serving")


def test_a_candidate_that_errs_is_rolled_back(stage: Stage) -> None:
    space = stage.space
    stable = stage.deploy(checked(service(space).canary(50, 100), STRICT))
    with stage.load() as load:
        space.move("1.1.0", ERROR_PERCENT="5")
        stalled = space.wait_condition("Stalled", "RolledBack")
        wait_alone(space)
        assert {one.revision for one in stage.ask()} == {stable}
    words = (
        r"rolled back to 1\.0\.0: 1\.1\.0: ErrorRate \d+\.\d+% > 1\.00% \(n=\d+\); "
        r"change spec\.model or spec\.runtime, or retry, to try again"
    )
    assert re.fullmatch(words, stalled["message"]), stalled["message"]
    status = space.status()
    assert status["rollout"]["state"] == "Rejected"
    assert status["rollout"]["checks"][0]["verdict"] == "Fail"
    assert outcomes(space) == [("1.1.0", "RolledBack", 50), ("1.0.0", "Serving", 100)]
    assert stalled["message"] in space.events("RolledBack")
    assert load.report.broken == []
    candidate = status["rollout"]["revision"]
    assert set(load.report.errors(HOST)) == {f"500 {candidate}"}


def test_an_abort_takes_the_traffic_back_and_retry_tries_again(stage: Stage) -> None:
    space = stage.space
    stable = stage.deploy(service(space).canary({"weight": 25, "hold": "10m"}, 100))
    with stage.load() as load:
        space.move("1.1.0")
        space.wait_state("Analysing")
        began = time.monotonic()
        request = space.ask(Verb.ABORT)
        wait_for(lambda: {one.revision for one in stage.ask(40)} == {stable}, what="stable has all")
        assert time.monotonic() - began <= ABORT_S
        stalled = space.wait_condition("Stalled", "RolledBack")
        assert stalled["message"].startswith("aborted to 1.0.0: 1.1.0: aborted")
        handled = space.status()["lastHandledRequest"]
        assert (handled["request"], handled["outcome"]) == (request, "Accepted")
        assert outcomes(space)[0] == ("1.1.0", "Aborted", 25)
        assert space.events("RequestAccepted") == [
            "abort by somebody: all traffic goes back to stable"
        ]
        wait_alone(space)

        space.ask(Verb.RETRY)
        space.wait_state("Analysing")
        space.ask(Verb.PROMOTE)
        space.wait_ready("1.1.0")
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}
    assert outcomes(space)[0] == ("1.1.0", "Serving", 100)


@contextmanager
def acting_as(cluster: Cluster, user: str) -> Iterator[Plane]:
    """The API server as another user sees it."""
    plane = Plane(cluster.kubeconfig)
    plane.http.headers["Impersonate-User"] = user
    try:
        yield plane
    finally:
        plane.close()


def bind(space: Space, user: str, *roles: str) -> None:
    """Give a user cluster roles in the namespace."""
    rbac = "rbac.authorization.k8s.io"
    for role in roles:
        binding = {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"{user}-{role}"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user, "apiGroup": rbac}],
        }
        path = f"/apis/{rbac}/v1/namespaces/{space.name}/rolebindings"
        space.plane.call("POST", path, binding)


def test_blue_green_waits_for_the_approval_of_who_may_give_it(stage: Stage) -> None:
    space = stage.space
    stable = stage.deploy(service(space).blue_green("1s", approval=True))
    bind(space, "mia", "sluice-editor")
    bind(space, "rick", "sluice-editor", "sluice-release-manager")
    with stage.load() as load:
        space.move("1.1.0")
        paused = space.wait_condition("RolloutPaused", "WaitingForApproval")
        assert "step 1/2 preview: WaitingForApproval" in paused["message"]
        candidate = space.status()["rollout"]["revision"]
        assert {one.revision for one in stage.ask()} == {stable}
        assert {one.revision for one in stage.ask(sluice_pin=candidate)} == {candidate}

        for user, by in (("mia", "mia"), ("mia", ""), ("rick", "mia")):
            with acting_as(stage.cluster, user) as plane, pytest.raises(Refused) as refused:
                Space(plane, space.name).ask(Verb.PROMOTE, by=by)
            assert refused.value.code == FORBIDDEN, str(refused.value)
        assert space.status()["rollout"]["state"] == "Paused"

        with acting_as(stage.cluster, "rick") as plane:
            Space(plane, space.name).ask(Verb.PROMOTE, by="rick")
        space.wait_ready("1.1.0")
    handled = space.status()["lastHandledRequest"]
    assert (handled["requestedBy"], handled["outcome"]) == ("rick", "Accepted")
    assert space.events("RequestAccepted") == ["promote by rick: step 1 is over"]
    assert len(space.events("Paused")) == 1
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}
    assert outcomes(space) == [("1.1.0", "Serving", 100), ("1.0.0", "Replaced", 100)]


def test_a_rollback_goes_to_the_previous_revision(stage: Stage) -> None:
    space = stage.space
    stable = stage.deploy(service(space).canary(50, 100))
    with stage.load() as load:
        space.move("1.1.0")
        space.wait_ready("1.1.0")
        wait_alone(space)
        space.ask(Verb.ROLLBACK, target="previous")
        stalled = space.wait_condition("Stalled", "RolledBack")
        wait_alone(space)
        assert {one.revision for one in stage.ask()} == {stable}
    assert stalled["message"].startswith("rolled back to 1.0.0: 1.1.0: rollback to previous")
    assert stalled["message"] in space.events("RolledBack")
    assert space.events("RequestAccepted") == ["rollback by somebody: going back to previous"]
    assert [entry[:2] for entry in outcomes(space)] == [
        ("1.0.0", "Serving"),
        ("1.1.0", "RolledBack"),
        ("1.0.0", "Replaced"),
    ]
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}


def test_a_third_version_takes_the_place_of_the_second(stage: Stage) -> None:
    space = stage.space
    stage.deploy(service(space).canary({"weight": 25, "hold": "10m"}, 100))
    space.register("1.2.0")
    with stage.load() as load:
        space.move("1.1.0")
        space.wait_state("Analysing")
        second = space.status()["rollout"]["revision"]
        space.move("1.2.0")
        wait_for(lambda: space.status()["rollout"]["revision"] != second, what="the third is begun")
        space.wait_state("Analysing")
        space.ask(Verb.PROMOTE_FULL)
        space.wait_ready("1.2.0")
        wait_alone(space)
    assert [entry[:2] for entry in outcomes(space)] == [
        ("1.2.0", "Serving"),
        ("1.1.0", "Superseded"),
        ("1.0.0", "Replaced"),
    ]
    (aborting,) = space.events("Aborting")
    assert aborting.startswith("1.1.0 gives its traffic back to 1.0.0")
    assert [note for note in space.events("RollingOut") if note.startswith("1.0.0 -> 1.2.0: ")]
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}


def test_a_reverted_spec_is_an_abort_that_leaves_no_mark(stage: Stage) -> None:
    space = stage.space
    stable = stage.deploy(service(space).canary({"weight": 25, "hold": "10m"}, 100))
    with stage.load() as load:
        space.move("1.1.0")
        space.wait_state("Analysing")
        began = time.monotonic()
        space.move("1.0.0")
        wait_for(lambda: {one.revision for one in stage.ask(40)} == {stable}, what="stable has all")
        assert time.monotonic() - began <= ABORT_S
        space.wait_ready("1.0.0")
        wait_alone(space)
    assert space.condition("Stalled") is None
    assert space.status()["rollout"]["state"] == "Complete"
    assert [entry[:2] for entry in outcomes(space)] == [
        ("1.1.0", "Superseded"),
        ("1.0.0", "Serving"),
    ]
    assert len(space.events("Aborting")) == 1
    assert space.events("RolledBack") == []
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}


def test_a_restarted_operator_goes_on_where_it_was(
    stage: Stage, operator: OperatorProcess, plane: Plane
) -> None:
    space = stage.space
    steps = ({"weight": 25, "hold": "4s"}, {"weight": 50, "hold": "1s"}, 100)
    stage.deploy(checked(service(space).canary(*steps), LENIENT))
    with plane.following("InferenceService", space.name) as following, stage.load() as load:
        space.move("1.1.0")
        before = space.wait_state("Analysing")["status"]["rollout"]
        operator.kill()
        operator.start()
        operator.wait_until_working()
        now = space.status()["rollout"]
        assert (now["step"], now["shiftedTime"]) == (before["step"], before["shiftedTime"])
        space.wait_ready("1.1.0")
        wait_alone(space)
    weights = find_weights(following.seen)
    assert weights == sorted(weights)
    assert {0, 25, 50} <= set(weights)
    assert outcomes(space) == [("1.1.0", "Serving", 100), ("1.0.0", "Replaced", 100)]
    # The first step's event may have died with the operator: the status was written before.
    assert [note for note in space.events("Analysing") if "step 2/3 weight 50" in note]
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}


def test_few_samples_pause_a_rollout_and_never_end_it(stage: Stage) -> None:
    space = stage.space
    canary = service(space).canary(50, 100).deadline("5s")
    stage.deploy(checked(canary, LENIENT, samples=100_000))
    with stage.load(20) as load:
        space.move("1.1.0")
        paused = space.wait_condition("RolloutPaused", "InsufficientSamples")
        assert re.search(r"n=\d+ of 100000", paused["message"]), paused["message"]
        assert space.status()["candidate"]["weight"] == 50
        assert space.condition("Stalled") is None
        space.ask(Verb.PROMOTE)
        # The last step has the same check.
        wait_for(lambda: space.status()["rollout"]["step"] == 2, what="the next step")
        space.wait_condition("RolloutPaused", "InsufficientSamples")
        space.ask(Verb.PROMOTE)
        space.wait_ready("1.1.0")
    assert len(space.events("Paused")) == 2
    assert space.events("RolledBack") == []
    assert outcomes(space) == [("1.1.0", "Serving", 100), ("1.0.0", "Replaced", 100)]
    assert load.report.broken == []


def test_a_version_of_another_space_is_held_though_it_came_after_the_service(
    stage: Stage,
) -> None:
    space = stage.space
    space.register("1.0.0")
    space.create(service(space).canary(50, 100))
    space.wait_ready("1.0.0")
    # Admission can't compare with what isn't there.
    space.move("2.0.0")
    wait_for(
        lambda: (space.condition("Ready") or {}).get("reason") == "WaitingForVersion",
        what="it waits for the version",
    )
    space.create(space.version("2.0.0").space("pizza-2"))
    stalled = space.wait_condition("Stalled", "EmbeddingSpaceChanged")
    assert stalled["message"] == (
        "2.0.0 embeds into space pizza-2 and stable 1.0.0 into pizza-1: answers of both would mix "
        "under one route; set spec.rollout.strategy to BlueGreen, which switches in one write"
    )
    assert space.events("EmbeddingSpaceChanged") == [stalled["message"]]
    assert len(space.children("Deployment")) == 1
    with stage.load() as load:
        space.change({"rollout": {"strategy": "BlueGreen", "canary": None}})
        space.wait_ready("2.0.0")
    assert outcomes(space) == [("2.0.0", "Serving", 100), ("1.0.0", "Replaced", 100)]
    assert load.report.broken == []
    assert load.report.errors(HOST) == {}


def test_what_the_gateway_says_against_the_route_is_told(stage: Stage) -> None:
    space = stage.space
    change = {
        "spec": {
            "listeners": [
                {"name": "http", "protocol": "HTTP", "port": 80, "hostname": "other.example.com"}
            ]
        }
    }
    space.plane.patch("Gateway", space.name, "eg", change)
    space.register("1.0.0")
    space.create(service(space).canary(50, 100))

    def is_told() -> bool:
        ready = space.condition("Ready") or {}
        assert ready.get("reason") == "RouteNotAccepted", ready
        return True

    wait_for(is_told, what="the gateway's words are told")
    words = (space.condition("Ready") or {})["message"]
    assert re.search(r"gateway eg: NoMatchingListenerHostname: .+", words), words
    assert space.events("RouteNotAccepted")
    listener = {"name": "http", "protocol": "HTTP", "port": 80}
    space.plane.patch("Gateway", space.name, "eg", {"spec": {"listeners": [listener]}})
    space.wait_ready("1.0.0")
