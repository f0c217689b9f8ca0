"""The pure core on simulated clusters: whole rollouts, drift, and a crash before every write."""

from collections.abc import Callable
from typing import Any

import pytest

from sluice.world import DEPLOYMENT, HPA, PDB, SERVICE
from tests.builders import inference_service, model_version
from tests.simulation import Simulation

V1, V2, V3 = (model_version(version).obj() for version in ("1.0.0", "1.1.0", "1.2.0"))


def start(replicas: int = 2) -> Simulation:
    sim = Simulation(inference_service().scales(replicas).obj(), V1, V2, V3)
    sim.run()
    return sim


def move(sim: Simulation, version: str, generation: int = 2, replicas: int = 2) -> None:
    sim.change(inference_service().scales(replicas).runs(version).generation(generation).obj())


def test_the_first_deployment_reads_as_a_story() -> None:
    sim = start()

    name = next(sim.caches[DEPLOYMENT].all())["metadata"]["name"]
    assert sim.log == [
        f"apply ControllerRevision {name}",
        "status Progressing",
        "apply Service pizza",
        f"apply Service {name}",
        f"apply Deployment {name}",
        f"apply PodDisruptionBudget {name}",
        "status Progressing",
        "status Healthy",
    ]
    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.condition("Available") == ("True", "StableServes")
    assert sim.condition("Reconciling") is None
    assert sim.status["stable"]["version"] == "1.0.0"
    assert sim.status["stable"]["weight"] == 100


def test_a_new_version_takes_over() -> None:
    sim = start()
    sim.log.clear()
    old = next(sim.caches[DEPLOYMENT].all())["metadata"]["name"]
    move(sim, "1.1.0")
    sim.run()

    (new,) = [item["metadata"]["name"] for item in sim.caches[DEPLOYMENT].all()]
    writes = [line for line in sim.log if not line.startswith("status")]
    assert writes == [
        f"apply ControllerRevision {new}",
        f"apply Service {new}",
        f"apply Deployment {new}",
        f"apply PodDisruptionBudget {new}",
        "apply Service pizza",
        f"delete Deployment {old}",
        f"delete Service {old}",
        f"delete PodDisruptionBudget {old}",
    ]
    assert sim.status["stable"]["version"] == "1.1.0"
    assert "candidate" not in sim.status
    assert [(entry["version"], entry["outcome"]) for entry in sim.status["history"]] == [
        ("1.1.0", "Serving"),
        ("1.0.0", "Replaced"),
    ]


def test_converged_is_silent() -> None:
    sim = start()

    assert sim.run(seconds=3600) == 0


def test_a_corrupt_candidate_leaves_stable_alone() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "corrupt"
    move(sim, "1.1.0")
    sim.run()

    assert sim.condition("Ready") == ("False", "RolledBack")
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert sim.condition("Available") == ("True", "StableServes")
    assert "model.onnx: sha256 is 9f" in sim.status["message"]
    assert len(list(sim.caches[DEPLOYMENT].all())) == 1
    assert sim.status["history"][0]["outcome"] == "Rejected"


def test_a_rejection_outlives_the_status() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "corrupt"
    move(sim, "1.1.0")
    sim.run()
    sim.change(sim.service | {"status": {}})
    sim.log.clear()
    sim.run()

    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert [line for line in sim.log if not line.startswith("status")] == []


def test_the_spec_back_to_stable_clears_the_stall() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "corrupt"
    move(sim, "1.1.0")
    sim.run()
    move(sim, "1.0.0", generation=3)
    sim.run()

    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.condition("Stalled") is None


def test_waiting_for_gpus_then_going_on() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "unschedulable"
    move(sim, "1.1.0")
    sim.run(seconds=7200)
    waiting = sim.condition("Reconciling"), sim.condition("Stalled")
    del sim.behaves["1.1.0"]
    sim.run()

    assert waiting == (("True", "WaitingForCapacity"), None)
    assert sim.status["stable"]["version"] == "1.1.0"


