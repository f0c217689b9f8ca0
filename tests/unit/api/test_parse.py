"""Parsing objects: defaults, metadata, what is passed through, and what a wrong one says."""

from datetime import timedelta
from typing import Any

import pytest

from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.api.rollout import Approval, BlueGreen, CheckMetric, OnFailure, SourceType
from sluice.errors import UserError

ERRORS = {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "1"}


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "pizza", "namespace": "vision", "uid": "u", "generation": 3},
        "spec": {
            "model": {"name": "pizza-spatial", "version": "2.1.0"},
            "runtime": {"image": "inference:1"},
            **spec,
        },
        "status": {"whatever": 1},
    }


def test_defaults_are_those_of_the_schema() -> None:
    spec = InferenceService.parse(service()).spec
    assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (1, 1)
    assert spec.rollout.strategy == "RollingUpdate"
    assert spec.rollout.deadline_after == timedelta(minutes=20)
    assert spec.suspend is False


def test_a_rollout_has_its_lengths_of_time() -> None:
    spec = InferenceService.parse(
        service(
            traffic={"parentRefs": [{"name": "eg"}], "hostnames": ["a.b"], "timeout": "1m30s"},
            rollout={
                "strategy": "Canary",
                "canary": {"steps": [{"weight": 5, "hold": "2m"}, {"weight": 100}]},
                "blueGreen": {"hold": "1500ms"},
                "shadow": {"percent": 10, "hold": "5m", "minAgreementPercent": 98},
                "analysis": {"checks": [ERRORS], "interval": "10s"},
                "bake": "30m",
                "deadline": "1h",
            },
        )
    ).spec
    rollout = spec.rollout
    assert spec.traffic is not None
    assert spec.traffic.timeout_after == timedelta(seconds=90)
    assert rollout.canary is not None
    assert rollout.analysis is not None
    assert rollout.blue_green is not None
    assert rollout.shadow is not None
    assert [step.hold_after for step in rollout.canary.steps] == [timedelta(minutes=2), timedelta()]
    assert rollout.blue_green.hold_after == timedelta(seconds=1.5)
    assert rollout.shadow.hold_after == timedelta(minutes=5)
    assert rollout.analysis.interval_after == timedelta(seconds=10)
    assert (rollout.bake_after, rollout.deadline_after) == (
        timedelta(minutes=30),
        timedelta(hours=1),
    )


def test_defaults_of_a_rollout_are_those_of_the_schema() -> None:
    rollout = InferenceService.parse(
        service(
            rollout={
                "strategy": "Canary",
                "canary": {"steps": [{"weight": 100}]},
                "analysis": {"checks": [ERRORS]},
            }
        )
    ).spec.rollout
    assert rollout.canary is not None
    assert rollout.analysis is not None
    assert rollout.canary.steps[0].approval is Approval.NOT_REQUIRED
    assert (rollout.bake_after, rollout.on_failure, rollout.quarantine) == (
        timedelta(),
        OnFailure.ROLLBACK,
        False,
    )
    analysis = rollout.analysis
    assert (analysis.interval_after, analysis.min_samples) == (timedelta(seconds=15), 300)
    assert analysis.source.type is SourceType.PODS
    assert analysis.checks[0].dry_run is False
    assert analysis.to_dict() == {"checks": [ERRORS]}
    assert BlueGreen.model_validate({}).hold_after == timedelta()


@pytest.mark.parametrize(
    ("metric", "latency"),
    [
        ("ErrorRate", False),
        ("LatencyP50", True),
        ("LatencyP95", True),
        ("LatencyP99", True),
        ("Throughput", False),
        ("Agreement", False),
        ("Query", False),
    ],
)
def test_a_metric_knows_whether_it_is_a_latency(metric: str, latency: bool) -> None:
    assert CheckMetric(metric).is_latency is latency


def test_absent_max_replicas_is_min_replicas() -> None:
    scaling = InferenceService.parse(service(scaling={"minReplicas": 3})).spec.scaling
    assert scaling.max_replicas == 3


def test_metadata_is_the_part_that_decisions_need() -> None:
    obj = service()
    obj["metadata"] |= {
        "annotations": {"a": "b"},
        "managedFields": [],
        "deletionTimestamp": "2026-11-01T00:00:00Z",
    }
    metadata = InferenceService.parse(obj).metadata
    assert (metadata.namespace, metadata.uid, metadata.generation) == ("vision", "u", 3)
    assert metadata.annotations == {"a": "b"}
    assert metadata.is_deleting


def test_parts_of_core_v1_come_out_as_they_went_in() -> None:
    runtime = {
        "image": "inference:1",
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "affinity": {"podAffinity": {}, "nodeAffinity": {"anyThing": [{"at": 1}]}},
        "env": [{"name": "A", "value": ""}],
        "tolerations": [{"operator": "Exists"}],
    }
    assert InferenceService.parse(service(runtime=runtime)).spec.runtime.to_dict() == runtime


def test_a_default_leaves_no_trace_in_what_is_dumped() -> None:
    plain = InferenceService.parse(service()).spec
    spelled = InferenceService.parse(
        service(rollout={"strategy": "RollingUpdate", "deadline": "20m"}, suspend=False)
    ).spec
    assert plain == spelled
    assert plain.rollout.to_dict() == {}


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        pytest.param(
            {"scaling": {"minReplicas": 0, "maxReplicas": 1}},
            "spec.scaling.minReplicas: Input should be greater than or equal to 1",
            id="a bound",
        ),
        pytest.param(
            {"scalling": {}}, "spec.scalling: Extra inputs are not permitted", id="an unknown field"
        ),
        pytest.param(
            {"runtime": {"image": "i", "env": [{"name": "A"}, {"name": "1A"}]}},
            "spec.runtime.env[1].name: '1A' must be the name of an environment variable: letters, digits "
            "and '_', not beginning with a digit",
            id="an item of a list",
        ),
    ],
)
def test_a_wrong_object_names_the_field(spec: dict[str, Any], want: str) -> None:
    with pytest.raises(UserError) as refused:
        InferenceService.parse(service(**spec))
    assert (refused.value.reason, refused.value.message) == ("InvalidSpec", want)


def test_many_problems_are_counted_not_listed() -> None:
    with pytest.raises(UserError) as refused:
        ModelVersion.parse({"metadata": {"name": "m"}, "spec": {}})
    assert refused.value.message == (
        "spec.model: Field required; spec.version: Field required; spec.tasks: Field required; "
        "and 2 more"
    )
