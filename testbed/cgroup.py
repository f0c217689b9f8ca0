"""The control group of an instance, in every hierarchy; the kubelet puts every pod under it.

Works with both versions of control groups.  Being in there is what makes a process one of the
instance's pods.
"""

import contextlib
import os
import signal
from pathlib import Path

from testbed import process
from testbed.errors import ClusterError

_ROOT = Path("/sys/fs/cgroup")


def path_of(name: str) -> str:
    """The control group of instance ``name``, as the kubelet's ``cgroupRoot`` wants it."""
    return f"/sluice-{name}"


def make(name: str) -> None:
    """Make the group in every hierarchy.  Safe to run again."""
    for hierarchy in _hierarchies():
        folder = hierarchy / path_of(name).lstrip("/")
        folder.mkdir(exist_ok=True)
        if (hierarchy / "cpuset.cpus").exists():
            _copy_cpuset(hierarchy, folder)
    if _is_unified():
        _delegate(_ROOT)
        _delegate(_ROOT / path_of(name).lstrip("/"))
    for folder in folders_of(name):
        _weigh(folder)


def kill(name: str) -> None:
    """SIGKILL every process in the group and wait until all are gone."""

    def is_empty() -> bool:
        pids = _members(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    process.wait_until(is_empty, seconds=20, what=f"end of all processes in {path_of(name)}")


def remove(name: str) -> None:
    """Remove the group from every hierarchy.  Only after all processes in it have ended."""
    for folder in folders_of(name):
        # Children first: a control group is removed by rmdir alone, its files are not real.
        for path, _, _ in os.walk(folder, topdown=False):
            try:
                Path(path).rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ClusterError(
                    f"{path} cannot be removed ({error}): a process is still in it; "
                    f"look at {path}/cgroup.procs and run `down` again"
                ) from error


def _hierarchies() -> list[Path]:
    """Mount points of version 1 hierarchies and of version 2, from the kernel's own list."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(mount.split()[4]))
    if not found:
        raise ClusterError(
            "no control groups are mounted under /sys/fs/cgroup: the node tier needs them; "
            "run it on the machine itself or in a privileged container, or use TESTBED=kind"
        )
    return found


def _is_unified() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _delegate(folder: Path) -> None:
    """Pass all controllers of version 2 on to the groups below ``folder``."""
    controllers = (folder / "cgroup.controllers").read_text().split()
    try:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
    except OSError as error:
        raise ClusterError(
            f"{folder}/cgroup.subtree_control cannot be written ({error}): in a container this is "
            "because processes are in its topmost control group; start it with the host's control "
            "groups (docker run --privileged --cgroupns=host), or use TESTBED=kind"
        ) from error


def _copy_cpuset(hierarchy: Path, folder: Path) -> None:
    # In version 1 a new cpuset is empty, and no process can enter it before it has CPUs and memory.
    for each in ("cpuset.cpus", "cpuset.mems"):
        if (folder / each).exists() and not (folder / each).read_text().strip():
            (folder / each).write_text((hierarchy / each).read_text())


def _weigh(folder: Path) -> None:
    """Give the pods together the share of the CPU time that a kubelet gives them: all CPUs' worth.

    A new group weighs as much as one CPU, which here is as much as a single busy process beside it:
    version 1 puts a group and the processes of its parent on one scale.
    """
    shares = 1024 * (os.cpu_count() or 1)
    if (folder / "cpu.shares").exists():
        (folder / "cpu.shares").write_text(str(shares))
    elif (folder / "cpu.weight").exists():
        # As the kubelet converts: 2..262144 shares to a weight of 1..10000.
        (folder / "cpu.weight").write_text(str(1 + (shares - 2) * 9999 // 262142))


def folders_of(name: str) -> list[Path]:
    """The group's folders, one for every hierarchy in which it exists."""
    below = path_of(name).lstrip("/")
    return [each / below for each in _hierarchies() if (each / below).exists()]


def _members(name: str) -> set[int]:
    pids: set[int] = set()
    for folder in folders_of(name):
        for path, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):  # the group went away while we looked
                pids |= {int(each) for each in (Path(path) / "cgroup.procs").read_text().split()}
    return pids