def test_no_progress_until_the_deadline_is_a_rollback() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "never"
    move(sim, "1.1.0")
    sim.run(seconds=1190)
    before = sim.condition("Reconciling")
    sim.run(seconds=30)

    assert before == ("True", "RollingOut")
    assert sim.condition("Stalled") == ("True", "RolledBack")
    assert "0/2 pods ready and no progress for 1200s" in sim.status["message"]


def test_the_version_comes_later() -> None:
    sim = Simulation(inference_service().obj())
    sim.run()
    waiting = sim.condition("Reconciling"), sim.condition("Ready")
    sim.put("ModelVersion", V1)
    sim.run()

    assert waiting == (("True", "WaitingForVersion"), ("Unknown", "WaitingForVersion"))
    assert sim.condition("Ready") == ("True", "Serving")


def test_stable_serves_on_when_its_version_is_deleted() -> None:
    sim = start()
    sim.remove("ModelVersion", "pizza-spatial-1.0.0")

    assert sim.run(seconds=60) == 0
    assert sim.condition("Ready") == ("True", "Serving")


def test_a_retired_version_is_not_begun() -> None:
    sim = start()
    sim.put("ModelVersion", model_version("1.1.0").lifecycle("Retired").obj())
    move(sim, "1.1.0")
    sim.run()

    assert sim.condition("Stalled") == ("True", "VersionRetired")
    assert sim.status["stable"]["version"] == "1.0.0"


def test_a_retired_version_that_serves_goes_on() -> None:
    sim = start()
    sim.put("ModelVersion", model_version("1.0.0").lifecycle("Retired").obj())
    sim.run()

    assert sim.condition("Ready") == ("True", "Serving")


def test_suspended_means_hands_off() -> None:
    sim = start()
    sim.change(inference_service().scales(2).runs("1.1.0").suspended().generation(2).obj())
    sim.log.clear()
    sim.run()

    assert sim.condition("Suspended") == ("True", "Suspended")
    assert sim.condition("Ready") == ("True", "Serving")
    assert sim.log == ["status Suspended"]


def test_a_lost_status_is_rebuilt() -> None:
    sim = start()
    sim.change(sim.service | {"status": {}})
    sim.log.clear()
    sim.run()

    assert {line for line in sim.log if not line.startswith("status")} == set()
    assert sim.status["stable"]["version"] == "1.0.0"
    assert sim.condition("Ready") == ("True", "Serving")


def test_an_unknown_stored_state_holds() -> None:
    sim = start()
    broken = {**sim.status, "rollout": {"state": "Flying", "revision": "x"}}
    sim.change(sim.service | {"status": broken})
    move(sim, "1.1.0")
    sim.log.clear()
    sim.run()

    assert sim.condition("Stalled") == ("True", "StoredStateInvalid")
    assert [line for line in sim.log if not line.startswith("status")] == []


def test_a_deleted_record_restarts_nothing() -> None:
    sim = start()
    (deployment,) = sim.caches[DEPLOYMENT].all()
    sim.remove("ControllerRevision", deployment["metadata"]["name"])
    sim.log.clear()
    sim.run()

    assert sim.log == [f"apply ControllerRevision {deployment['metadata']['name']}"]
    assert next(sim.caches[DEPLOYMENT].all())["spec"]["template"] == deployment["spec"]["template"]


@pytest.mark.parametrize("kind", [DEPLOYMENT, SERVICE, PDB])
def test_a_deleted_child_comes_back(kind: str) -> None:
    sim = start()
    name = next(sim.caches[DEPLOYMENT].all())["metadata"]["name"]
    sim.remove(kind, name)
    sim.run()

    assert sim.caches[kind].get("vision", name) is not None
    assert sim.condition("Ready") == ("True", "Serving")


def drift_selector(child: dict[str, Any]) -> None:
    child["spec"]["selector"] = {"app": "mine"}


def drift_replicas(child: dict[str, Any]) -> None:
    child["spec"]["replicas"] = 0


