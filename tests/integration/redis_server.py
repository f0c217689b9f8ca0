"""A real redis-server for tests: on loopback, without a disk, started and killed as the test says."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import packages
from testbed.progress import Progress

_START_S = 10.0


class RedisServer:
    """One server on one port, which stays the same over kills and starts. It forgets all at its end."""

    def __init__(self, folder: Path) -> None:
        packages.ensure_redis(Progress())
        self._program = shutil.which("redis-server") or "/usr/bin/redis-server"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; returns when it answers."""
        assert self._process is None, "the redis-server runs already"
        self._process = subprocess.Popen(
            [
                self._program,
                *("--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
                *("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"),
                *("--dir", str(self._folder), "--logfile", str(self._folder / "redis.log")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        end = time.monotonic() + _START_S
        while not self.is_answering():
            assert self._process.poll() is None, f"redis-server ended: {self._read_log()}"
            assert time.monotonic() < end, f"redis-server is silent: {self._read_log()}"
            time.sleep(0.02)

    def is_answering(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: gone without a word, its port closed. Nothing where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered on them."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the redis-server does not run"
        os.kill(self._process.pid, number)

    def _read_log(self) -> str:
        log = self._folder / "redis.log"
        return log.read_text()[-500:] if log.exists() else ""


@contextmanager
def start_redis() -> Iterator[RedisServer]:
    """A running redis-server; killed at the end, whatever state it is in."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
