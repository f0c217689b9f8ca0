"""A real model server in a process of its own, on ports that the system chose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
_START_S = 30.0
_STOP_S = 20.0


class ServerProcess:
    """One `serve`. Its log lies in `folder`."""

    def __init__(self, folder: Path, name: str = "server", **env: str) -> None:
        self.log = folder / f"{name}.log"
        self.report = folder / f"{name}.report"
        values = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "inference"),
            "BACKEND": "fake",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "TLS_PORT": "0",
            "TERMINATION_LOG": str(self.report),
            "DRAIN_LINGER_S": "0",
            **env,
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sluice_inference", "serve"],
                env=values,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def read_log(self) -> list[dict[str, Any]]:
        """The log so far; a line that is no JSON is an error."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def find_port(self, scheme: str = "http") -> int:
        """The port that it listens on by `scheme`, 0 as long as it doesn't."""
        for line in self.read_log():
            if line["message"] == "listening" and line["scheme"] == scheme:
                return int(line["port"])
        return 0

    def wait_ready(self) -> str:
        """Returns its address once it is ready."""
        wait_until(lambda: self._check() and self.find_port() != 0, _START_S)
        url = f"http://127.0.0.1:{self.find_port()}"
        wait_until(lambda: self._check() and _is_ready(url), _START_S)
        return url

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(_STOP_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _check(self) -> bool:
        assert self.process.poll() is None, f"the server ended: {self.log.read_text()[-2000:]}"
        return True


@contextmanager
def run_server(folder: Path, name: str = "server", **env: str) -> Iterator[ServerProcess]:
    """A server that is ready; killed at the end if it still runs."""
    server = ServerProcess(folder, name, **env)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def wait_until(is_true: Callable[[], object], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not is_true():
        assert time.monotonic() < end, f"did not hold within {deadline_s} s"
        time.sleep(0.02)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False
