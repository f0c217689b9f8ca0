"""The node tier: what makes a real node of this machine, in which order it starts and how it ends.

The parts themselves are in ``nodespace``, ``cgroup``, ``containerd``, ``kubelet``, ``addons`` and
``gateway``.
"""

import contextlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed import addons, build, cgroup, containerd, gateway, kubelet, netns, nodespace, process
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.progress import Progress

_BRIDGE_FILTER = Path("/proc/sys/net/bridge")


def components() -> list[str]:
    """What has to be built for this tier, beside the control plane's."""
    return ["kubernetes", "pause", "device-plugin", *addons.components(), *gateway.components()]


def prepare() -> None:
    """See that this machine can be a node, before anything is installed or built."""
    if not netns.is_root():
        raise ClusterError(
            "needs root for the node tier: sudo python -m testbed up --tier node, or TESTBED=kind"
        )
    kubelet.count_gpus()
    load_modules()


def load_modules() -> None:
    """Have the kernel filter bridged packets and mount overlays, as far as that can be had.

    Without the filter, a pod does not reach a Service that leads to a pod of the same node.
    """
    # Both may be built in, or this machine a container that may load nothing: what counts is
    # whether they are there afterwards.  Overlays that are not, containerd names by itself.
    with contextlib.suppress(FileNotFoundError):
        command = ["modprobe", "--all", "--quiet", "br_netfilter", "overlay"]
        subprocess.run(command, capture_output=True, check=False)
    if not _BRIDGE_FILTER.exists():
        raise ClusterError(
            f"{_BRIDGE_FILTER} is not there, so pods would not reach Services: as root, run "
            "`modprobe br_netfilter` (in a container: on its host), or use TESTBED=kind"
        )


def up(cluster: Cluster, progress: Progress) -> None:
    """Join a real node to a running control plane; starts only what does not run."""
    gpus = kubelet.count_gpus()
    # Before anything of it exists, so that `down` looks for it.
    cluster.remember("node", True)
    programs = build.ensure(components(), progress)
    build.link(programs, cluster.bin)
    gateway_image = gateway.ensure_image(programs, progress)
    with progress.step("containerd"):
        nodespace.make(cluster)
        cgroup.make(cluster.name)
        containerd.start(cluster, registries={addons.REGISTRY: addons.REGISTRY_URL})
        containerd.import_pause(cluster, programs["pause"])
    with (
        progress.step("kubelet, kube-proxy, CoreDNS, metrics-server, registry, Envoy Gateway"),
        ThreadPoolExecutor(1) as beside,
    ):
        installed = beside.submit(gateway.install, cluster, programs, gateway_image)
        kubelet.start_kubelet(cluster, gpus=gpus)
        kubelet.start_proxy(cluster)
        kubelet.start_device_plugin(cluster, gpus=gpus)
        addons.up(cluster)
        installed.result()
    with progress.step(f"node Ready with {gpus} {kubelet.GPU_RESOURCE}"):
        process.wait_until(
            lambda: _is_ready(cluster, gpus),
            seconds=120,
            interval=0.2,
            what=f"node {kubelet.NODE} Ready (log: {cluster.logs / 'kubelet.log'})",
        )
        # The first rules of kube-proxy are there once a Service answers.
        cluster.wait_for(f"tcp://{netns.DNS_SERVICE_ADDRESS}:53", what="kube-proxy")
    with progress.step(f"gateway {gateway.NAME} answers"):
        gateway.wait(cluster)


def has_data(cluster: Cluster) -> bool:
    """Whether the instance's node has anything on disk."""
    return nodespace.data_folder(cluster.name).exists()


def down(cluster: Cluster) -> None:
    """End the node and all its pods at once; nothing where there is none.

    Works on what a killed run left as well: it goes by control group and socket, and asks no
    kubelet.
    """
    if not netns.is_root():
        return
    for name in ("kubelet", "containerd"):
        # First those that would start pods again.
        if name in cluster.processes:
            cluster.stop(name)
    cgroup.kill(cluster.name)
    containerd.kill_shims(cluster)
    for name in ("device-plugin", "kube-proxy", *addons.components(), nodespace.HOLDER):
        if name in cluster.processes:
            cluster.stop(name)
    cgroup.remove(cluster.name)
    nodespace.remove(cluster)


def _is_ready(cluster: Cluster, gpus: int) -> bool:
    found = cluster.kubectl("get", "node", kubelet.NODE, "--ignore-not-found", "-o", "json").stdout
    if not found:
        return False
    status = json.loads(found)["status"]
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    allocatable = status.get("allocatable", {}).get(kubelet.GPU_RESOURCE, "0")
    return conditions.get("Ready") == "True" and allocatable == str(gpus)
