"""A shadow step as a story: the comparer, the mirror, the check on what was compared, and the end of all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice import labels, names
from sluice.analysis.agreement import make_check
from sluice.analysis.checks import Agreement, evaluate
from sluice.analysis.tally import Window
from sluice.api.analysis import Analysis
from sluice.caches import INFERENCE_SERVICE
from sluice.plan import SampleDemand, plan
from sluice.reconcilers import is_moved
from sluice.requests import Verb
from sluice.resources.comparer import make_comparer, make_comparer_service
from sluice.resources.metadata import Owner
from sluice.rollout.course import Course, Step
from sluice.rollout.cursor import Cursor, State
from sluice.shadow import find_comparer, is_shadowing
from sluice.world import (
    DEPLOYMENT,
    HTTP_ROUTE,
    SERVICE,
    ComparerView,
    PodView,
)
from tests.builders import ServiceBuilder, inference_service, model_version
from tests.simulation import POLICY, Simulation
from tests.unit.operator.test_manifests import Plain

GOLDEN = Path(__file__).parents[2] / "golden" / "manifests-comparer.yaml"
V1, V2, V3 = (model_version(version).obj() for version in ("1.0.0", "1.1.0", "1.2.0"))
ALIKE, OTHERWISE, FEW = (
    Agreement(1990.0, 2000.0),
    Agreement(1800.0, 2000.0),
    Agreement(36.0, 37.0),
)
SHADOW: dict[str, Any] = {"percent": 10, "hold": "1m", "minAgreementPercent": 98}


class ShadowSimulation(Simulation):
    """With comparers, and what they count: `agreements` by version, alike where nothing is said.

    At every write it holds what a shadow step promises: a mirror to a ready comparer only, and no comparer
    taken away from under a mirror.
    """

    def __init__(self, service: dict[str, Any], *versions: dict[str, Any]) -> None:
        self.agreements: dict[str, Agreement] = {}
        self.comparer = "ready"
        self.taken = ""  # what the gateway really mirrors to
        self.messages: list[str] = []
        super().__init__(service, *versions)

    @property
    def mirrors(self) -> tuple[str, int]:
        """What the route mirrors to."""
        route = self.world().route
        return (route.mirror, route.mirror_percent) if route else ("", 0)

    @property
    def comparers(self) -> list[str]:
        """Names of all comparers' objects."""
        return sorted(
            f"{kind} {obj['metadata']['name']}"
            for kind in (DEPLOYMENT, SERVICE)
            for obj in self.caches[kind].all()
            if labels.compared_by(obj)
        )

    def put(self, kind: str, obj: dict[str, Any]) -> None:
        if kind == HTTP_ROUTE and "RequestMirror" in str(obj["spec"]) and not self.mirrors[0]:
            candidate = self.status["rollout"]["revision"]
            assert self.world().comparers[candidate].is_ready, self.log
        if kind == INFERENCE_SERVICE:
            self.messages.append(obj.get("status", {}).get("message", ""))
        super().put(kind, obj)

    def remove(self, kind: str, name: str) -> None:
        if kind == SERVICE and "-compare-" in name and self.cursor is not None:
            assert name not in (self.mirrors[0], self.taken), self.log
        super().remove(kind, name)

    def _carry(self, weights: Mapping[str, int]) -> None:
        super()._carry(weights)
        self.taken = self.mirrors[0]

    def _make_pod(self, name: str, deployment: dict[str, Any], number: int) -> dict[str, Any]:
        metadata = deployment["spec"]["template"]["metadata"]
        if not labels.compared_by(deployment):
            return super()._make_pod(name, deployment, number)
        found = {"ready": "True"}.get(self.comparer, "False")
        scheduled: dict[str, Any] = {"type": "PodScheduled", "status": "True"}
        if self.comparer == "unschedulable":
            scheduled |= {"status": "False", "reason": "Unschedulable", "message": "no room"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "vision", "labels": metadata["labels"]},
            "status": {
                "phase": "Running",
                "podIP": "10.0.1.1",
                "conditions": [{"type": "Ready", "status": found}, scheduled],
                "initContainerStatuses": [],
                "containerStatuses": [
                    {
                        "name": "compare",
                        "ready": self.comparer == "ready",
                        "restartCount": 0,
                        "state": {},
                        "lastState": {},
                    }
                ],
            },
        }

    def _measure(self) -> bool:
        decided, world = self.decide(), self.world()
        demand = decided.demand
        if not isinstance(demand, SampleDemand) or demand.agreement is None:
            return super()._measure()
        assert demand.weight == 0
        if not demand.comparer:
            return False  # nobody to ask: what was found before stays
        assert list(demand.comparer.values()) == ["10.0.1.1"]
        counted = self.agreements.get(world.revisions[demand.candidate].version, ALIKE)
        analysis = demand.course.analysis
        checks = Analysis.model_validate(analysis).checks if analysis else ()
        results = evaluate(
            (make_check(demand.agreement), *checks),
            Window(),
            {},
            300,
            agreement=counted,
            weight=demand.weight,
        )
        before = self.evidence
        self.evidence = replace(before, window=demand.window, results=results)
        return self.evidence != before


