"""Simulated GPU nodes: the kwok process and the Node objects it manages.

kwok manages only nodes with its annotation, so a real kubelet's node in the same instance is left
alone; a taint keeps pods off the simulated nodes that do not tolerate it.  How pods there behave is
in ``stages``.
"""

import json
from pathlib import Path

import yaml

from testbed import netns
from testbed.cluster import Cluster
from testbed.process import wait_until
from testbed.stages import make_stages

ANNOTATION = "kwok.x-k8s.io/node"
DEFAULT_NODES = 4
GPUS_PER_NODE = 8


def up(cluster: Cluster, kubeconfig: Path) -> None:
    """Start kwok as the user of ``kubeconfig``; ``DEFAULT_NODES`` nodes are Ready on return."""
    config = cluster.folder / "kwok.yaml"
    # Each worker waits for the API server most of the time; four, the default, leave it idle.
    options = {
        "podPlayStageParallelism": 32,
        "nodePlayStageParallelism": 8,
        # A configuration replaces all of its defaults, so these are said too.
        "nodeLeaseParallelism": 4,
        "podsOnNodeSyncParallelism": 1,
    }
    settings = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": options,
    }
    config.write_text(yaml.safe_dump_all([settings, *make_stages()], width=1000))
    cluster.start(
        "kwok",
        [
            str(cluster.bin / "kwok"),
            f"--kubeconfig={kubeconfig}",
            f"--config={config}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
            f"--cidr={netns.SIMULATED_POD_CIDR}",
            f"--node-ip={netns.BRIDGE_ADDRESS}",
            "--node-lease-duration-seconds=40",
            "--server-address=127.0.0.1:10247",
        ],
        env={"HOME": str(cluster.folder)},
        ready="http://127.0.0.1:10247/healthz",
    )
    ensure_nodes(cluster, DEFAULT_NODES)


def make_node(number: int) -> dict[str, object]:
    """Simulated node ``number``: 8 H100 GPUs, labelled as GPU feature discovery does."""
    name = f"gpu-{number:03d}"
    amounts = {
        "cpu": "128",
        "memory": "1Ti",
        "ephemeral-storage": "4Ti",
        "pods": "110",
        "nvidia.com/gpu": str(GPUS_PER_NODE),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION: "fake"},
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": f"zone-{number % 3}",
                "type": "kwok",
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.count": str(GPUS_PER_NODE),
                "nvidia.com/gpu.family": "hopper",
            },
        },
        "spec": {"taints": [{"key": ANNOTATION, "value": "fake", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v0.0.0-simulated",
                "kubeProxyVersion": "",
                "containerRuntimeVersion": "",
                "kernelVersion": "",
                "osImage": "",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        },
    }


def ensure_nodes(cluster: Cluster, count: int) -> None:
    """Add simulated nodes until there are ``count``, and wait until all are Ready."""
    present = _ready_by_node(cluster)
    missing = [n for n in (make_node(i) for i in range(count)) if _name(n) not in present]
    if missing:
        listing = {"apiVersion": "v1", "kind": "List", "items": missing}
        cluster.kubectl("create", "-f", "-", input=json.dumps(listing))
    wait_until(
        lambda: all(_ready_by_node(cluster).values()),
        seconds=60,
        what=f"simulated nodes Ready (see {cluster.logs / 'kwok.log'})",
        interval=0.2,
    )


def _name(node: dict[str, object]) -> str:
    metadata = node["metadata"]
    assert isinstance(metadata, dict)  # noqa: S101 - made above, tells mypy
    return str(metadata["name"])


def _ready_by_node(cluster: Cluster) -> dict[str, bool]:
    listing = json.loads(cluster.kubectl("get", "nodes", "-l", "type=kwok", "-o", "json").stdout)
    return {
        node["metadata"]["name"]: any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in node["status"].get("conditions", [])
        )
        for node in listing["items"]
    }
