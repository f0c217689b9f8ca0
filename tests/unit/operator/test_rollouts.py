"""Whole rollouts as stories: what is written, what people are told, and what ends them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sluice import labels
from sluice.api.rolloutstatus import Verdict
from sluice.caches import GATEWAY
from sluice.plan import SampleDemand, plan
from sluice.reconcilers import is_moved
from sluice.requests import Verb
from sluice.rollout.course import Course, Step
from sluice.world import DEPLOYMENT, HTTP_ROUTE, SERVICE
from tests.builders import ServiceBuilder, gateway, inference_service, model_version
from tests.simulation import POLICY, Simulation

V1, V2, V3 = (model_version(version).obj() for version in ("1.0.0", "1.1.0", "1.2.0"))
MOVED = model_version("1.1.0").space("pizza-2").obj()

Service = Callable[[], ServiceBuilder]


def canary(*steps: int | dict[str, Any], **fields: Any) -> Service:
    """Four replicas behind a gateway."""
    wanted = steps or (
        {"weight": 5, "hold": "1m"},
        {"weight": 25, "hold": "1m"},
        {"weight": 50, "approval": "Required"},
        100,
    )
    return lambda: inference_service().scales(4).traffic().canary(*wanted, **fields).analysis()


def blue_green(hold: str | None = "1m", *, approval: bool = False, **fields: Any) -> Service:
    """Two replicas and no gateway."""
    return lambda: inference_service().scales(2).blue_green(hold, approval=approval, **fields)


def start(service: Service, *versions: dict[str, Any]) -> Simulation:
    sim = Simulation(service().obj(), *(versions or (V1, V2, V3)))
    sim.run()
    assert sim.condition("Ready") == ("True", "Serving")
    sim.log.clear()
    sim.events.clear()
    return sim


def move(
    sim: Simulation, service: Service, version: str = "1.1.0", generation: int = 2
) -> Simulation:
    sim.change(service().runs(version).generation(generation).obj())
    return sim


def traffic_writes(sim: Simulation) -> list[str]:
    return [line for line in sim.log if line in {"apply HTTPRoute pizza", "apply Service pizza"}]


def outcomes(sim: Simulation) -> list[tuple[str, str, int | None]]:
    return [(e["version"], e["outcome"], e.get("weight")) for e in sim.status["history"]]


def assert_converged(sim: Simulation) -> None:
    """Nothing is decided and nothing is written any more, now and for an hour."""
    world = sim.world()
    decided = plan(world, sim.now, POLICY)
    assert not is_moved(world, decided)
    assert decided.actions == ()
    assert decided.demand is None
    assert sim.run(seconds=3600) == 0


# Canary


def test_a_canary_goes_its_steps() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    seen: list[tuple[int, str]] = []
    while sim.state != "Paused":
        sim.step()
        seen.append((sim.weights.get("1.1.0", 0), sim.state))
    weights = list(dict.fromkeys(weight for weight, _ in seen))
    waiting = sim.condition("Ready"), sim.condition("RolloutPaused"), sim.condition("Stalled")
    sim.ask(Verb.PROMOTE)
    sim.run(seconds=60)

    assert weights == [0, 5, 25, 50]
    assert waiting == (("Unknown", "Paused"), ("True", "WaitingForApproval"), None)
    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.weights == {"1.1.0": 100}
    assert outcomes(sim) == [("1.1.0", "Serving", 100), ("1.0.0", "Replaced", 100)]
    assert sim.events[-1] == "Normal Serving"
    assert "Normal RequestAccepted" in sim.events
    assert [item["metadata"]["name"] for item in sim.caches[DEPLOYMENT].all()] == [
        f"pizza-{sim.status['stable']['revision']}"
    ]
    assert_converged(sim)


def test_the_candidate_grows_along_the_steps() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sizes: list[int] = []
    while sim.state != "Paused":
        sim.step()
        sizes.append(sim.world().revisions[sim.revision("1.1.0")].replicas)

    assert list(dict.fromkeys(sizes)) == [0, 1, 2]


def test_what_people_read_at_a_step() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.run(seconds=5)

    rollout = sim.status["rollout"]
    assert sim.status["message"] == (
        "1.0.0 -> 1.1.0: step 1/4 weight 5: errors 0.1% <= 1% (n=2207)"
    )
    assert (rollout["step"], rollout["steps"], rollout["weight"]) == (1, 4, 5)
    assert rollout["progress"] == "1/4"
    assert rollout["checks"] == [
        {
            "name": "errors",
            "verdict": "Pass",
            "value": "0.1%",
            "threshold": "1%",
            "samples": 2207,
        }
    ]
    assert sim.status["stable"]["weight"] == 95
    assert sim.status["candidate"]["weight"] == 5
    assert rollout["estimatedCompletionTime"] > rollout["stepStartedTime"]


def test_a_failed_check_takes_the_weight_back() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.log.clear()
    sim.run_until("Aborting")
    assert traffic_writes(sim) == ["apply HTTPRoute pizza"]
    assert sim.weights["1.0.0"] == 100
    sim.run(seconds=60)

    assert sim.condition("Ready") == ("False", "RolledBack")
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert sim.condition("Available") == ("True", "StableServes")
    assert sim.status["message"] == (
        "rolled back to 1.0.0: 1.1.0: errors 3.1% > 1% (n=2207); change spec.model or "
        "spec.runtime, or retry, to try again"
    )
    assert outcomes(sim) == [("1.1.0", "RolledBack", 5), ("1.0.0", "Serving", 100)]
    assert sim.weights == {"1.0.0": 100}
    assert "Warning RolledBack" in sim.events
    assert len(list(sim.caches[DEPLOYMENT].all())) == 1
    assert_converged(sim)


def test_the_candidate_keeps_its_pods_until_its_clients_are_gone() -> None:
    """drain lag 5 s and traffic.timeout 5 s after the gateway took the route."""
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until("Aborting")
    taken = sim.now
    while len(list(sim.caches[DEPLOYMENT].all())) == 2:
        sim.step()

    assert (sim.now - taken).total_seconds() >= 10


def test_a_failed_version_is_quarantined_where_that_is_wanted() -> None:
    service = canary(quarantine=True)
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=120)

    record = sim.caches["ControllerRevision"].get("vision", f"pizza-{sim.revision('1.1.0')}")
    assert record is not None
    annotations = record["metadata"]["annotations"]
    assert annotations[labels.QUARANTINE] == "errors 3.1% > 1% (n=2207)"
    assert annotations[labels.OUTCOME] == "Rejected"


def test_a_candidate_is_watched_while_it_waits_for_its_next_pods() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.short["1.1.0"] = 1  # enough for 25 %, too few for 50 %
    while sim.status.get("rollout", {}).get("step") != 3:
        sim.step()
    sim.run(seconds=30)
    waiting = sim.state, sim.weights
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=30)

    assert waiting == ("Progressing", {"1.0.0": 75, "1.1.0": 25})
    assert sim.weights == {"1.0.0": 100}
    assert outcomes(sim)[0] == ("1.1.0", "RolledBack", 25)
    assert sim.status["rollout"]["message"] == "errors 3.1% > 1% (n=2207)"


def test_the_watch_between_steps_judges_no_rate_while_the_weight_changes() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    weights: list[tuple[str, int | None]] = []
    while sim.state != "Paused":
        sim.gateway_lag = 3
        sim.step()
        decided = sim.decide()
        if isinstance(decided.demand, SampleDemand) and decided.cursor is not None:
            weights.append((decided.cursor.state.value, decided.demand.weight))

    assert {weight for state, weight in weights if state == "Switching"} == {None}
    assert {weight for state, weight in weights if state == "Progressing"} == {5, 25}


def test_a_pause_between_steps_can_be_resumed() -> None:
    service = canary(onFailure="Pause")
    sim = start(service)
    move(sim, service)
    sim.short["1.1.0"] = 1
    while sim.status.get("rollout", {}).get("step") != 3:
        sim.step()
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=30)
    paused = sim.condition("RolloutPaused"), sim.status["message"]
    sim.verdicts.clear()
    sim.short.clear()
    sim.ask(Verb.RESUME)
    sim.run(seconds=60)

    assert paused[0] == ("True", "AnalysisFailed")
    assert "resume lets it go on, promote-full gives it all clients" in paused[1]
    assert sim.condition("RolloutPaused") == ("True", "WaitingForApproval")
    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}


def test_what_a_person_passed_over_is_not_held_against_the_bake() -> None:
    service = lambda: blue_green("1m", bake="10m", onFailure="Pause")().analysis()  # noqa: E731
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until("Paused")
    sim.run(seconds=60)
    window = sim.evidence.window
    sim.ask(Verb.PROMOTE)
    sim.verdicts["1.1.0"] = None
    sim.run(seconds=60)

    assert sim.state == "Baking"
    assert sim.evidence.window != window


def test_a_shadows_agreement_is_enough_for_a_switch() -> None:
    course = Course(
        (Step(0, 50, hold=60, shadow=50, agreement=98), Step(100, 100)),
        deadline=600,
        analysis={"checks": [{"name": "a", "metric": "Agreement", "minPercent": "98"}]},
    )
    compared = {"name": "p95", "metric": "LatencyP95", "type": "RelativeToStable"}

    assert not course.compares
    assert replace(course, analysis={"checks": [compared]}).compares
    assert not replace(course, analysis={"checks": [compared | {"dryRun": True}]}).compares


def test_another_operator_watches_on_between_steps() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.short["1.1.0"] = 1
    while sim.status.get("rollout", {}).get("step") != 3:
        sim.step()
    sim.run(seconds=10)
    sim.crash()
    sim.reaches = False  # for its probes
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=30)

    assert sim.weights == {"1.0.0": 100}


def test_a_queued_version_changes_no_limit_of_the_one_that_bakes() -> None:
    def registered(version: str, milliseconds: str) -> dict[str, Any]:
        obj = model_version(version).obj()
        metrics = [{"name": "latencyP95Ms", "value": milliseconds}]
        obj["spec"]["evaluation"] = {"dataset": "held out", "metrics": metrics}
        return obj

    service = blue_green(None, bake="10m")
    checked = lambda: service().analysis()  # noqa: E731
    sim = start(checked, V1, registered("1.1.0", "240"), registered("1.2.0", "50"))
    move(sim, checked)
    sim.run_until("Baking")
    move(sim, checked, "1.2.0", generation=3)
    sim.run(seconds=10)
    demand = sim.decide().demand

    assert (sim.state, sim.condition("Ready")) == ("Baking", ("Unknown", "Queued"))
    assert isinstance(demand, SampleDemand)
    assert demand.evaluation == {"latencyP95Ms": "240"}


def test_a_quarantined_version_is_retried_where_it_failed() -> None:
    service = canary(quarantine=True)
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=120)
    barred = {"type": "Quarantined", "status": "True", "message": "errors 3.1% > 1% (n=2207)"}
    sim.put("ModelVersion", copy.deepcopy(V2) | {"status": {"conditions": [barred]}})
    sim.verdicts.clear()
    sim.ask(Verb.RETRY)
    sim.run(seconds=10)

    assert handled(sim) == ("Accepted", "tried again from step 1")
    assert sim.weights == {"1.0.0": 95, "1.1.0": 5}
    record = sim.caches["ControllerRevision"].get("vision", f"pizza-{sim.revision('1.1.0')}")
    assert record is not None
    assert labels.QUARANTINE not in record["metadata"]["annotations"]


def test_a_retry_along_other_steps_rises_along_them() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.run(seconds=70)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until("Rejected")
    sim.verdicts.clear()
    sim.change(canary({"weight": 10, "hold": "1m"}, 100)().runs("1.1.0").generation(3).obj())
    sim.ask(Verb.RETRY)
    sim.run(seconds=10)

    assert handled(sim) == ("Accepted", "tried again from step 1")
    assert sim.weights == {"1.0.0": 90, "1.1.0": 10}


def test_what_was_found_before_a_suspension_counts_no_more() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.run(seconds=5)
    sim.change(service().runs("1.1.0").suspended().generation(3).obj())
    sim.run(seconds=7200)
    sim.verdicts["1.1.0"] = None  # nothing was measured since
    move(sim, service, generation=4)
    sim.run(seconds=60)

    assert (sim.state, sim.weights) == ("Analysing", {"1.0.0": 95, "1.1.0": 5})


def test_checks_that_have_nothing_to_compare_with_promote_nobody() -> None:
    compared = {
        "name": "p95",
        "metric": "LatencyP95",
        "type": "RelativeToStable",
        "maxIncreasePercent": "20",
    }
    service = lambda: blue_green()().analysis(compared)  # noqa: E731
    sim = start(service)
    move(sim, service)
    sim.finds_nothing = True
    sim.run(seconds=3600)

    assert sim.condition("RolloutPaused") == ("True", "InsufficientSamples")
    assert "add a check that is Absolute or FromEvaluation" in sim.status["message"]


def test_other_pods_are_proven_anew() -> None:
    service = lambda: blue_green(approval=True)().traffic()  # noqa: E731
    sim = start(service)
    move(sim, service)
    sim.run_until("Paused")
    sim.behaves["1.1.0"] = "never"
    sim.run(seconds=30)
    sim.behaves["1.1.0"] = "ready"
    sim.reaches = False
    sim.ask(Verb.PROMOTE)
    sim.run(seconds=60)
    waiting = sim.weights, sim.status["message"]
    sim.reaches = True
    sim.run(seconds=30)

    assert waiting[0] == {"1.0.0": 100}
    assert "waiting until they answer through the gateway" in waiting[1]
    assert sim.weights["1.1.0"] == 100


def test_on_failure_pause_leaves_the_weight() -> None:
    service = canary(onFailure="Pause")
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=120)

    assert sim.condition("RolloutPaused") == ("True", "AnalysisFailed")
    assert sim.condition("Ready") == ("Unknown", "Paused")
    assert sim.weights == {"1.0.0": 95, "1.1.0": 5}
    assert "errors 3.1% > 1% (n=2207)" in sim.status["message"]
    sim.ask(Verb.ABORT)
    sim.run(seconds=60)
    assert sim.status["history"][0]["outcome"] == "Aborted"
    assert_converged(sim)


def test_few_samples_pause_at_the_deadline() -> None:
    service = canary(deadline="10m")
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.INCONCLUSIVE
    sim.run(seconds=590)
    before = sim.state
    sim.run(seconds=60)

    assert before == "Analysing"
    assert sim.condition("RolloutPaused") == ("True", "InsufficientSamples")
    assert sim.condition("Stalled") is None
    assert sim.status["message"] == (
        "1.0.0 -> 1.1.0: step 1/4 weight 5: InsufficientSamples: errors 0.8%, 12 of 300 samples; "
        "promote lets it go on, resume waits again, abort ends it"
    )
    sim.ask(Verb.RESUME)
    sim.run(seconds=5)
    assert sim.state == "Analysing"
    sim.verdicts["1.1.0"] = Verdict.PASS
    sim.run_until("Paused")
    assert sim.status["rollout"]["pausedReason"] == "WaitingForApproval"


def test_no_samples_at_all_pause_too() -> None:
    service = canary(deadline="10m")
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = None
    sim.run(seconds=650)

    assert sim.condition("RolloutPaused") == ("True", "InsufficientSamples")
    assert "no samples yet" in sim.status["message"]


def test_a_restart_of_the_candidate_is_a_failure() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.restarts["1.1.0"] = 1
    sim.run(seconds=60)

    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert "CandidateRestarted: 1 restarts since it got its weight" in sim.status["message"]


def test_lost_readiness_of_the_candidate_is_a_failure() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.behaves["1.1.0"] = "never"
    sim.run(seconds=60)

    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert "ReadinessLost: 0/1 pods ready" in sim.status["message"]


# Blue/green


def test_blue_green_switches_in_one_write() -> None:
    service = blue_green(approval=True)
    sim = start(service)
    move(sim, service)
    sim.run(seconds=60)
    preview = traffic_writes(sim), sim.status["message"], sim.condition("RolloutPaused")
    sim.ask(Verb.PROMOTE)
    sim.run(seconds=30)
    held = sim.state, sim.status["message"], traffic_writes(sim)
    sim.run(seconds=60)

    assert preview == (
        [],
        "1.0.0 -> 1.1.0: step 1/2 preview: WaitingForApproval; promote lets it go on, abort ends it",
        ("True", "WaitingForApproval"),
    )
    assert held[0] == "Analysing"
    assert "step 2/2 weight 100: held for 60s since" in held[1]
    assert held[2] == ["apply Service pizza"]
    assert sim.condition("Ready") == ("True", "Serving")
    assert outcomes(sim)[0] == ("1.1.0", "Serving", 100)
    assert_converged(sim)


def test_blue_green_goes_back_in_its_hold() -> None:
    service = blue_green()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.behaves["1.1.0"] = "never"
    sim.log.clear()
    sim.run(seconds=60)

    assert traffic_writes(sim) == ["apply Service pizza"]
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert sim.status["stable"] | {"weight": 100} == sim.status["stable"]
    assert outcomes(sim) == [("1.1.0", "RolledBack", 100), ("1.0.0", "Serving", 100)]
    assert_converged(sim)


def test_the_bake_keeps_the_previous_warm() -> None:
    service = blue_green(None, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run(seconds=60)
    baking = sim.condition("Ready"), sim.condition("Baking"), sim.condition("Reconciling")
    kept = len(list(sim.caches[DEPLOYMENT].all()))
    sim.run(seconds=600)

    assert baking == (("True", "Serving"), ("True", "Baking"), None)
    assert kept == 2
    assert sim.condition("Baking") is None
    assert len(list(sim.caches[DEPLOYMENT].all())) == 1
    assert_converged(sim)


def test_a_failure_in_the_bake_goes_back() -> None:
    service = blue_green(None, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run_until("Baking")
    sim.behaves["1.1.0"] = "never"
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.0.0"
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert [(e["version"], e["outcome"]) for e in sim.status["history"]][:2] == [
        ("1.0.0", "Serving"),
        ("1.1.0", "RolledBack"),
    ]
    assert_converged(sim)


def test_a_failed_check_in_the_bake_goes_back() -> None:
    service = canary({"weight": 100, "hold": "10s"}, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run_until("Baking")
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.0.0"
    assert sim.weights == {"1.0.0": 100}
    assert "errors 3.1% > 1%" in sim.status["message"]
    assert_converged(sim)


def test_a_change_of_space_is_refused_to_a_canary() -> None:
    service = canary()
    sim = start(service, V1, MOVED)
    move(sim, service)
    sim.run()

    assert sim.condition("Stalled") == ("True", "EmbeddingSpaceChanged")
    assert sim.condition("Available") == ("True", "StableServes")
    assert "set spec.rollout.strategy to BlueGreen" in sim.status["message"]
    assert [line for line in sim.log if not line.startswith("status")] == []


def test_across_spaces_nothing_goes_back_by_itself() -> None:
    service = blue_green(None, bake="10m")
    sim = start(service, V1, MOVED)
    move(sim, service)
    sim.run_until("Baking")
    spaces = sim.status["stable"]["space"]
    sim.behaves["1.1.0"] = "never"
    sim.run(seconds=60)

    assert spaces == "pizza-2"
    assert sim.condition("RolloutPaused") == ("True", "EmbeddingSpaceChanged")
    assert sim.status["stable"]["version"] == "1.1.0"
    assert "rollback goes back, promote keeps it" in sim.status["message"]
    sim.ask(Verb.ROLLBACK, "previous")
    sim.run(seconds=60)
    assert sim.status["stable"]["version"] == "1.0.0"
    assert_converged(sim)


def test_across_spaces_promote_keeps_it() -> None:
    service = blue_green(None, bake="10m")
    sim = start(service, V1, MOVED)
    move(sim, service)
    sim.run_until("Baking")
    sim.behaves["1.1.0"] = "never"
    sim.run_until("Paused")
    sim.behaves.clear()
    sim.ask(Verb.PROMOTE)
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.1.0"
    assert sim.condition("Ready") == ("True", "Serving")
    assert_converged(sim)


# Requests


def handled(sim: Simulation) -> tuple[str, str]:
    last = sim.status["lastHandledRequest"]
    return last["outcome"], last["message"]


def test_abort_by_request() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.ABORT)
    sim.run(seconds=60)

    assert handled(sim) == ("Accepted", "all traffic goes back to stable")
    assert sim.status["lastHandledRequest"]["requestedBy"] == "ann"
    assert sim.status["message"].startswith("aborted to 1.0.0: 1.1.0: aborted by ann; ")
    assert outcomes(sim)[0] == ("1.1.0", "Aborted", 5)
    assert_converged(sim)


def test_retry_goes_on_at_the_step_that_failed() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.run(seconds=70)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until("Rejected")
    sim.verdicts.clear()
    sim.ask(Verb.RETRY)
    sim.run(seconds=10)

    assert handled(sim) == ("Accepted", "tried again from step 2")
    assert sim.weights == {"1.0.0": 75, "1.1.0": 25}
    sim.run_until("Paused")
    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}


def test_retry_is_told_in_the_history_each_time() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until("Rejected")
    sim.ask(Verb.RETRY)
    sim.run(seconds=120)

    assert [entry[1] for entry in outcomes(sim)] == ["RolledBack", "RolledBack", "Serving"]
    assert_converged(sim)


def test_promote_full_skips_what_is_left() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.PROMOTE_FULL)
    sim.run(seconds=60)

    assert handled(sim) == ("Accepted", "all traffic goes to it once its pods allow")
    assert sim.status["stable"]["version"] == "1.1.0"
    assert_converged(sim)


def test_promote_skips_a_hold() -> None:
    service = canary({"weight": 5, "hold": "10m"}, 100)
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.PROMOTE)
    sim.run(seconds=60)

    assert handled(sim) == ("Accepted", "step 1 is over")
    assert sim.status["stable"]["version"] == "1.1.0"


def test_pause_and_resume() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.PAUSE)
    sim.run(seconds=7200)
    paused = sim.condition("RolloutPaused"), sim.weights, sim.status["message"]
    sim.ask(Verb.RESUME)
    sim.run(seconds=50)
    still = sim.weights["1.1.0"]
    sim.run(seconds=30)

    assert paused[:2] == (("True", "PausedByRequest"), {"1.0.0": 95, "1.1.0": 5})
    assert "PausedByRequest: paused by ann; resume lets it go on" in paused[2]
    assert still == 5
    assert sim.weights["1.1.0"] == 25


def test_a_paused_candidate_that_fails_is_taken_back_all_the_same() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.PAUSE)
    sim.run(seconds=30)
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run(seconds=60)

    assert sim.condition("Stalled") == ("True", "RolledBack")


@pytest.mark.parametrize("target", ["previous", "1.0.0"])
def test_rollback_after_the_fact(target: str) -> None:
    service = canary(100)
    sim = start(service)
    move(sim, service)
    sim.run(seconds=60)
    assert sim.status["stable"]["version"] == "1.1.0"
    sim.ask(Verb.ROLLBACK, target)
    sim.run(seconds=60)

    assert handled(sim) == ("Accepted", f"going back to {target}")
    assert sim.status["stable"]["version"] == "1.0.0"
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert outcomes(sim)[:2] == [("1.0.0", "Serving", 100), ("1.1.0", "RolledBack", 100)]
    assert_converged(sim)


def test_a_rollback_holds_until_the_spec_changes() -> None:
    service = canary(100)
    sim = start(service)
    move(sim, service)
    sim.run(seconds=60)
    sim.ask(Verb.ROLLBACK, "previous")
    sim.run(seconds=60)
    move(sim, service, "1.2.0", 3)
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.2.0"
    assert sim.condition("Ready") == ("True", "Serving")


def test_rollback_to_stable_amid_a_rollout_is_an_abort() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.ask(Verb.ROLLBACK, "stable")
    sim.run(seconds=60)

    assert outcomes(sim)[0] == ("1.1.0", "Aborted", 5)


def test_an_automatic_target_is_one_that_served() -> None:
    """What was rejected never served: previous is the one before."""
    service = canary(100)
    sim = start(service)
    sim.behaves["1.1.0"] = "corrupt"
    move(sim, service)
    sim.run(seconds=30)
    move(sim, service, "1.2.0", 3)
    sim.run(seconds=60)
    sim.ask(Verb.ROLLBACK, "previous")
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.0.0"


REFUSED: dict[str, tuple[Verb, str, str]] = {
    "nothing to promote": (Verb.PROMOTE, "", "no rollout is under way: it is Complete"),
    "nothing to abort": (Verb.ABORT, "", "no rollout is under way: it is Complete"),
    "nothing to retry": (Verb.RETRY, "", "only what was rejected can be tried again"),
    "nothing to resume": (Verb.RESUME, "", "it is not paused: it is Complete"),
    "stable is stable": (Verb.ROLLBACK, "stable", "stable has all traffic already"),
    "unknown version": (Verb.ROLLBACK, "9.9.9", "no recorded revision to go back to is 9.9.9"),
    "no previous": (Verb.ROLLBACK, "previous", "no recorded revision to go back to is previous"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_once(name: str) -> None:
    verb, target, words = REFUSED[name]
    sim = start(canary())
    sim.ask(verb, target)
    sim.run(seconds=30)

    assert handled(sim)[0] == "Refused"
    assert words in handled(sim)[1]
    assert sim.events == ["Warning RequestRefused"]
    assert sim.condition("Ready") == ("True", "Serving")
    assert_converged(sim)


def test_a_request_of_another_revision_is_refused() -> None:
    sim = start(canary())
    sim.ask(Verb.PROMOTE, revision="bbbbbbbbbb")
    sim.run(seconds=30)

    assert handled(sim)[0] == "Refused"
    assert "it names revision bbbbbbbbbb, and the live one is" in handled(sim)[1]


def test_a_request_that_cannot_be_read_is_refused() -> None:
    service = canary()
    sim = start(service)
    sim.change(service().asks("promote please").obj())
    sim.run(seconds=30)

    assert handled(sim)[0] == "Refused"
    assert "promote takes 2 words after it" in handled(sim)[1]
    assert_converged(sim)


def test_a_request_older_than_the_object_is_refused() -> None:
    sim = start(canary())
    changed = copy.deepcopy(sim.service)
    changed["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z"
    sim.put("InferenceService", changed)
    sim.ask(Verb.PROMOTE)
    changed = copy.deepcopy(sim.service)
    changed["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z"
    sim.put("InferenceService", changed)
    sim.run(seconds=30)

    assert "it is older than the InferenceService" in handled(sim)[1]


# The spec changes mid-way


def test_a_third_version_mid_step() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    move(sim, service, "1.2.0", 3)
    sim.run_until("Aborting")
    assert sim.weights["1.0.0"] == 100
    sim.run_until("Paused")

    assert sim.status["candidate"]["version"] == "1.2.0"
    assert sim.status["history"][0]["outcome"] == "Superseded"
    assert sim.weights == {"1.0.0": 50, "1.2.0": 50}


def test_reverted_mid_step() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    move(sim, service, "1.0.0", 3)
    sim.log.clear()
    sim.run(seconds=60)

    assert traffic_writes(sim)[0] == "apply HTTPRoute pizza"
    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.condition("Stalled") is None
    assert sim.weights == {"1.0.0": 100}
    assert_converged(sim)


def test_a_third_version_waits_for_the_bake() -> None:
    service = blue_green(None, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run_until("Baking")
    move(sim, service, "1.2.0", 3)
    sim.run(seconds=300)
    waiting = sim.state
    sim.run(seconds=600)

    assert waiting == "Baking"
    assert sim.status["stable"]["version"] == "1.2.0"


def test_suspended_mid_step() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    suspended = service().runs("1.1.0").suspended().generation(3)
    sim.change(suspended.obj())
    sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.log.clear()
    sim.run(seconds=7200)
    during = sim.condition("Suspended"), {line for line in sim.log if "status" not in line}
    sim.verdicts.clear()
    move(sim, service, generation=4)
    sim.run_until("Paused")

    assert during == (("True", "Suspended"), set())
    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}


def test_a_request_to_a_suspended_service_is_refused() -> None:
    service = canary()
    sim = start(service)
    sim.change(service().suspended().generation(2).obj())
    sim.run()
    sim.ask(Verb.PROMOTE)
    sim.run()

    assert handled(sim) == (
        "Refused",
        "spec.suspend is true: nothing is changed until it is false",
    )


def test_an_edit_of_the_rollout_is_for_the_next_one() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    move(sim, canary({"weight": 90, "hold": "1m"}, 100), generation=3)
    sim.run_until("Paused")

    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}


# The gateway


def test_a_first_deployment_through_a_gateway() -> None:
    sim = Simulation(canary()().obj(), V1)
    sim.reaches = False
    sim.run(seconds=60)
    waiting = sim.condition("Ready"), sim.status["message"]
    sim.reaches = True
    sim.run(seconds=60)

    assert waiting[0] == ("Unknown", "RollingOut")
    assert "waiting until they answer through the gateway: vision/eg: it answers 503" in waiting[1]
    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.weights == {"1.0.0": 100}


def test_no_weight_before_an_answer_came_through() -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.reaches = False
    sim.run(seconds=600)
    before = sim.weights, sim.state
    sim.run(seconds=1000)

    assert before == ({"1.0.0": 100}, "Progressing")
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert "the gateway did not reach it for 1200s (rollout.deadline)" in sim.status["message"]
    assert_converged(sim)


def test_a_slow_gateway_only_takes_longer() -> None:
    service = canary()
    sim = start(service)
    sim.gateway_lag = 5
    move(sim, service)
    sim.run_until("Paused")
    sim.ask(Verb.ABORT)
    sim.run(seconds=120)

    assert outcomes(sim)[0] == ("1.1.0", "Aborted", 50)
    assert_converged(sim)


def test_a_gateway_that_refuses_the_route() -> None:
    service = canary()
    sim = Simulation(service().obj(), V1, V2)
    sim.refusal = "NotAllowedByListeners"
    sim.run(seconds=60)
    waiting = sim.condition("Reconciling"), sim.status["message"]
    sim.refusal = ""
    sim.run(seconds=60)

    assert waiting[0] == ("True", "RouteNotAccepted")
    assert "gateway eg: NotAllowedByListeners: not allowed here" in waiting[1]
    assert sim.condition("Ready") == ("True", "Serving")


def test_a_gateway_that_is_missing() -> None:
    service = canary()
    sim = Simulation(service().obj(), V1)
    sim.remove(GATEWAY, "eg")
    sim.reaches = False
    sim.run(seconds=60)
    waiting = sim.condition("Reconciling"), sim.status["message"]
    sim.put(GATEWAY, gateway().obj())
    sim.reaches = True
    sim.run(seconds=60)

    assert waiting[0] == ("True", "GatewayNotReady")
    assert "Gateway vision/eg is missing, or has no address or no fitting listener" in waiting[1]
    assert sim.condition("Ready") == ("True", "Serving")


def test_a_gateway_without_an_address() -> None:
    sim = Simulation(canary()().obj(), V1)
    sim.put(GATEWAY, gateway(address="").obj())
    sim.reaches = False
    sim.run(seconds=60)

    assert sim.condition("Reconciling") == ("True", "GatewayNotReady")


def test_a_cluster_without_the_gateway_api() -> None:
    service = canary()
    sim = start(lambda: inference_service().scales(4))
    sim.caches[HTTP_ROUTE].served = False
    sim.change(service().generation(2).obj())
    sim.run(seconds=60)

    assert sim.condition("Stalled") == ("True", "GatewayAPIMissing")
    assert sim.condition("Available") == ("True", "StableServes")
    assert "install it and restart the operator, or remove spec.traffic" in sim.status["message"]


def test_traffic_is_added_and_removed() -> None:
    plain: Service = lambda: inference_service().scales(4)  # noqa: E731
    sim = start(plain)
    sim.change(plain().traffic().generation(2).obj())
    sim.run(seconds=60)
    added = sim.weights, sim.condition("Ready")
    sim.change(plain().generation(3).obj())
    sim.run(seconds=60)

    assert added == ({"1.0.0": 100}, ("True", "Serving"))
    assert sim.route is None
    assert sim.condition("Ready") == ("True", "Serving")
    assert_converged(sim)


def test_traffic_removed_mid_step() -> None:
    """Without a route nobody has a share: the front Service alone says who gets all."""
    service = canary()
    sim = start(service)
    move(sim, service)
    sim.run_until("Analysing")
    sim.change(inference_service().scales(4).runs("1.1.0").generation(3).obj())
    sim.run(seconds=3600)

    assert sim.route is None
    assert sim.state in {"Complete", "Rejected", "Paused"}
    assert_converged(sim)


def test_a_match_is_the_candidates_from_the_first_weight() -> None:
    headers = [{"headers": [{"name": "x-cohort", "value": "beta"}]}]
    service = canary(match=headers)
    sim = start(service)
    move(sim, service)
    matched: list[tuple[str, str]] = []
    while sim.state != "Analysing":
        sim.step()
        matched.append((sim.state, _find_cohort(sim)))

    candidate = f"pizza-{sim.revision('1.1.0')}"
    assert {backend for state, backend in matched if state == "Progressing"} == {""}
    assert matched[-1] == ("Analysing", candidate)


def _find_cohort(sim: Simulation) -> str:
    """The backend of who asks with the header of the cohort, empty where no rule speaks of it."""
    rules = sim.route["spec"]["rules"] if sim.route else ()
    for rule in rules:
        for match in rule["matches"]:
            if {"x-cohort"} == {header["name"] for header in match.get("headers", ())}:
                return str(rule["backendRefs"][0]["name"])
    return ""


# Whatever is lost


@pytest.mark.parametrize("version", ["Progressing", "Switching", "Analysing", "Paused", "Aborting"])
def test_a_lost_status_never_moves_clients_to_a_candidate(version: str) -> None:
    service = canary()
    sim = start(service)
    move(sim, service)
    if version == "Aborting":
        sim.run_until("Analysing")
        sim.verdicts["1.1.0"] = Verdict.FAIL
    sim.run_until(version)
    sim.verdicts.clear()
    stable = sim.status["stable"]["version"]
    sim.change(sim.service | {"status": {}})
    sim.run(seconds=10)
    assert stable == "1.0.0"
    assert sim.status["stable"]["version"] == "1.0.0"
    sim.run(seconds=600)

    assert sim.state in {"Paused", "Rejected"}
    assert sim.status["stable"]["version"] == "1.0.0"


@pytest.mark.parametrize("state", ["Baking", "Draining"])
def test_a_lost_status_after_the_switch_finds_the_new_stable(state: str) -> None:
    service = canary(100, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run_until(state, seconds=1200)
    sim.now += timedelta(seconds=POLICY.drain_lag_seconds + 5)  # who was on the way has arrived
    sim.change(sim.service | {"status": {}})
    sim.run(seconds=60)

    assert sim.status["stable"]["version"] == "1.1.0"
    assert sim.condition("Ready") == ("True", "Serving")
    assert_converged(sim)


def test_a_status_lost_right_after_the_switch_leaves_the_old_one_its_time() -> None:
    service = canary(100, bake="10m")
    sim = start(service)
    move(sim, service)
    sim.run_until("Baking", seconds=1200)
    sim.change(sim.service | {"status": {}})
    sim.run(seconds=60)

    assert_converged(sim)


# A crash before any write


def play_canary(sim: Simulation) -> None:
    move(sim, canary({"weight": 25, "hold": "10s"}, 100))


def play_failure(sim: Simulation) -> None:
    sim.verdicts["1.1.0"] = Verdict.FAIL
    play_canary(sim)


def play_third(sim: Simulation) -> None:
    play_canary(sim)
    sim.run_until("Analysing")
    move(sim, canary({"weight": 25, "hold": "10s"}, 100), "1.2.0", 3)


def play_revert(sim: Simulation) -> None:
    play_canary(sim)
    sim.run_until("Analysing")
    move(sim, canary(100), "1.0.0", 3)


def play_blue_green(sim: Simulation) -> None:
    move(sim, lambda: inference_service().scales(4).traffic().blue_green("10s", bake="20s"))


def play_abort(sim: Simulation) -> None:
    play_canary(sim)
    sim.run_until("Analysing")
    sim.ask(Verb.ABORT)


def play_retry(sim: Simulation) -> None:
    play_failure(sim)
    sim.run_until("Rejected")
    sim.verdicts.clear()
    sim.ask(Verb.RETRY)


def play_promote_full(sim: Simulation) -> None:
    play_canary(sim)
    sim.run_until("Analysing")
    sim.ask(Verb.PROMOTE_FULL)


def play_rollback(sim: Simulation) -> None:
    play_canary(sim)
    sim.run(seconds=120)
    sim.ask(Verb.ROLLBACK, "previous")


def play_bake_failure(sim: Simulation) -> None:
    play_blue_green(sim)
    sim.run_until("Baking")
    sim.behaves["1.1.0"] = "never"


def play_no_more_traffic(sim: Simulation) -> None:
    sim.change(inference_service().scales(4).generation(2).obj())


PLAYS: dict[str, Callable[[Simulation], None]] = {
    "first deployment": lambda sim: None,
    "canary": play_canary,
    "failed check": play_failure,
    "third version": play_third,
    "revert": play_revert,
    "blue/green": play_blue_green,
    "abort": play_abort,
    "retry": play_retry,
    "promote-full": play_promote_full,
    "rollback": play_rollback,
    "bake failure": play_bake_failure,
    "traffic removed": play_no_more_traffic,
}


def end_state(sim: Simulation) -> object:
    """What a run leaves, without times and versions."""
    return (
        sim.state,
        sim.status.get("phase"),
        sim.status.get("stable"),
        sim.weights,
        [(entry["version"], entry["outcome"]) for entry in sim.status.get("history", ())],
        sim.status.get("lastHandledRequest", {}).get("outcome"),
        {
            kind: sorted(
                (item["metadata"]["name"], str(item.get("spec", item.get("data"))))
                for item in sim.caches[kind].all()
            )
            for kind in ("ControllerRevision", DEPLOYMENT, SERVICE, HTTP_ROUTE)
        },
    )


@pytest.mark.parametrize("name", PLAYS)
def test_a_crash_before_any_write_ends_the_same(name: str) -> None:
    def play(crash_at: int | None) -> tuple[Simulation, int]:
        service = canary({"weight": 25, "hold": "10s"}, 100)
        is_first = name == "first deployment"
        sim = Simulation(service().obj(), V1) if is_first else start(service)
        PLAYS[name](sim)
        return sim, sim.run(seconds=150, crash_at=crash_at)

    clean, writes = play(None)
    assert writes > 0
    assert_converged(clean)

    for crash_at in range(writes):
        crashed, _ = play(crash_at)
        assert end_state(crashed) == end_state(clean), f"cut before write {crash_at}: {crashed.log}"