def shadowed(**changes: Any) -> Callable[[], ServiceBuilder]:
    """Four replicas, a shadow of 10 % and two steps."""
    shadow = SHADOW | changes
    return lambda: (
        inference_service()
        .scales(4)
        .traffic()
        .canary({"weight": 50, "hold": "1m"}, 100, shadow=shadow)
        .deadline("5m")
    )


def start(service: Callable[[], ServiceBuilder] | None = None) -> ShadowSimulation:
    """1.0.0 serves, and 1.1.0 is asked for."""
    service = service or shadowed()
    sim = ShadowSimulation(service().obj(), V1, V2, V3)
    sim.run()
    assert sim.comparers == []
    sim.change(service().runs("1.1.0").generation(2).obj())
    return sim


def name_comparer(sim: ShadowSimulation, version: str = "1.1.0") -> str:
    return names.comparer_name("pizza", sim.revision(version))


def assert_converged(sim: ShadowSimulation) -> None:
    world = sim.world()
    decided = plan(world, sim.now, POLICY)
    assert not is_moved(world, decided)
    assert decided.actions == ()
    assert decided.demand is None


def test_what_is_answered_alike_goes_on_to_its_first_weight() -> None:
    sim = start()
    sim.run_until("Analysing")
    comparer = name_comparer(sim)

    assert sim.mirrors == (comparer, 10)
    assert sim.weights == {"1.0.0": 100}
    assert sim.status["rollout"]["progress"] == "1/3"
    assert sim.world().revisions[sim.revision("1.1.0")].ready_replicas == 1
    began = sim.now
    sim.step()
    sim.step()
    assert sim.status["message"] == (
        "1.0.0 -> 1.1.0: step 1/3 shadow 10%: Agreement 99.50% ≥ 98.00% (n=2000)"
    )
    assert sim.status["rollout"]["checks"] == [
        {
            "name": "shadow",
            "verdict": "Pass",
            "value": "99.50%",
            "threshold": "98.00%",
            "samples": 2000,
        }
    ]

    sim.run_until("Switching")
    assert (sim.now - began).total_seconds() >= 60
    assert "step 1 passed: Agreement 99.50%" in " ".join(sim.messages)
    sim.run_until("Analysing")
    assert sim.mirrors == ("", 0)
    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}
    sim.run_until("Complete")
    sim.run()
    assert sim.comparers == []
    assert_converged(sim)


