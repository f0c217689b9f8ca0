"""A Prometheus for tests that need one: its program, and one process inside an instance.

What it scrapes is said by whoever starts it.  Not part of ``up``.
"""

import shutil
import subprocess
from pathlib import Path

from testbed import build, netns
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.progress import Progress
from testbed.scratch import make_scratch

PACKAGE = "prometheus"
NAME = "prometheus"
PORT = 9090
URL = f"http://{netns.BRIDGE_ADDRESS}:{PORT}"
"""Where it answers inside the namespace, to pods as well."""
CONFIGURATION = "prometheus.yml"
"""The file in the folder given to ``start``; what it names by a relative path is beside it."""


def ensure(progress: Progress) -> Path:
    """The program out of Debian's package, taken into the cache where it isn't there.

    The package itself is not installed: its service would start on this machine.
    """
    program = build.cache_root() / "prometheus" / "prometheus"
    if not program.exists():
        with build.locked("prometheus"):
            if not program.exists():
                with progress.step("fetch prometheus (Debian's package)"):
                    _fetch(program)
    return program


def start(cluster: Cluster, folder: Path, progress: Progress | None = None) -> str:
    """Start it with ``folder/prometheus.yml``; returns its URL once it answers.

    What ran with another folder ends before, and its data with it.  After a change in the folder:
    POST to ``/-/reload``.
    """
    configuration = folder / CONFIGURATION
    if not configuration.is_file():
        raise ClusterError(
            f"{configuration}: not there; write Prometheus' configuration, at least "
            "`scrape_configs`, to it first"
        )
    argument = f"--config.file={configuration.resolve()}"
    known = cluster.processes.get(NAME)
    if known is not None and argument not in known.argv:
        stop(cluster)
    cluster.start(
        NAME,
        [
            str(ensure(progress or Progress())),
            argument,
            f"--storage.tsdb.path={_data(cluster)}",
            "--storage.tsdb.retention.time=2h",
            f"--web.listen-address={netns.BRIDGE_ADDRESS}:{PORT}",
            "--web.enable-lifecycle",
        ],
        ready=f"{URL}/-/ready",
    )
    return URL


def stop(cluster: Cluster) -> None:
    """End it and remove its data; nothing where it does not run."""
    if NAME in cluster.processes:
        cluster.stop(NAME)
    shutil.rmtree(_data(cluster), ignore_errors=True)


def _data(cluster: Cluster) -> Path:
    return cluster.folder / "prometheus-data"


def _fetch(target: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ClusterError("Prometheus is taken from Debian's package: needs apt-get and dpkg-deb")
    target.parent.mkdir(parents=True, exist_ok=True)
    with make_scratch(target.parent, ".fetching") as scratch:
        _run(["apt-get", "download", "--quiet", PACKAGE], scratch)
        (archive,) = scratch.glob("*.deb")
        _run(["dpkg-deb", "--extract", str(archive), str(scratch)], scratch)
        program = scratch / "usr" / "bin" / "prometheus"
        if not program.exists():
            raise ClusterError(f"{archive.name} holds no usr/bin/prometheus")
        program.rename(target)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}; "
            "where the package lists are missing, run `apt-get update` as root"
        )
