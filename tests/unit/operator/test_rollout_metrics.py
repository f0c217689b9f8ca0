"""What a metrics server sees of rollouts, and that nothing stays behind."""

from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from sluice.rollout_metrics import RolloutMetrics
from sluice.runtime.kinds import Key

KEY = Key("InferenceService", "vision", "pizza")
NOW = datetime(2026, 11, 21, 12, 5, 0, tzinfo=UTC)
WHOSE = {"namespace": "vision", "service": "pizza"}


def rollout(state: str, **more: Any) -> dict[str, Any]:
    return {"rollout": {"state": state, "startedTime": "2026-11-21T12:00:00Z", **more}}


def moving() -> dict[str, Any]:
    check = {"name": "errors", "verdict": "Fail", "value": "3.10%", "samples": 2207}
    return rollout("Analysing", step=2, checks=[check]) | {"candidate": {"weight": 25}}


def test_a_rollout_under_way_is_shown() -> None:
    registry = CollectorRegistry()
    RolloutMetrics(registry).tell(KEY, {}, moving(), NOW)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"sluice_rollout_{name}", WHOSE | labels)

    assert value("state", state="Analysing") == 1
    assert value("step") == 2
    assert value("weight_percent") == 25
    assert value("check_value", check="errors") == 3.10
    assert value("check_samples", check="errors") == 2207
    assert value("check_verdict", check="errors") == -1


def test_one_that_ended_is_counted_and_not_shown() -> None:
    registry = CollectorRegistry()
    metrics = RolloutMetrics(registry)
    ended = rollout("Rejected") | {"history": [{"outcome": "RolledBack"}]}
    metrics.tell(KEY, {}, moving(), NOW)
    metrics.tell(KEY, moving(), ended, NOW)
    metrics.tell(KEY, ended, ended, NOW)

    labels = {"outcome": "RolledBack"}
    assert registry.get_sample_value("sluice_rollouts_total", labels) == 1
    assert registry.get_sample_value("sluice_rollout_duration_seconds_sum", labels) == 300
    assert [
        sample
        for metric in registry.collect()
        for sample in metric.samples
        if sample.labels.get("service")
    ] == []


def test_one_that_made_room_is_counted_too() -> None:
    registry = CollectorRegistry()
    another = moving() | {"history": [{"outcome": "Superseded"}]}
    another["rollout"] = another["rollout"] | {"startedTime": "2026-11-21T12:04:00Z"}
    RolloutMetrics(registry).tell(KEY, moving(), another, NOW)

    assert registry.get_sample_value("sluice_rollouts_total", {"outcome": "Superseded"}) == 1


def test_the_next_step_is_no_end() -> None:
    registry = CollectorRegistry()
    RolloutMetrics(registry).tell(KEY, moving(), moving(), NOW)

    assert registry.get_sample_value("sluice_rollouts_total", {"outcome": "Complete"}) is None