def drift_image(child: dict[str, Any]) -> None:
    child["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"


def drift_sidecar(child: dict[str, Any]) -> None:
    child["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "x"})


@pytest.mark.parametrize(
    ("kind", "front", "drift"),
    [
        (SERVICE, True, drift_selector),
        (DEPLOYMENT, False, drift_replicas),
        (DEPLOYMENT, False, drift_image),
        (DEPLOYMENT, False, drift_sidecar),
    ],
)
def test_drift_is_set_back(kind: str, front: bool, drift: Callable[[dict[str, Any]], None]) -> None:
    sim = start()
    name = "pizza" if front else next(sim.caches[DEPLOYMENT].all())["metadata"]["name"]
    before = sim.caches[kind].get("vision", name)
    assert before is not None
    changed = {**before, "metadata": dict(before["metadata"]), "spec": _copy(before["spec"])}
    drift(changed)
    sim.put(kind, changed)
    sim.run()

    after = sim.caches[kind].get("vision", name)
    assert after is not None
    assert after["spec"] == before["spec"]


def _copy(value: Any) -> Any:
    import copy

    return copy.deepcopy(value)


def test_the_autoscaler_follows_its_bounds() -> None:
    sim = Simulation(inference_service().scales(2, 5).obj(), V1)
    sim.run()
    (hpa,) = sim.caches[HPA].all()
    with_bounds = hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]
    sim.change(inference_service().scales(3).generation(2).obj())
    sim.run()

    assert with_bounds == (2, 5)
    assert list(sim.caches[HPA].all()) == []
    assert next(sim.caches[DEPLOYMENT].all())["spec"]["replicas"] == 3


def test_the_candidate_gets_what_stable_had() -> None:
    """An autoscaler had taken stable to 4; two pods of a candidate could not carry that."""
    sim = Simulation(inference_service().scales(2, 5).obj(), V1, V2)
    sim.run()
    (deployment,) = sim.caches[DEPLOYMENT].all()
    sim.put(DEPLOYMENT, {**deployment, "spec": {**deployment["spec"], "replicas": 4}})
    sim.settle_controllers()
    sim.behaves["1.1.0"] = "never"
    sim.change(inference_service().scales(2, 5).runs("1.1.0").generation(2).obj())
    sim.run()

    replicas = {
        item["metadata"]["name"]: item["spec"]["replicas"] for item in sim.caches[DEPLOYMENT].all()
    }
    floors = {
        item["metadata"]["name"]: item["spec"]["minReplicas"] for item in sim.caches[HPA].all()
    }
    assert sorted(replicas.values()) == [4, 4]
    assert sorted(floors.values()) == [4, 4]


def test_old_records_go() -> None:
    sim = start()
    for number in range(6):
        sim.put("ModelVersion", model_version(f"2.{number}.0").obj())
        move(sim, f"2.{number}.0", generation=2 + number)
        sim.run()

    assert len(list(sim.caches["ControllerRevision"].all())) == 3


def test_a_third_version_mid_rollout() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "never"
    move(sim, "1.1.0")
    sim.run()
    move(sim, "1.2.0", generation=3)
    sim.run()

    assert sim.status["stable"]["version"] == "1.2.0"
    assert len(list(sim.caches[DEPLOYMENT].all())) == 1


def test_traffic_stays_where_part_of_a_first_deployment_answers() -> None:
    """One of two pods finds a GPU and serves; the next version has none ready yet."""
    sim = Simulation(inference_service().scales(2).obj(), V1, V2)
    sim.short["1.0.0"] = 1
    sim.run()
    first = front(sim)
    sim.behaves["1.1.0"] = "never"
    move(sim, "1.1.0")
    sim.run()
    held = front(sim)
    del sim.behaves["1.1.0"]
    sim.run()

    assert held == first
    assert sim.status["stable"]["version"] == "1.1.0"
    assert front(sim) != first


def front(sim: Simulation) -> str:
    found = sim.caches[SERVICE].get("vision", "pizza")
    assert found is not None
    return str(found["spec"]["selector"]["sluice.dev/revision"])


def test_traffic_is_never_taken_from_pods_that_answer() -> None:
    """Whatever the status says: here it is one from before the move, as an old cache would have it."""
    sim = start()
    before = sim.status
    move(sim, "1.1.0")
    sim.run()
    served = front(sim)
    sim.change(inference_service().scales(2).status(before).obj())
    next(sim.reconcile_all())

    assert front(sim) == served
    assert sim.caches[DEPLOYMENT].get("vision", f"pizza-{served}") is not None


def test_back_to_the_version_that_still_drains() -> None:
    """It isn't deleted and loaded anew: the bad version would serve for all that time."""
    sim = start()
    old = next(sim.caches[DEPLOYMENT].all())["metadata"]["uid"]
    move(sim, "1.1.0")
    while sim.status["rollout"]["state"] != "Draining":
        next(sim.reconcile_all())
        sim.settle_controllers()
    move(sim, "1.0.0", generation=3)
    sim.run()

    assert sim.status["stable"]["version"] == "1.0.0"
    assert [item["metadata"]["uid"] for item in sim.caches[DEPLOYMENT].all()] == [old]


def test_retired_amid_its_rollout_goes_on() -> None:
    sim = start()
    sim.behaves["1.1.0"] = "never"
    move(sim, "1.1.0")
    sim.run()
    sim.put("ModelVersion", model_version("1.1.0").lifecycle("Retired").obj())
    sim.run()
    still = sim.condition("Stalled"), sim.condition("Reconciling")
    del sim.behaves["1.1.0"]
    sim.run()

    assert still == (None, ("True", "RollingOut"))
    assert sim.status["stable"]["version"] == "1.1.0"


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (SERVICE, "sluice.dev/front"),
        ("ControllerRevision", "sluice.dev/version"),
        (DEPLOYMENT, "sluice.dev/version"),
    ],
)
def test_a_lost_label_stops_nothing(kind: str, label: str) -> None:
    sim = start()
    name = "pizza" if kind == SERVICE else next(sim.caches[DEPLOYMENT].all())["metadata"]["name"]
    child = sim.caches[kind].get("vision", name)
    assert child is not None
    changed = _copy(child)
    del changed["metadata"]["labels"][label]
    sim.put(kind, changed)
    sim.run()
    move(sim, "1.1.0")
    sim.run()

    assert sim.status["stable"]["version"] == "1.1.0"
    assert [entry["version"] for entry in sim.status["history"]] == ["1.1.0", "1.0.0"]