def test_what_is_answered_otherwise_is_rejected_before_any_weight() -> None:
    sim = start()
    sim.agreements["1.1.0"] = OTHERWISE
    sim.run_until("Rejected")
    sim.run()

    assert sim.status["message"] == (
        "rolled back to 1.0.0: 1.1.0: Agreement 90.00% < 98.00% (n=2000); change spec.model or "
        "spec.runtime, or retry, to try again"
    )
    entry = sim.status["history"][0]
    assert (entry["version"], entry["outcome"], entry["weight"]) == ("1.1.0", "Rejected", 0)
    assert sim.weights == {"1.0.0": 100}
    assert sim.mirrors == ("", 0)
    assert sim.comparers == []
    assert_converged(sim)

    sim.agreements.clear()
    sim.ask(Verb.RETRY)
    sim.run_until("Complete")


def test_too_few_requests_pause_it_at_the_deadline() -> None:
    sim = start()
    sim.agreements["1.1.0"] = FEW
    sim.run_until("Paused")

    assert sim.condition("RolloutPaused") == ("True", "InsufficientSamples")
    assert "Agreement 97.30%, limit 98.00% (n=37 of 300)" in sim.status["message"]
    assert sim.mirrors == (name_comparer(sim), 10)
    sim.agreements.clear()
    sim.ask(Verb.RESUME)
    sim.run_until("Complete")


def test_a_bound_of_0_shows_and_never_stops() -> None:
    sim = start(shadowed(minAgreementPercent=0))
    sim.agreements["1.1.0"] = OTHERWISE
    sim.run_until("Switching")

    (check,) = sim.status["rollout"]["checks"]
    assert (check["name"], check["value"], check["dryRun"]) == ("shadow", "90.00%", True)
    sim.run_until("Complete")


def test_a_bound_of_0_does_not_wait_for_a_comparer_that_went() -> None:
    sim = start(shadowed(minAgreementPercent=0))
    sim.run_until("Analysing")
    sim.comparer = "never"
    sim.settle_controllers()
    sim.crash()
    sim.run_until("Switching", seconds=100)

    assert sim.evidence.results == ()


def test_checks_of_the_analysis_are_judged_beside_it() -> None:
    agreed = {"name": "strict", "metric": "Agreement", "type": "Absolute", "minPercent": "99.9"}
    errors = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "1"}
    sim = start(lambda: shadowed()().analysis(agreed, errors))
    sim.agreements["1.1.0"] = Agreement(1985.0, 2000.0)
    sim.run_until("Rejected")

    # The errors of a candidate without clients are no finding.
    assert [(check["name"], check["verdict"]) for check in sim.status["rollout"]["checks"]] == [
        ("shadow", "Pass"),
        ("strict", "Fail"),
    ]


@pytest.mark.parametrize(
    ("comparer", "words"),
    [
        ("never", "the comparer is not ready"),
        ("unschedulable", "the comparer is not ready: no room"),
    ],
)
def test_without_a_comparer_nothing_is_mirrored(comparer: str, words: str) -> None:
    sim = start()
    sim.comparer = comparer
    sim.run(seconds=60)
    assert sim.state == "Progressing"
    assert sim.status["message"].endswith(f"1/1 pods ready, {words}")
    assert sim.mirrors == ("", 0)

    sim.run_until("Rejected")
    assert f"nothing was compared for 300s (rollout.deadline): {words}" in sim.status["message"]
    sim.run()
    assert sim.comparers == []
    assert_converged(sim)


def test_a_refused_pod_is_told_in_the_clusters_words() -> None:
    sim = start()
    sim.comparer = "never"
    sim.run(seconds=10)
    comparer = sim.world().comparers[sim.revision("1.1.0")]
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
    sim.put(DEPLOYMENT, {**comparer.children[DEPLOYMENT], "status": {"conditions": [refused]}})
    sim.step()

    assert sim.status["message"].endswith("the comparer is not ready: exceeded quota: small")


def test_it_waits_until_the_gateway_has_taken_the_mirror() -> None:
    sim = start()
    while sim.mirrors == ("", 0):
        sim.step()
    sim.gateway_lag = 3
    service = sim.service
    sim.remove(HTTP_ROUTE, "pizza")
    sim.put(INFERENCE_SERVICE, service)
    while sim.state == "Progressing":
        route = sim.world().route
        is_taken = route is not None and route.settled and route.mirror != ""
        sim.step()
        assert sim.state == "Progressing" or is_taken
    assert sim.state == "Analysing"
    sim.run_until("Complete")  # and its end waits for that as well, see `remove`
    sim.run()
    assert sim.comparers == []


