"""The instance's own containerd: configuration, start, import, and the end of what it leaves.

Its root, state and socket are the instance's, so that a Docker or containerd of the machine is left
alone.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

from testbed import imagearchive, netns, nodespace, process
from testbed.cluster import Cluster
from testbed.errors import ClusterError

PAUSE_REFERENCE = "registry.testbed:5000/testbed/pause:1"
_IMPORTED = "imported:"
CNI_PLUGINS = Path("/usr/lib/cni")

_CONFIGURATION = """\
version = 2
root = "{data}/containerd"
state = "{run}/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE runc dies on lowering a score, saying
  # "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{data}/cni-configuration"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{data}/registries"

[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

# Pods for GPU nodes name this RuntimeClass; here, without a GPU, its handler is plain runc.
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
  SystemdCgroup = false
"""


def socket_of(name: str) -> Path:
    """containerd's socket of instance ``name``."""
    return nodespace.run_folder(name) / "containerd.sock"


def start(cluster: Cluster, *, registries: dict[str, str]) -> None:
    """Write the configuration and start containerd; returns once it answers.

    ``registries`` maps a registry's name in image references to the URL at which it really answers.
    """
    data, run = nodespace.data_folder(cluster.name), nodespace.run_folder(cluster.name)
    configuration = data / "containerd.toml"
    configuration.write_text(
        _CONFIGURATION.format(
            data=data,
            run=run,
            socket=socket_of(cluster.name),
            pause=PAUSE_REFERENCE,
            plugins=CNI_PLUGINS,
        )
    )
    network = data / "cni-configuration" / "10-sluice.conflist"
    network.parent.mkdir(exist_ok=True)
    network.write_text(json.dumps(_make_network(data), indent=1))
    for registry, url in registries.items():
        hosts = data / "registries" / registry / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        # The table may not be left out, although it says nothing new.
        hosts.write_text(
            f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'
        )
    nodespace.start(cluster, "containerd", ["containerd", "--config", str(configuration)])
    process.wait_until(
        lambda: ctr(cluster, "version").returncode == 0,
        seconds=30,
        what=f"containerd (log: {cluster.logs / 'containerd.log'})",
    )


def ctr(cluster: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run containerd's own client among the kubelet's images; the caller looks at the result."""
    return subprocess.run(
        ["ctr", "--address", str(socket_of(cluster.name)), "--namespace", "k8s.io", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def import_pause(cluster: Cluster, binary: Path) -> None:
    """Make an image of the static program ``binary`` and import it as every pod's sandbox."""
    archive = nodespace.data_folder(cluster.name) / "pause.tar"
    if cluster.recall(_IMPORTED + PAUSE_REFERENCE) == str(binary):
        return
    imagearchive.write(archive, {"pause": binary}, PAUSE_REFERENCE, entrypoint="/pause")
    import_image(cluster, archive, PAUSE_REFERENCE, origin=str(binary))
    archive.unlink()


def import_image(cluster: Cluster, archive: Path, reference: str, *, origin: str) -> None:
    """Import ``archive`` as the image ``reference``; nothing where that was done from ``origin``."""
    if cluster.recall(_IMPORTED + reference) == origin:
        return
    done = ctr(cluster, "images", "import", str(archive))
    if done.returncode != 0:
        raise ClusterError(f"the image {reference} could not be imported: {done.stderr.strip()}")
    cluster.remember(_IMPORTED + reference, origin)


def kill_shims(cluster: Cluster) -> None:
    """End the shims of this instance's containers, known by the socket they were given."""
    address = str(socket_of(cluster.name)).encode()

    def is_gone() -> bool:
        pids = [pid for pid, words in _commands() if is_shim_of(words, address)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        return not pids

    process.wait_until(is_gone, seconds=20, what="end of containerd's shims", interval=0.1)


def is_shim_of(words: list[bytes], address: bytes) -> bool:
    """Whether a command line is that of a shim which containerd at ``address`` started."""
    return bool(words) and words[0].endswith(b"/containerd-shim-runc-v2") and address in words


def _commands() -> list[tuple[int, list[bytes]]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((int(folder.name), words))
    return found


def _make_network(data: Path) -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "sluice",
        "plugins": [
            {
                "type": "bridge",
                "bridge": netns.BRIDGE,
                "isGateway": True,
                # A pod may reach itself through its own Service.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(data / "cni-addresses"),
                    "ranges": [[{"subnet": netns.POD_CIDR, "gateway": netns.BRIDGE_ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
