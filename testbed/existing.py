"""TESTBED=existing: a cluster that is there already.  Starts nothing, asks which."""

import shlex
import subprocess
import sys
from collections.abc import Mapping

from testbed.errors import ClusterError


def run(command: str, environment: Mapping[str, str]) -> int:
    """``env`` prints what selects the context, ``up`` and ``doctor`` check it."""
    context = environment.get("TESTBED_CONTEXT")
    if not context:
        raise ClusterError(
            "TESTBED=existing needs TESTBED_CONTEXT, the kubeconfig context to use "
            "(kubectl config get-contexts); the current one is never assumed"
        )
    if command in ("up", "doctor"):
        asked = [
            "kubectl",
            "--context",
            context,
            "--request-timeout=10s",
            "get",
            "--raw",
            "/readyz",
        ]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise ClusterError("TESTBED=existing needs kubectl on PATH") from error
        if done.returncode != 0:
            raise ClusterError(f"context {context!r} does not answer: {done.stderr.strip()}")
        sys.stdout.write(f"context {context!r} answers; nothing was started\n")
    elif command == "env":
        sys.stdout.write(f"export TESTBED=existing TESTBED_CONTEXT={shlex.quote(context)}\n")
    elif command != "down":
        raise ClusterError(f"{command!r} is for TESTBED=local")
    return 0
