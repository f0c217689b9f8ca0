"""Parsing objects: defaults, metadata, what is passed through, and what a wrong one says."""

from datetime import timedelta
from typing import Any

import pytest

from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.errors import UserError


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
