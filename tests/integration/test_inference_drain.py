"""The sentence of the project, at the server: a client never sees an error because a pod went away."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


async def wait_until(is_true: Callable[[], Awaitable[bool]], deadline_s: float) -> None:
    """Poll a condition; fails with the condition's name when the time is over."""
    end = time.monotonic() + deadline_s
    while not await is_true():
        assert time.monotonic() < end, f"{is_true.__name__} did not hold within {deadline_s} s"
        await asyncio.sleep(0.02)


def make_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 96), (200, 40, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Connection:
    """A client connection that does what HTTP/1.1 says, and nothing more forgiving."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_open: bool = True

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and read its whole answer; raises on any reset or early end."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        answer = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), answer

    def close(self) -> None:
        self.is_open = False
        self.writer.close()


@dataclass
class Load:
    """Half the workers keep connections open, half open one for each request."""

    port: int
    body: bytes
    pause_s: float
    codes: Counter[str] = field(default_factory=Counter)
    late: int = 0
    stopped_at: float = float("inf")
    signalled_at: float = float("inf")

    async def work(self, keeps: bool) -> None:
        connection: Connection | None = None
        while True:
            if connection is None or not connection.is_open:
                if time.monotonic() >= self.stopped_at:
                    return  # new connections go to other pods by now
                try:
                    connection = await Connection.open(self.port)
                except OSError as error:
                    self.codes[f"connect {type(error).__name__}"] += 1
                    continue
            try:
                status, _ = await connection.ask("POST", "/classify", self.body)
                self.codes[str(status)] += 1
                self.late += time.monotonic() > self.signalled_at
            except (OSError, EOFError, asyncio.IncompleteReadError) as error:
                self.codes[type(error).__name__] += 1
                connection.close()
            if not keeps:
                connection.close()
            await asyncio.sleep(self.pause_s)


async def start_server(
    port: int, log: Path, path: str = "/ready", **env: str
) -> asyncio.subprocess.Process:
    values = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "inference"),
        "BACKEND": "fake",
        "PORT": str(port),
        "TERMINATION_LOG": str(log.with_suffix(".report")),
        **env,
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sluice_inference", "serve", env=values, stderr=output
        )

    async def is_ready() -> bool:
        assert process.returncode is None, f"the server ended; see {log}"
        try:
            connection = await Connection.open(port)
            status, _ = await connection.ask("GET", path)
        except OSError:
            return False
        connection.close()
        return status == 200

    await wait_until(is_ready, 30)
    return process


async def test_no_request_fails_when_a_pod_is_told_to_stop_under_load(tmp_path: Path) -> None:
    port, log = find_port(), tmp_path / "server.log"
    process = await start_server(
        port, log, FAKE_LATENCY_MS="20", DRAIN_LINGER_S="3", DRAIN_TIMEOUT_S="15"
    )
    load = Load(port, make_jpeg(), pause_s=0.08)
    workers = [asyncio.create_task(load.work(keeps=bool(n % 2))) for n in range(24)]
    try:

        async def has_traffic() -> bool:
            return load.codes["200"] >= 200

        await wait_until(has_traffic, 20)
        load.signalled_at = time.monotonic()
        load.stopped_at = load.signalled_at + 2
        process.send_signal(signal.SIGTERM)

        async def is_unready() -> bool:
            connection = await Connection.open(port)
            status, _ = await connection.ask("GET", "/ready")
            return status == 503 and not connection.is_open

        await wait_until(is_unready, 10)
        await asyncio.wait_for(asyncio.gather(*workers), 20)
        code = await asyncio.wait_for(process.wait(), 20)
    finally:
        for worker in workers:
            worker.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    took = time.monotonic() - load.signalled_at
    assert set(load.codes) == {"200"}, load.codes
    assert load.late >= 50, "there was no load left to lose"
    assert code == 0
    assert 3 <= took < 15


async def test_a_request_under_way_is_answered_before_the_exit(tmp_path: Path) -> None:
    port, log = find_port(), tmp_path / "server.log"
    process = await start_server(
        port, log, FAKE_LATENCY_MS="1500", DRAIN_LINGER_S="0", DRAIN_TIMEOUT_S="10"
    )
    connection = await Connection.open(port)
    answer = asyncio.create_task(connection.ask("POST", "/embed", make_jpeg()))

    async def is_under_way() -> bool:
        probe = await Connection.open(port)
        _, body = await probe.ask("GET", "/status")
        probe.close()
        return bool(json.loads(body)["in_flight"])

    await wait_until(is_under_way, 5)
    process.send_signal(signal.SIGTERM)
    status, _ = await asyncio.wait_for(answer, 10)
    assert (status, connection.is_open) == (200, False)
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_server_that_still_loads_ends_at_once(tmp_path: Path) -> None:
    port, log = find_port(), tmp_path / "server.log"
    process = await start_server(port, log, path="/health", FAKE_LOAD_SECONDS="300")
    connection = await Connection.open(port)
    status, body = await connection.ask("POST", "/embed", make_jpeg())
    connection.close()
    assert (status, json.loads(body)["error"]["code"]) == (503, "NOT_READY")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize(
    ("env", "code", "word"),
    [
        pytest.param({"MODEL_FORMAT": "GGUF"}, 3, "MODEL_FORMAT", id="a setting nobody knows"),
        pytest.param(
            {"BACKEND": "onnx", "MODEL_PATH": "/nowhere"}, 3, "config.json", id="no artifact"
        ),
    ],
)
async def test_a_server_that_cannot_load_says_why_and_ends(
    tmp_path: Path, env: dict[str, str], code: int, word: str
) -> None:
    report = tmp_path / "report"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sluice_inference", "serve"),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "inference"),
            "PORT": "0",
            "TERMINATION_LOG": str(report),
            **env,
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 30) == code
    said = json.loads(report.read_text())
    assert (said["outcome"], said["reason"], said["permanent"]) == ("Failed", "LoadFailed", True)
    assert word in said["message"]


async def test_a_fetch_that_waits_ends_when_told_to() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sluice_inference", "fetch", "--uri", f"https://127.0.0.1:{find_port()}/x/"),
        *("--digest", "sha256:" + "0" * 64, "--into", "/nonexistent/never-reached"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "inference")},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), 30)
    assert "will try again" in line.decode()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 128 + signal.SIGTERM
