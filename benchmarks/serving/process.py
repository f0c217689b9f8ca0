"""One server process under measurement: started, waited for, stopped for a while, ended.

Its children belong to it. While another one is measured it is stopped (SIGSTOP), so that idle threads and
polling loops of one server cost the others nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def find_port() -> int:
    """A port of this machine that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class ServerProcess:
    """A process group that listens on `port`. Its output goes to `log`."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], port: int, ready: str, log: Path
    ) -> None:
        self.port = port
        self.log = log
        self._ready = ready
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_s: float) -> float:
        """Seconds until it says that it is ready. Raises RuntimeError with its last words."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"it ended with code {self._process.returncode}: {self.read_last_words()}"
                )
            if self.get(self._ready)[0] == 200:
                return time.monotonic() - began
            time.sleep(0.1)
        raise RuntimeError(f"not ready within {timeout_s:g} s: {self.read_last_words()}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def pause(self) -> None:
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def measure_cpu_s(self) -> float:
        """CPU seconds of the whole group so far."""
        return sum(
            (int(fields[11]) + int(fields[12])) / _TICKS for fields in self._read_stats().values()
        )

    def measure_rss_mb(self) -> float:
        """Resident memory of the whole group, in MB."""
        return sum(int(fields[21]) * _PAGE_MB for fields in self._read_stats().values())

    def read_last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-500:]

    def terminate(self, timeout_s: float) -> tuple[int, float]:
        """SIGTERM to the process; its exit code, and how long it took. Raises TimeoutError."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s), time.monotonic() - began

    def wait(self, timeout_s: float) -> int:
        """The exit code. Raises TimeoutError."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still there after {timeout_s:g} s") from None

    def kill(self) -> None:
        """End the whole group, if any of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _read_stats(self) -> dict[int, list[str]]:
        """The fields of /proc/PID/stat after the name, for every process of the group."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if int(fields[2]) == self.pid:
                found[int(entry.name)] = fields
        return found
