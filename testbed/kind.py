"""TESTBED=kind: a kind cluster, where a Docker engine answers.  Calls kind and docker, no more."""

import shutil
import subprocess
import sys
from pathlib import Path

from testbed.errors import ClusterError
from testbed.progress import Progress

CONFIG = Path(__file__).resolve().parent / "kind.yaml"


def run(command: str, name: str, progress: Progress) -> int:
    """``up``, ``down``, ``env`` and ``doctor`` of the kind cluster ``name``."""
    if shutil.which("docker") is None or _run(["docker", "info"]).returncode != 0:
        raise ClusterError(
            "TESTBED=kind: no Docker engine answers `docker info`; start one, or use TESTBED=local"
        )
    if shutil.which("kind") is None:
        raise ClusterError("TESTBED=kind needs kind on PATH; install it, or use TESTBED=local")
    present = name in _run(["kind", "get", "clusters"]).stdout.split()
    match command:
        case "up" if not present:
            with progress.step(f"kind cluster {name}"):
                _checked(["kind", "create", "cluster", "--name", name, "--config", str(CONFIG)])
        case "down" if present:
            _checked(["kind", "delete", "cluster", "--name", name])
        case "env":
            sys.stdout.write(f"export TESTBED=kind TESTBED_CONTEXT=kind-{name}\n")
        case "doctor":
            sys.stdout.write(f"kind cluster {name}: {'there' if present else 'not there'}\n")
            return 0 if present else 1
        case "up" | "down":
            pass
        case _:
            raise ClusterError(f"{command!r} is for TESTBED=local")
    return 0


def load_images(name: str, references: list[str]) -> None:
    """Bring images of the Docker engine onto the nodes of kind cluster ``name``."""
    _checked(["kind", "load", "docker-image", "--name", name, *references])


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _checked(command: list[str]) -> None:
    done = _run(command)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