def test_a_comparer_that_goes_for_a_moment_makes_no_routes() -> None:
    sim = start()
    sim.agreements["1.1.0"] = FEW
    sim.run_until("Analysing")
    name = name_comparer(sim)
    Simulation.remove(sim, SERVICE, name)  # by somebody else
    sim.comparer = "never"
    sim.log.clear()
    for _ in range(3):
        sim.step()

    assert f"apply Service {name}" in sim.log
    assert "apply HTTPRoute pizza" not in sim.log
    assert sim.state == "Analysing"


def test_another_version_gets_a_comparer_of_its_own() -> None:
    sim = start()
    sim.run_until("Analysing")
    first = name_comparer(sim)
    sim.change(shadowed()().runs("1.2.0").generation(3).obj())
    sim.step()
    sim.run_until("Analysing")
    sim.run(seconds=10)

    second = name_comparer(sim, "1.2.0")
    assert sim.mirrors == (second, 10)
    assert first != second
    assert sim.comparers == [f"Deployment {second}", f"Service {second}"]


@pytest.mark.parametrize("verb", [Verb.ABORT, Verb.PROMOTE, Verb.PROMOTE_FULL])
def test_people_end_it(verb: Verb) -> None:
    sim = start()
    sim.agreements["1.1.0"] = FEW
    sim.run_until("Analysing")
    sim.ask(verb)
    sim.run_until("Rejected" if verb is Verb.ABORT else "Complete")
    sim.run()

    assert sim.comparers == []
    assert sim.weights == {"1.0.0" if verb is Verb.ABORT else "1.1.0": 100}


def test_a_blue_green_shadow_comes_before_the_preview() -> None:
    sim = start(
        lambda: (
            inference_service()
            .scales(2)
            .traffic()
            .blue_green(approval=True, shadow=SHADOW)
            .deadline("5m")
        )
    )
    sim.run_until("Analysing")
    assert sim.mirrors[1] == 10
    sim.run_until("Paused")
    assert sim.condition("RolloutPaused") == ("True", "WaitingForApproval")
    assert sim.mirrors == ("", 0)
    sim.run()
    assert sim.comparers == []


def test_a_crash_before_any_write_changes_no_end() -> None:
    def play(crash_at: int | None) -> tuple[int, object]:
        sim = start()
        writes = sim.run(seconds=400, crash_at=crash_at)
        assert sim.comparers == []
        return writes, (sim.state, sim.weights)

    writes, end = play(None)
    assert end == ("Complete", {"1.1.0": 100})
    assert all(play(number)[1] == end for number in range(writes))


def test_a_first_deployment_compares_nothing() -> None:
    sim = ShadowSimulation(shadowed()().obj(), V1)
    sim.run()

    assert sim.state == "Complete"
    assert not [line for line in sim.log if "-compare-" in line]


# What it is made of


def test_a_comparer_is_nobody_elses_child_and_behind_no_other_service() -> None:
    sim = start()
    sim.run_until("Analysing")
    world = sim.world()
    candidate = sim.revision("1.1.0")

    assert set(world.comparers) == {candidate}
    assert set(world.comparers[candidate].children) == {DEPLOYMENT, SERVICE}
    assert set(world.revisions) == {sim.revision("1.0.0"), candidate}
    (pod,) = world.comparers[candidate].pods
    assert all(pod not in view.pods for view in world.revisions.values())
    template = world.comparers[candidate].children[DEPLOYMENT]["spec"]["template"]
    carried = template["metadata"]["labels"].items()
    chosen = {
        service["metadata"]["name"]: service["spec"]["selector"].items() <= carried
        for service in sim.caches[SERVICE].all()
    }
    assert [name for name, is_chosen in chosen.items() if is_chosen] == [name_comparer(sim)]
    chosen_pods = [
        labels.compared_by(pod)
        for pod in sim.caches["Pod"].all()
        if labels.comparer_selector("pizza", candidate).items() <= pod["metadata"]["labels"].items()
    ]
    assert chosen_pods == [candidate]