Scenario = Callable[[Simulation], None]

SCENARIOS: dict[str, Scenario] = {
    "first deployment": lambda sim: None,
    "update": lambda sim: move(sim, "1.1.0"),
    "corrupt candidate": lambda sim: (sim.behaves.update({"1.1.0": "corrupt"}), move(sim, "1.1.0"))[
        1
    ],
    "third version": lambda sim: (
        sim.behaves.update({"1.1.0": "never"}),
        move(sim, "1.1.0"),
        sim.run(seconds=5),
        move(sim, "1.2.0", 3),
    )[3],
    "scale": lambda sim: sim.change(inference_service().scales(3, 6).generation(2).obj()),
}


def end_state(sim: Simulation) -> object:
    """What a run leaves, without times and versions."""
    return (
        sim.status.get("phase"),
        sim.status.get("stable"),
        {
            kind: sorted(
                (item["metadata"]["name"], str(item.get("spec", item.get("data"))))
                for item in sim.caches[kind].all()
            )
            for kind in ("ControllerRevision", DEPLOYMENT, SERVICE, HPA, PDB)
        },
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_crash_before_any_write_ends_the_same(name: str) -> None:
    def play(crash_at: int | None) -> tuple[Simulation, int]:
        sim = Simulation(inference_service().scales(2).obj(), V1, V2, V3)
        if name != "first deployment":
            sim.run()
        SCENARIOS[name](sim)
        return sim, sim.run(seconds=60, crash_at=crash_at)

    clean, writes = play(None)
    assert writes > 0

    for crash_at in range(writes):
        crashed, _ = play(crash_at)
        assert end_state(crashed) == end_state(clean), f"cut before write {crash_at}: {crashed.log}"
