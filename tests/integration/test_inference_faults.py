"""Pods as rollouts meet them: the real server process with a test double that misbehaves as told."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.integration.test_inference_drain import Connection, find_port, make_jpeg, start_server


async def end(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(process.wait(), 20)


async def ask_many(port: int, count: int) -> list[int]:
    connection = await Connection.open(port)
    try:
        return [(await connection.ask("POST", "/classify", make_jpeg()))[0] for _ in range(count)]
    finally:
        connection.close()


async def ask(port: int, path: str) -> tuple[int, str]:
    connection = await Connection.open(port)
    status, body = await connection.ask("GET", path)
    connection.close()
    return status, body.decode()


async def test_a_pod_that_passes_readiness_and_then_answers_500(tmp_path: Path) -> None:
    port = find_port()
    process = await start_server(
        port, tmp_path / "log", FAKE_FAIL_AFTER_INPUTS="5", DRAIN_LINGER_S="0"
    )
    try:
        codes = await ask_many(port, 9)
        ready, _ = await ask(port, "/ready")
        _, samples = await ask(port, "/metrics/rollout")
    finally:
        code = await end(process)
    assert codes == [200] * 5 + [500] * 4
    assert ready == 200, "only the answers tell that it is broken"
    lines = samples.splitlines()
    assert 'sluice_inference_answers_total{outcome="ok"} 5' in lines
    assert 'sluice_inference_answers_total{outcome="error"} 4' in lines
    assert "sluice_inference_answer_seconds_count 9" in lines
    assert code == 0


async def test_a_pod_that_never_becomes_ready_lives_and_ends_when_told(tmp_path: Path) -> None:
    port = find_port()
    process = await start_server(port, tmp_path / "log", path="/health", FAKE_NEVER_READY="true")
    try:
        ready, _ = await ask(port, "/ready")
        codes = await ask_many(port, 1)
    finally:
        code = await end(process)
    assert (ready, codes, code) == (503, [503], 0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"GET /\x00 HTTP/1.1\r\n\r\n", 400, id="not HTTP"),
        pytest.param(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, id="no such route"),
        pytest.param(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", 503, id="not ready"),
        pytest.param(b"PUT /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, id="asked another way"),
        pytest.param(
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            200,
            id="a WebSocket",
        ),
    ],
)
async def test_every_answer_is_stamped_with_the_revision(
    tmp_path: Path, request_bytes: bytes, status: int
) -> None:
    port = find_port()
    process = await start_server(
        port, tmp_path / "log", path="/health", FAKE_NEVER_READY="true", SLUICE_REVISION="abc"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
    finally:
        await end(process)
    lines = head.decode().lower().split("\r\n")
    assert lines[0].split()[1] == str(status)
    assert lines.count("sluice-revision: abc") == 1
