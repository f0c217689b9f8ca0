"""The operator as a process beside the cluster, for where it can't run in it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.cluster import Cluster


@contextmanager
def run_operator(cluster: Cluster) -> Iterator[None]:
    """Runs until the body ends; its log goes beside the cluster's own."""
    with (cluster.logs / "operator.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sluice", "run", "--probe-port", "0"],
            env={**cluster.environment(), "PYTHONPATH": "operator"},
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)