def test_the_manifests_are_as_recorded() -> None:
    owner = Owner("vision", "pizza", "uid-pizza")
    sim = start(
        lambda: shadowed()().runtime(
            podMetadata={"labels": {"team": "vision"}, "annotations": {"mesh": "no"}},
            nodeSelector={"pool": "a"},
            imagePullSecrets=[{"name": "pull"}],
            env=[{"name": "SECRET", "value": "of the model"}],
        )
    )
    sim.run_until("Progressing")
    template = sim.world().revisions[sim.revision("1.1.0")].template
    rendered = yaml.dump_all(
        [
            make_comparer_service(owner, "candidate1"),
            make_comparer(owner, "stable1234", "candidate1", template),
        ],
        Dumper=Plain,
        sort_keys=False,
    )
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(rendered)

    assert rendered == GOLDEN.read_text(), f"UPDATE_GOLDEN=1 writes {GOLDEN.name} anew"
    assert "of the model" not in rendered


def test_every_name_fits_a_service() -> None:
    assert names.comparer_name("pizza", "b" * 10) == "pizza-compare-bbbbbbbbbb"
    for length in range(1, 53):
        name = names.comparer_name("a" * (length - 1) + "b", "c" * 10)
        assert len(name) <= 63
        assert "--" not in name
    assert "--" not in names.comparer_name("a" * 43 + "-bcd", "c" * 10)


def test_the_comparer_is_asked_wherever_it_may_have_counted() -> None:
    sim = start()
    pods = (
        PodView("ready", ready=True, address="10.0.0.1"),
        PodView("leaves", terminating=True, address="10.0.0.2"),
        PodView("starts", address="10.0.0.3"),
        PodView("new", ready=True),
    )
    world = replace(sim.world(), comparers={"candidate": ComparerView({}, pods)})

    assert find_comparer(world, "candidate") == {"ready": "10.0.0.1", "leaves": "10.0.0.2"}
    assert find_comparer(world, "other") == {}
    assert not world.comparers["candidate"].is_ready  # nothing leads to it


@pytest.mark.parametrize("state", State)
def test_a_step_compares_until_it_is_over(state: State) -> None:
    course = Course((Step(0, 10, 60, shadow=10), Step(100, 100)), 60)
    compares = {State.PROGRESSING, State.ANALYSING, State.PAUSED}

    assert is_shadowing(Cursor(state, "candidate", "stable"), course) == (state in compares)
    assert not is_shadowing(Cursor(state, "candidate"), course)
    assert not is_shadowing(Cursor(state, "candidate", "stable", step=1), course)


@pytest.mark.parametrize(
    ("course", "checked", "measured"),
    [
        (Course((Step(0, 10, 60, shadow=10, agreement=98),), 60), True, True),
        (Course((Step(0, 10, 60, shadow=10),), 60), False, True),
        (Course((Step(50, 50, 60),), 60), False, False),
        (Course((Step(50, 50, 60),), 60, analysis={"checks": [{"dryRun": True}]}), False, True),
        (Course((Step(50, 50, 60),), 60, analysis={"checks": [{}]}), True, True),
    ],
)
def test_which_steps_are_checked(course: Course, checked: bool, measured: bool) -> None:
    assert course.is_checked_at(0) is checked
    assert course.is_measured_at(0) is measured


def test_what_was_found_at_another_step_is_not_told_of_this_one() -> None:
    sim = start(shadowed())
    sim.run_until("Analysing")
    while sim.status["rollout"].get("step") != 3:
        sim.step()

    assert "passed" not in sim.status["message"]
