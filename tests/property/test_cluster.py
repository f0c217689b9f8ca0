"""Whatever happens in whatever order, no rule is broken, and it comes to an end when it is left alone.

The whole in-memory cluster with the real core: what `exploration` does exhaustively on a small scale is
drawn at random here, on a larger one.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sluice.api.rolloutstatus import Verdict
from sluice.plan import plan
from sluice.reconcilers import is_moved
from sluice.requests import Verb
from tests import invariants
from tests.builders import ServiceBuilder, inference_service, model_version
from tests.simulation import POLICY, Simulation

VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
STRATEGIES = ("canary", "canary with approval", "blue/green", "rolling update", "no gateway")
RESTING = {"Complete", "Rejected", "Paused"}


def make_service(strategy: str, bake: str, on_failure: str) -> ServiceBuilder:
    """Four replicas, limits of a minute and less."""
    service = inference_service().scales(4)
    fields: dict[str, Any] = {"bake": bake, "onFailure": on_failure, "deadline": "60s"}
    match strategy:
        case "canary":
            return (
                service.traffic()
                .canary({"weight": 20, "hold": "10s"}, 50, 100, **fields)
                .analysis()
            )
        case "canary with approval":
            return service.traffic().canary({"weight": 50, "approval": "Required"}, 100, **fields)
        case "blue/green":
            return service.traffic().blue_green("10s", approval=True, **fields).analysis()
        case "rolling update":
            return service.traffic().rollout(**fields)
        case _:
            return service.blue_green("10s", **fields)


class Cluster(RuleBasedStateMachine):
    """A service whose spec, pods, gateway and operator change while its rollouts are under way."""

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        bake=st.sampled_from(["0s", "20s"]),
        on_failure=st.sampled_from(["Rollback", "Pause"]),
    )
    def begin(self, strategy: str, bake: str, on_failure: str) -> None:
        self.make = lambda: make_service(strategy, bake, on_failure)
        self.generation = 1
        versions = [model_version(version).obj() for version in VERSIONS]
        self.sim = Simulation(self.make().obj(), *versions)
        self.version = VERSIONS[0]
        self.sim.run()
        assert self.sim.state == "Complete"

    @rule(version=st.sampled_from(VERSIONS))
    def edit(self, version: str) -> None:
        self.version = version
        self._write(suspended=False)

    @rule(suspended=st.booleans())
    def suspend(self, suspended: bool) -> None:
        self._write(suspended=suspended)

    def _write(self, *, suspended: bool) -> None:
        self.generation += 1
        service = self.make().runs(self.version).generation(self.generation)
        self.sim.change((service.suspended() if suspended else service).obj())

    @rule(verb=st.sampled_from(list(Verb)), where=st.sampled_from(["previous", "stable", "1.0.0"]))
    def ask(self, verb: Verb, where: str) -> None:
        self.sim.ask(verb, where if verb is Verb.ROLLBACK else "")

    @rule(writes=st.integers(0, 8))
    def crash_amid_a_pass(self, writes: int) -> None:
        for _, _ in zip(range(writes), self.sim.reconcile(), strict=False):
            pass
        self.sim.crash()

    @rule(writes=st.integers(0, 3), version=st.sampled_from(VERSIONS))
    def edit_amid_a_pass(self, writes: int, version: str) -> None:
        for number, _ in enumerate(self.sim.reconcile()):
            if number == writes:
                self.edit(version)
        self.sim.check()

    @rule(times=st.integers(1, 12))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            for _ in self.sim.reconcile():
                pass
            self.sim.settle_controllers()

    @rule(seconds=st.sampled_from([1, 7, 30, 120]))
    def run(self, seconds: int) -> None:
        self.sim.run(seconds=seconds)

    @rule(
        version=st.sampled_from(VERSIONS),
        behaviour=st.sampled_from(["ready", "never", "unschedulable", "corrupt"]),
    )
    def change_pods(self, version: str, behaviour: str) -> None:
        self.sim.behaves[version] = behaviour
        self.sim.settle_controllers()

    @rule(version=st.sampled_from(VERSIONS))
    def restart_pods(self, version: str) -> None:
        self.sim.restarts[version] = self.sim.restarts.get(version, 0) + 1
        self.sim.settle_controllers()

    @rule(version=st.sampled_from(VERSIONS), verdict=st.sampled_from([*Verdict, None]))
    def change_verdict(self, version: str, verdict: Verdict | None) -> None:
        self.sim.verdicts[version] = verdict

    @rule(lag=st.integers(0, 3))
    def slow_the_gateway(self, lag: int) -> None:
        self.sim.gateway_lag = lag

    @rule(refusal=st.sampled_from(["", "NotAllowedByListeners"]))
    def refuse_the_route(self, refusal: str) -> None:
        self.sim.refusal = refusal

    @invariant()
    @precondition(lambda self: hasattr(self, "sim"))
    def conditions_agree(self) -> None:
        invariants.check_status(self.sim.status)

    def teardown(self) -> None:
        """Left alone, with pods that become ready, it comes to rest and stays there."""
        if not hasattr(self, "sim"):
            return
        sim = self.sim
        sim.behaves.clear()
        sim.verdicts.clear()
        sim.refusal, sim.gateway_lag = "", 0
        self._write(suspended=False)
        sim.run(seconds=600)
        assert sim.state in RESTING, f"{sim.state}: {sim.log}"
        decided = plan(sim.world(), sim.now, POLICY)
        assert not is_moved(sim.world(), decided)
        assert decided.actions == ()


BUDGET = settings(
    max_examples=40,
    stateful_step_count=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_no_order_of_events_breaks_a_rule() -> None:
    _run(BUDGET)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_order_of_events_breaks_a_rule_in_depth() -> None:
    _run(settings(BUDGET, max_examples=2000, stateful_step_count=60, derandomize=False))


def _run(budget: settings) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Cluster, settings=budget)
