"""The processes that make the machine a node: kubelet, kube-proxy and the device plugin.

Says with which settings each starts.  The containerd that the kubelet talks to is the business of
``containerd``.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from testbed import cgroup, containerd, controlplane, netns, nodespace
from testbed.cluster import Cluster
from testbed.errors import ClusterError

NODE = "sluice-node"
GPU_RESOURCE = "nvidia.com/gpu"
DEFAULT_GPUS = 8

_LABELS = {
    # As GPU feature discovery sets them on a node with eight H100.
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.family": "hopper",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/mig.capable": "true",
}


def count_gpus() -> int:
    """How many GPUs the node advertises: TESTBED_GPUS, 8 unless set."""
    text = os.environ.get("TESTBED_GPUS", str(DEFAULT_GPUS))
    if not text.isdigit() or int(text) > 64:
        raise ClusterError(f"TESTBED_GPUS={text!r}: a number from 0 to 64 is allowed")
    return int(text)


def start_kubelet(cluster: Cluster, *, gpus: int) -> None:
    """Start the kubelet; returns once it answers, before the node is Ready."""
    kubeconfig = controlplane.client(cluster, "kubelet", f"system:node:{NODE}", "system:nodes")
    configuration = _write(cluster, "kubelet.yaml", _make_kubelet_configuration(cluster))
    labels = {**_LABELS, "nvidia.com/gpu.count": str(gpus)} if gpus else {}
    nodespace.start(
        cluster,
        "kubelet",
        [
            str(cluster.bin / "kubelet"),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE}",
            f"--node-ip={netns.BRIDGE_ADDRESS}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in labels.items())}",
        ],
        ready="http://127.0.0.1:10248/healthz",
        seconds=90,
    )


def start_proxy(cluster: Cluster) -> None:
    """Start kube-proxy; its first rules take some seconds more."""
    kubeconfig = controlplane.client(cluster, "kube-proxy", "system:kube-proxy")
    configuration = _write(
        cluster,
        "kube-proxy.yaml",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": NODE,
            "clusterCIDR": netns.POD_CIDR,
            "bindAddress": netns.BRIDGE_ADDRESS,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # The table's size is the machine's, and not ours to change.
            "conntrack": {"maxPerCore": 0, "min": 0},
        },
    )
    nodespace.start(
        cluster,
        "kube-proxy",
        [str(cluster.bin / "kube-proxy"), f"--config={configuration}"],
        ready="http://127.0.0.1:10249/healthz",
    )


def start_device_plugin(cluster: Cluster, *, gpus: int) -> None:
    """Start the plugin that advertises ``gpus`` GPUs which are not there."""
    nodespace.start(
        cluster,
        "device-plugin",
        [
            str(cluster.bin / "device-plugin"),
            f"--resource={GPU_RESOURCE}",
            f"--count={gpus}",
        ],
    )


def _make_kubelet_configuration(cluster: Cluster) -> dict[str, Any]:
    authority = cluster.authority
    certificate, key = authority.issue(
        "kubelet-serving", NODE, dns=[NODE], addresses=[netns.BRIDGE_ADDRESS, "127.0.0.1"]
    )
    resolver = nodespace.data_folder(cluster.name) / "resolv.conf"
    resolver.write_text(f"nameserver {netns.DNS_SERVICE_ADDRESS}\n")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{containerd.socket_of(cluster.name)}",
        "address": netns.BRIDGE_ADDRESS,
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority.certificate_path)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [netns.DNS_SERVICE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup.path_of(cluster.name),
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The machine's memory and disk are shared with everything else on it: their state is no
        # reason to evict a pod here, nor to delete an image.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "serializeImagePulls": False,
        # Pods come and go quickly in tests.
        "registryPullQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "maxPods": 200,
    }


def _write(cluster: Cluster, name: str, content: dict[str, Any]) -> Path:
    path = nodespace.data_folder(cluster.name) / name
    text = yaml.safe_dump(content)
    # kube-proxy ends itself when its file is touched, so a second `up` leaves it alone.
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path
