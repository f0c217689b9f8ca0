"""Our server as benchmarks start it: from this tree, on a free port of loopback."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.serving.process import ServerProcess, find_port
from benchmarks.serving.venvs import ROOT

COMMAND = (sys.executable, "-m", "sluice_inference", "serve")
READY = "/ready"
# The same pictures come again and again, all from one address.
UNCACHED = {"CACHE_SIZE_MB": "0", "RATE_LIMIT_PER_MINUTE": "0"}


def make_env(port: int, **env: str) -> dict[str, str]:
    """Variables of a server on `port`; `env` has the last word."""
    return {
        "PYTHONPATH": str(ROOT / "inference"),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "LOG_LEVEL": "warning",
        "TERMINATION_LOG": os.devnull,
        **env,
    }


def start_ours(log: Path, **env: str) -> ServerProcess:
    """The process, not waited for."""
    port = find_port()
    return ServerProcess(COMMAND, make_env(port, **env), port, READY, log)
