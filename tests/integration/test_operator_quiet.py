"""A converged cluster is silent: `benchmarks/quiet.py`, for a shorter time than `make bench-quiet`."""

import json
import os
import subprocess
import sys

import pytest

from testbed.cluster import Cluster
from tests.operator_process import ROOT, OperatorProcess

pytestmark = pytest.mark.controlplane

SECONDS = 20


def test_twenty_services_cost_no_write(
    cluster: Cluster, installed_operator: OperatorProcess
) -> None:
    # The benchmark has an operator of its own, and there is one lease.
    installed_operator.stop()
    command = [sys.executable, "-m", "benchmarks.quiet", "--instance", cluster.name]
    done = subprocess.run(
        [*command, "--seconds", str(SECONDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"operator{os.pathsep}."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])

    assert (result["writes"], result["writes_after_restart"]) == (0, 0)
    assert result["changed"] == []
