"""The pod template: what users ask for, what a version needs, and what the house adds."""

from typing import Any

import pytest

from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.resources.pod import make_pod_template
from sluice.resources.revision import make_inputs
from tests.builders import ServiceBuilder, VersionBuilder, inference_service, model_version


def render(
    service: ServiceBuilder | None = None, version: VersionBuilder | None = None
) -> dict[str, Any]:
    inputs = make_inputs(
        InferenceService.parse((service or inference_service()).obj()),
        ModelVersion.parse((version or model_version()).obj()),
    )
    return make_pod_template("pizza", "bcdfghjklm", inputs)


def server(template: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = template["spec"]["containers"][0]
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container["env"]}


@pytest.mark.parametrize(
    ("service", "version", "want"),
    [
        (
            inference_service(),
            model_version(),
            {"requests": {"cpu": "100m", "memory": "1Gi"}},
        ),
        (
            inference_service(),
            model_version().memory("4Gi").gpus(2),
            {
                "requests": {"cpu": "100m", "memory": "4Gi", "nvidia.com/gpu": "2"},
                "limits": {"memory": "4Gi", "nvidia.com/gpu": "2"},
            },
        ),
        (
            inference_service().runtime(resources={"limits": {"cpu": "2", "memory": "512Mi"}}),
            model_version().memory("4Gi"),
            {
                "requests": {"cpu": "2", "memory": "512Mi"},
                "limits": {"cpu": "2", "memory": "512Mi"},
            },
        ),
        (
            inference_service().runtime(resources={"requests": {"cpu": "1", "memory": "2Gi"}}),
            model_version(),
            {"requests": {"cpu": "1", "memory": "2Gi"}},
        ),
        (
            inference_service().runtime(resources={"requests": {"memory": "8Gi"}}),
            model_version().memory("4Gi"),
            {"requests": {"cpu": "100m", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
        ),
    ],
    ids=[
        "nothing said",
        "the version says",
        "limits of the user",
        "requests of the user",
        "a request above what the version needs",
    ],
)
def test_resources(service: ServiceBuilder, version: VersionBuilder, want: dict[str, Any]) -> None:
    assert server(render(service, version))["resources"] == want


def test_the_restricted_standard() -> None:
    template = render()
    spec = template["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({}, 30),
        ({"REQUEST_TIMEOUT_MS": "5000"}, 30),
        ({"REQUEST_TIMEOUT_MS": "59001"}, 65),
        ({"REQUEST_TIMEOUT_MS": "600000"}, 605),
        ({"REQUEST_TIMEOUT_MS": "1e300"}, 605),
        ({"REQUEST_TIMEOUT_MS": "inf"}, 30),
        ({"REQUEST_TIMEOUT_MS": "soon"}, 30),
    ],
)
def test_there_is_time_to_finish_the_longest_answer(asked: dict[str, str], seconds: int) -> None:
    spec = render(inference_service().env(**asked))["spec"]
    pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(environment(spec["containers"][0])["DRAIN_TIMEOUT_S"])

    assert drain == seconds
    assert pause + drain < spec["terminationGracePeriodSeconds"]


def test_the_users_environment_comes_last_and_everywhere() -> None:
    template = render(inference_service().env(LOG_LEVEL="debug"))

    assert server(template)["env"][-1] == {"name": "LOG_LEVEL", "value": "debug"}
    assert environment(template["spec"]["initContainers"][0])["LOG_LEVEL"] == "debug"


def test_credentials_reach_fetch_only() -> None:
    version = model_version()
    version._obj["spec"]["artifact"]["credentialsSecretRef"] = {"name": "registry"}
    template = render(version=version)

    assert template["spec"]["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "registry"}}]
    assert "envFrom" not in server(template)


def test_a_claim_is_mounted_read_only_for_fetch() -> None:
    template = render(version=model_version().uri("pvc://models/pizza/1.0.0"))

    assert template["spec"]["volumes"][2] == {
        "name": "artifact",
        "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
    }
    assert {"name": "artifact", "mountPath": "/artifact", "readOnly": True} in (
        template["spec"]["initContainers"][0]["volumeMounts"]
    )
    assert "artifact" not in [mount["name"] for mount in server(template)["volumeMounts"]]


PRODUCT = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}
MEMORY = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["6143"]}


def test_gpu_products_and_memory_become_node_affinity() -> None:
    template = render(version=model_version().gpus(1, products=["NVIDIA-L4"], memory="6Gi"))

    terms = template["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert terms == [{"matchExpressions": [PRODUCT, MEMORY]}]


def test_the_users_node_terms_are_alternatives_and_each_gets_the_gpus() -> None:
    zones = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": [name]}]} for name in "ab"
    ]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}
        }
    }
    template = render(
        inference_service().runtime(affinity=affinity),
        model_version().gpus(1, products=["NVIDIA-L4"]),
    )

    terms = template["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert [term["matchExpressions"][1] for term in terms] == [PRODUCT, PRODUCT]
    assert [term["matchExpressions"][0]["values"] for term in terms] == [["a"], ["b"]]


def test_a_null_from_a_template_engine_is_no_crash() -> None:
    term = {"matchExpressions": None}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }
    template = render(
        inference_service().runtime(affinity=affinity),
        model_version().gpus(1, products=["NVIDIA-L4"]),
    )

    assert template["spec"]["affinity"]["nodeAffinity"]


def test_gpu_pods_tolerate_the_gpu_taint_and_others_do_not() -> None:
    with_gpu = render(version=model_version().gpus(1, resource="amd.com/gpu"))

    assert with_gpu["spec"]["tolerations"] == [
        {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "tolerations" not in render()["spec"]


def test_labels_of_the_user_never_win() -> None:
    template = render(
        inference_service().runtime(
            podMetadata={"labels": {"team": "vision"}, "annotations": {"note": "x"}}
        )
    )

    assert template["metadata"]["labels"]["team"] == "vision"
    assert template["metadata"]["labels"]["sluice.dev/revision"] == "bcdfghjklm"
    assert template["metadata"]["annotations"] == {"note": "x"}


def test_a_default_spelled_out_is_the_same_revision() -> None:
    """A default that the API gains later must not restart everything."""
    plain = make_inputs(
        InferenceService.parse(inference_service().obj()), ModelVersion.parse(model_version().obj())
    )
    spelled = model_version()
    spelled._obj["spec"]["requirements"] = {"precision": "float32"}
    other = make_inputs(
        InferenceService.parse(inference_service().obj()), ModelVersion.parse(spelled.obj())
    )

    assert {**other, "requirements": {}} == {**plain, "requirements": {}}
