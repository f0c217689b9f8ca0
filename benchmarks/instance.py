"""A control plane for one benchmark: fresh, of its own name, and gone when the benchmark ends.

It measures nothing.  Progress goes to stderr; stdout belongs to the result.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed.cluster import Cluster
from tests.operator_process import ROOT, OperatorProcess, install, write_kubeconfig
from tests.plane import Plane


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def make_cluster(purpose: str, existing: str = "") -> Iterator[Cluster]:
    """A fresh instance; or the running one called `existing`, which is left running."""
    if existing:
        yield Cluster.load(existing)
        return
    name = f"{purpose}-{os.getpid()}"
    clean_up_when_told_to_end()
    testbed(name, "up")
    try:
        yield Cluster.load(name)
    finally:
        testbed(name, "down")


def clean_up_when_told_to_end() -> None:
    """SIGTERM ends this process as Ctrl-C does, by way of every `finally`: no instance is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


def testbed(name: str, command: str) -> None:
    """The testbed's own command line, its output on stderr."""
    subprocess.run(
        [sys.executable, "-m", "testbed", command, "--name", name],
        cwd=ROOT,
        stdout=sys.stderr,
        check=True,
    )


@contextmanager
def make_operator(
    cluster: Cluster, *, enter: Sequence[str] = (), **options: str | float
) -> Iterator[OperatorProcess]:
    """The operator with its own rights, not started yet; killed at the end if it still runs.

    `enter` leads into the instance's network namespace, where pods and gateways can be reached.
    """
    install(cluster)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as scratch:
        folder = Path(scratch)
        process = OperatorProcess(
            write_kubeconfig(cluster, folder / "kubeconfig"), folder, enter=enter, **options
        )
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def make_plane(cluster: Cluster) -> Iterator[Plane]:
    """The API server as administrator."""
    plane = Plane(cluster.kubeconfig)
    try:
        yield plane
    finally:
        plane.close()
