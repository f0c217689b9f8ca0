"""The pre-promotion Job as a story: when it is made, whom it keeps waiting, what its end leads to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.labels import CHECKS, JOB_NAME
from sluice.names import LABEL_LENGTH, checker_name
from sluice.plan import plan
from sluice.reconcilers import is_moved
from sluice.requests import Verb
from sluice.world import JOB, JobView, PodView, Trouble
from tests.builders import ServiceBuilder, inference_service, model_version
from tests.simulation import POLICY, Simulation
from tests.unit.operator.test_manifests import Plain

GOLDEN = Path(__file__).parents[2] / "golden" / "manifests-checker.yaml"
V1, V2, V3 = (model_version(version).obj() for version in ("1.0.0", "1.1.0", "1.2.0"))
ASK: dict[str, Any] = {"command": ["python", "-c", "import urllib.request"], "timeout": "2m"}


def checked(**job: Any) -> Callable[[], ServiceBuilder]:
    """Four replicas, a Job and two steps."""
    return lambda: (
        inference_service()
        .scales(4)
        .traffic()
        .canary({"weight": 50, "hold": "1m"}, 100, prePromotion={"job": {**ASK, **job}})
        .deadline("5m")
    )


def start(service: Callable[[], ServiceBuilder] | None = None, **checks: str) -> Simulation:
    """1.0.0 serves, and 1.1.0 is asked for; `checks` by version, with underscores."""
    service = service or checked()
    sim = Simulation(service().obj(), V1, V2, V3)
    sim.checks = {name.strip("v").replace("_", "."): how for name, how in checks.items()}
    sim.run()
    assert list_jobs(sim) == [], "a first deployment needs no Job"
    sim.change(service().runs("1.1.0").generation(2).obj())
    return sim


def list_jobs(sim: Simulation) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in sim.caches[JOB].all())


def assert_converged(sim: Simulation) -> None:
    world = sim.world()
    decided = plan(world, sim.now, POLICY)
    assert not is_moved(world, decided)
    assert decided.actions == ()


def test_it_runs_once_before_the_first_weight_and_goes_with_its_rollout() -> None:
    sim = start(v1_1_0="runs")
    sim.run(seconds=60)
    (name,) = list_jobs(sim)
    assert sim.state == "Progressing"
    assert sim.weights == {"1.0.0": 100}
    assert sim.status["message"] == (
        f"1.0.0 -> 1.1.0: step 1/2 weight 50: 2/2 pods ready, Job {name} is running"
    )
    sim.checks.clear()
    sim.run_until("Analysing")
    assert sim.weights == {"1.0.0": 50, "1.1.0": 50}
    assert list_jobs(sim) == [name], "the second step needs no Job of its own"
    sim.run_until("Complete")
    sim.run()
    assert list_jobs(sim) == []
    assert_converged(sim)


@pytest.mark.parametrize("on_failure", ["Rollback", "Pause"])
def test_a_failed_job_ends_the_rollout_before_any_client_meets_it(on_failure: str) -> None:
    sim = start(lambda: checked()().rollout(onFailure=on_failure), v1_1_0="fails")
    sim.run_until("Rejected")
    (name,) = list_jobs(sim)
    assert sim.status["message"] == (
        f"rolled back to 1.0.0: 1.1.0: PrePromotionFailed: Job {name}: Job has reached its limit; "
        "change spec.model or spec.runtime, or retry, to try again"
    )
    assert sim.condition("Stalled") == ("True", "RolledBack")
    entry = sim.status["history"][0]
    assert (entry["version"], entry["outcome"], entry["weight"]) == ("1.1.0", "Rejected", 0)
    assert entry["reason"].startswith("PrePromotionFailed: ")
    sim.run(seconds=60)
    assert list_jobs(sim) == [name], "its logs are for people"
    assert_converged(sim)


def test_a_retry_runs_another_one() -> None:
    sim = start(v1_1_0="fails")
    sim.run_until("Rejected")
    sim.run(seconds=30)
    before = list_jobs(sim)
    sim.checks.clear()
    sim.ask(Verb.RETRY)
    sim.run_until("Analysing")
    (after,) = list_jobs(sim)
    assert [after] != before
    sim.run_until("Complete")


def test_one_that_never_ends_meets_the_deadline() -> None:
    sim = start(v1_1_0="runs")
    sim.run_until("Rejected")
    (name,) = list_jobs(sim)
    assert (
        f"Job {name} is running, and nothing came of it for 300s (rollout.deadline)"
        in sim.status["message"]
    )


def test_a_third_version_takes_its_jobs_place() -> None:
    sim = start(v1_1_0="runs")
    sim.run(seconds=30)
    before = list_jobs(sim)
    sim.change(checked()().runs("1.2.0").generation(3).obj())
    sim.run_until("Analysing")
    (after,) = list_jobs(sim)
    assert [after] != before
    sim.run_until("Complete")
    sim.run()
    assert list_jobs(sim) == []


def test_promote_full_does_without() -> None:
    sim = start(v1_1_0="runs")
    sim.run(seconds=30)
    sim.ask(Verb.PROMOTE_FULL)
    sim.run_until("Complete", seconds=120)
    sim.run()
    assert list_jobs(sim) == []


def test_a_way_back_needs_none() -> None:
    sim = start()
    sim.run(seconds=400)
    sim.ask(Verb.ROLLBACK, "previous")
    sim.run_until("Switching", seconds=120)
    assert list_jobs(sim) == []


def test_a_preview_waits_for_it_before_people_are_asked() -> None:
    job = {"job": ASK}
    sim = start(
        lambda: (
            inference_service()
            .scales(2)
            .traffic()
            .blue_green(approval=True, prePromotion=job)
            .deadline("5m")
        ),
        v1_1_0="runs",
    )
    sim.run(seconds=60)
    assert sim.state == "Progressing"
    sim.checks.clear()
    sim.run_until("Paused")
    sim.ask(Verb.PROMOTE)
    sim.run_until("Complete")


def test_it_needs_no_gateway() -> None:
    sim = start(lambda: inference_service().scales(2).rollout(prePromotion={"job": ASK}))
    sim.run_until("Switching")
    assert len(list_jobs(sim)) == 1
    sim.run_until("Complete")


def test_one_that_somebody_deletes_is_made_again() -> None:
    sim = start(v1_1_0="runs")
    sim.run(seconds=30)
    (name,) = list_jobs(sim)
    sim.remove(JOB, name)
    sim.run(seconds=30)
    assert list_jobs(sim) == [name]
    sim.checks.clear()
    sim.run_until("Complete")


@pytest.mark.parametrize("check", ["passes", "fails"])
def test_a_crash_before_any_write_changes_nothing(check: str) -> None:
    clean = start(v1_1_0=check)
    writes = clean.run(seconds=400)
    assert len(list_jobs(clean)) == (check == "fails")
    for cut in range(writes):
        sim = start(v1_1_0=check)
        sim.run(seconds=400, crash_at=cut)
        assert (sim.state, list_jobs(sim)) == (clean.state, list_jobs(clean)), cut
        assert_converged(sim)


def test_its_words_are_those_of_its_pod() -> None:
    failed = {"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}
    job = {"metadata": {"name": "x"}, "status": {"conditions": [failed]}}
    pod = PodView("x-1", trouble=Trouble("Error", "exit code 3: said no"))
    assert JobView("r", job).failure == "BackoffLimitExceeded"
    assert JobView("r", job, (pod,)).failure == "exit code 3: said no"
    assert JobView("r", {"metadata": {"name": "x"}}, (pod,)).failure == ""


def test_a_pod_of_it_is_never_one_of_the_candidates() -> None:
    sim = start(v1_1_0="runs")
    sim.run(seconds=30)
    (job,) = sim.caches[JOB].all()
    template = job["spec"]["template"]
    name = job["metadata"]["name"]
    ended = {
        "terminated": {
            "exitCode": 3,
            "reason": "Error",
            "message": "once\nasking\n  twice\nsaid no\n",
        }
    }
    sim.put(
        "Pod",
        {
            "metadata": {
                "name": f"{name}-1",
                "namespace": "vision",
                "labels": {**template["metadata"]["labels"], JOB_NAME: name},
            },
            "status": {
                "phase": "Failed",
                "conditions": [],
                "initContainerStatuses": [],
                "containerStatuses": [
                    {
                        "name": "check",
                        "ready": False,
                        "restartCount": 0,
                        "state": ended,
                        "lastState": {},
                    }
                ],
            },
        },
    )
    world = sim.world()
    assert world.jobs[name].revision == template["metadata"]["labels"][CHECKS]
    assert world.jobs[name].trouble == "exit code 3: asking | twice | said no"
    assert len(world.revisions[world.jobs[name].revision].pods) == 2


def test_a_long_name_of_a_service_is_cut() -> None:
    name = checker_name("a" * 62 + "b", "r", "now")
    assert len(name) == LABEL_LENGTH
    assert name != checker_name("a" * 62 + "c", "r", "now")


@pytest.mark.parametrize(
    ("env", "seen"),
    [
        pytest.param([], ["void"], id="none unasked"),
        pytest.param([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}], ["0"], id="what is said"),
    ],
)
def test_it_sees_no_device_unless_it_says_so(env: list[dict[str, str]], seen: list[str]) -> None:
    sim = start(checked(env=env), v1_1_0="runs")
    sim.run(seconds=30)
    (job,) = sim.caches[JOB].all()
    (container,) = job["spec"]["template"]["spec"]["containers"]

    assert [
        item["value"] for item in container["env"] if item["name"] == "NVIDIA_VISIBLE_DEVICES"
    ] == seen


def test_the_manifest_is_as_recorded() -> None:
    job = {
        "image": "registry.example.com/checks:1",
        "args": ["--quick"],
        "env": [{"name": "LEVEL", "value": "3"}],
        "retries": 2,
        "resources": {"requests": {"cpu": "1"}},
        "serviceAccountName": "checker",
    }
    sim = start(
        lambda: checked(**job)().runtime(
            nodeSelector={"pool": "gpu"}, imagePullSecrets=[{"name": "pull"}]
        ),
        v1_1_0="runs",
    )
    sim.run(seconds=30)
    (found,) = sim.caches[JOB].all()
    metadata = {
        key: value
        for key, value in found["metadata"].items()
        if key not in {"uid", "resourceVersion"}
    }
    rendered = yaml.dump({**found, "metadata": metadata}, Dumper=Plain, sort_keys=False)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text(), f"UPDATE_GOLDEN=1 writes {GOLDEN.name} anew"
