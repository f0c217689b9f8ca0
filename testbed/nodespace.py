"""The mount namespace that all processes of a node share, and the folders they use.

A kubelet and a containerd have paths that no flag changes (the device plugins' socket, the shims'
sockets).  Here each of them is a bind mount that only this node sees, so that several instances,
and a kubelet or Docker that the machine has anyway, live side by side.  Every mount a pod needs is
made in here as well, and goes when the last process in here ends: there is nothing to unmount.
What runs in here is decided elsewhere.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import netns, process
from testbed.cluster import Cluster
from testbed.errors import ClusterError

HOLDER = "node-mounts"

_FIXED = {
    "kubelet": Path("/var/lib/kubelet"),
    "cni": Path("/var/lib/cni"),
    "pods": Path("/var/log/pods"),
    "containers": Path("/var/log/containers"),
    "shims": Path("/run/containerd"),
}
"""Our folder's name -> the path over which it is mounted."""

_MADE = "made-folders.json"
_MARK = "ready"


def data_folder(name: str) -> Path:
    """Where instance ``name`` keeps what is too large for memory: layers, volumes, blobs."""
    return Path("/var/lib/sluice-testbed") / name


def run_folder(name: str) -> Path:
    """Where instance ``name`` keeps sockets, whose paths must be short."""
    return Path("/run/sluice-testbed") / name


def make(cluster: Cluster) -> None:
    """Make the folders and the process that holds the mount namespace.  Safe to run again."""
    data, run = data_folder(cluster.name), run_folder(cluster.name)
    holder = cluster.processes.get(HOLDER)
    if holder is not None and process.is_running(holder):
        return
    with _all_instances():
        for folder in (data, run, *(data / each for each in _FIXED)):
            folder.mkdir(parents=True, exist_ok=True)
        _make_fixed(data.parent / _MADE)
    mark = run / _MARK
    mark.unlink(missing_ok=True)
    binds = "\n".join(f"mount --bind {data / each} {path}" for each, path in _FIXED.items())
    own = netns.path_of(cluster.name)
    script = f"""
set -e
# This copy of other instances' namespaces would keep them alive after their end.
for each in /run/netns/*; do
  if [ "$each" != {own} ]; then umount --lazy "$each" 2>/dev/null || true; fi
done
{binds}
# The kubelet's mounts must reach the containers' own namespaces.
mount --make-rshared /
touch {mark}
exec sleep infinity
"""
    cluster.start(
        HOLDER,
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        inside=False,
    )
    process.wait_until(
        mark.exists,
        seconds=20,
        what=f"the node's mount namespace (log: {cluster.logs / HOLDER}.log)",
    )


def enter(cluster: Cluster) -> list[str]:
    """The words before a command that run it among the node's mounts, keeping its pid."""
    return ["nsenter", f"--mount=/proc/{cluster.processes[HOLDER].pid}/ns/mnt", "--"]


def start(
    cluster: Cluster, name: str, argv: Sequence[str], *, ready: str = "", seconds: float = 60
) -> None:
    """Start process ``name`` in the node's namespaces; see ``Cluster.start``."""
    cluster.start(name, [*enter(cluster), *argv], ready=ready, seconds=seconds)


def remove(cluster: Cluster) -> None:
    """Remove the folders.  Only after every process in the namespace has ended."""
    data, run = data_folder(cluster.name), run_folder(cluster.name)
    with _all_instances():
        for folder in (data, run):
            if folder.exists():
                _remove_tree(folder)
        if data.parent.exists() and not any(each.is_dir() for each in data.parent.iterdir()):
            _remove_fixed(data.parent / _MADE)
        for parent in (data.parent, run.parent):
            with contextlib.suppress(OSError):  # other instances' folders are in it
                parent.rmdir()


def _make_fixed(record: Path) -> None:
    """Make the paths that are mounted over, having noted which of them were not there."""
    known = json.loads(record.read_text()) if record.exists() else []
    missing = [str(path) for path in _FIXED.values() if not path.exists()]
    record.write_text(json.dumps(sorted({*known, *missing})))
    for path in _FIXED.values():
        path.mkdir(parents=True, exist_ok=True)


def _remove_fixed(record: Path) -> None:
    """Remove again what ``_make_fixed`` made, where it is empty.  Only after the last instance.

    The kernel lets a folder be removed although it is mounted over in another namespace, and takes
    the mount away there: while another node lives, this would pull its folders from under it.
    """
    if record.exists():
        for path in json.loads(record.read_text()):
            with contextlib.suppress(OSError):  # not empty: somebody else uses it by now
                Path(path).rmdir()
        record.unlink()


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ClusterError(
            f"{folder} cannot be removed ({error}): something still uses it; "
            "`fuser -vm` names it, then run `down` again"
        ) from error


@contextmanager
def _all_instances() -> Iterator[None]:
    """Hold the folders that the nodes of this machine share."""
    with Path("/run/sluice-testbed.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
