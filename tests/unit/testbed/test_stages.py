"""Simulated nodes and pods: what the operator's tests rely on."""

from testbed.kwok import make_node
from testbed.stages import BEHAVIOURS, make_stages


def test_a_simulated_node_has_gpus_labels_and_the_taint_that_keeps_other_pods_off():
    node = make_node(7)
    assert node["metadata"]["name"] == "gpu-007"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["spec"]["taints"] == [
        {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
    ]
    assert (
        node["metadata"]["labels"]
        | {
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
            "nvidia.com/gpu.memory": "81559",
            "nvidia.com/gpu.count": "8",
        }
        == node["metadata"]["labels"]
    )


def test_every_behaviour_is_chosen_by_some_stage():
    chosen = {
        value
        for stage in make_stages()
        for expression in stage["spec"]["selector"]["matchExpressions"]
        if "behaviour" in expression["key"]
        for value in expression.get("values", [])
    }
    assert set(BEHAVIOURS) <= chosen


def test_no_stage_but_the_deletion_touches_a_pod_that_is_being_deleted():
    for stage in make_stages():
        first = stage["spec"]["selector"]["matchExpressions"][0]
        deletes = stage["spec"]["next"].get("delete", False)
        assert first == {
            "key": ".metadata.deletionTimestamp",
            "operator": "Exists" if deletes else "DoesNotExist",
        }
