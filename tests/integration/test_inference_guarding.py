"""The guard of real servers: keys and certificates from files, limits that servers share in a real Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import ssl
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from sluice_inference.guarding.rates import REDIS_RETRY_S, SharedRates
from testbed.certs import Authority
from tests.integration.redis_server import RedisServer
from tests.server_process import ServerProcess, run_server, wait_until
from tests.serving import RAW, make_jpeg

JPEG = make_jpeg()
TIMEOUT_S = 0.1


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write_keys(folder: Path, *lines: str) -> str:
    file = folder / "keys"
    file.write_text("\n".join(lines))
    return str(file)


# --- keys


@pytest.mark.parametrize(
    ("env", "text", "words"),
    [
        pytest.param({}, "web:infer:the-key-itself", ["API_KEYS_FILE", "line 1"], id="bad keys"),
        pytest.param({}, None, ["API_KEYS_FILE", "can't be read"], id="no file"),
        pytest.param(
            {"SECURITY_STRICT_MODE": "true", "API_KEYS_FILE": ""},
            None,
            ["API_KEYS_FILE", "SECURITY_STRICT_MODE"],
            id="strict without keys",
        ),
        pytest.param(
            {"API_KEYS_FILE": "", "TLS_CERT_FILE": "/nowhere/crt", "TLS_KEY_FILE": "/nowhere/key"},
            None,
            ["TLS_CERT_FILE", "/nowhere/crt can't be read"],
            id="no certificate",
        ),
        pytest.param({"LOG_LEVEL": "loud", "API_KEYS_FILE": ""}, None, ["LOG_LEVEL"], id="level"),
    ],
)
def test_a_server_that_cannot_guard_says_why_and_does_not_start(
    tmp_path: Path, env: dict[str, str], text: str | None, words: list[str]
) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    server = ServerProcess(tmp_path, **{"API_KEYS_FILE": str(file), **env})
    try:
        assert server.process.wait(30) == 3
    finally:
        server.kill()
    report = json.loads(server.report.read_text())
    assert (report["outcome"], report["permanent"]) == ("Failed", True)
    assert all(word in report["message"] for word in words), report["message"]
    assert "the-key-itself" not in server.log.read_text()


def test_keys_are_exchanged_under_load_and_nobody_with_a_good_key_notices(tmp_path: Path) -> None:
    """Old and new key are listed together for a while: that is how a key is changed."""
    file = write_keys(tmp_path, f"web:infer:{sha('old')}:100000")
    codes: Counter[int] = Counter()
    with run_server(tmp_path, API_KEYS_FILE=file, ENVIRONMENT="staging") as server:
        url = f"http://127.0.0.1:{server.find_port()}"
        with httpx.Client(base_url=url) as client:

            def ask(key: str) -> int:
                headers = {**RAW, "authorization": f"Bearer {key}"}
                return client.post("/embed", content=JPEG, headers=headers).status_code

            assert (ask("old"), ask("new")) == (200, 401)
            both = [f"web:infer:{sha(key)}:100000" for key in ("old", "new")]
            write_keys(tmp_path, *both)
            wait_until(lambda: codes.update([ask("old")]) or ask("new") == 200, 10)
            write_keys(tmp_path, both[1])
            wait_until(lambda: codes.update([ask("new")]) or ask("old") == 401, 10)
        assert set(codes) == {200}
        assert server.stop() == 0
        lines = server.read_log()
    assert {line["environment"] for line in lines} == {"staging"}
    assert "the API keys were read again" in {line["message"] for line in lines}
    assert any(line.get("event") == "security" and line["request_id"] for line in lines)


def test_nobody_can_fill_the_log_with_what_is_no_request(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        for _ in range(40):
            with socket.create_connection(("127.0.0.1", server.find_port())) as connection:
                connection.sendall(b"no HTTP\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        assert server.stop() == 0
        lines = [line for line in server.read_log() if "Invalid HTTP" in line["message"]]
    assert len(lines) == 10


# --- TLS


def issue(folder: Path, name: str, authority: Authority) -> None:
    """Put a new pair in place as a mounted Secret does, with a swap of links."""
    made = folder / name
    made.mkdir()
    for source, kind in zip(
        authority.issue(name, name, dns=["pod.example.com"], addresses=["127.0.0.1"]),
        ("crt", "key"),
        strict=True,
    ):
        shutil.copy(source, made / f"tls.{kind}")
    (folder / "new").symlink_to(name)
    os.replace(folder / "new", folder / "data")


def read_name(port: int, trusted: Path, host: str | None) -> str:
    """The name of the certificate that a new connection is shown, after it was checked."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate
        return str(dict(part[0] for part in certificate["subject"])["commonName"])


def test_a_renewed_certificate_is_shown_to_new_connections_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issue(tmp_path, "first", authority)
    env = {
        "TLS_CERT_FILE": str(tmp_path / "data" / "tls.crt"),
        "TLS_KEY_FILE": str(tmp_path / "data" / "tls.key"),
    }
    trusted = ssl.create_default_context(cafile=str(authority.certificate_path))
    with run_server(tmp_path, **env) as server:
        wait_until(lambda: server.find_port("https"), 5)
        port = server.find_port("https")

        def names() -> set[str]:
            hosts = (None, "pod.example.com")  # by address, no name is sent in the handshake
            return {read_name(port, authority.certificate_path, host) for host in hosts}

        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted) as client:
            assert client.post("/embed", content=JPEG, headers=RAW).status_code == 200
            assert names() == {"first"}
            (tmp_path / "first" / "tls.key").write_text("half a key")
            wait_until(lambda: names() and "can't be used" in server.log.read_text(), 10)
            assert names() == {"first"}, "a spoilt pair leaves the old one"
            issue(tmp_path, "second", authority)
            wait_until(lambda: names() == {"second"}, 10)
            assert client.post("/embed", content=JPEG, headers=RAW).status_code == 200
        plain = httpx.get(f"http://127.0.0.1:{server.find_port()}/ready")
        assert plain.status_code == 200, "the kubelet's probes go on in plain"
        assert server.stop() == 0


# --- limits that servers share


async def count_granted(rates: SharedRates, limit: int, asked: int) -> int:
    return sum([await rates.take("a", limit) == 0 for _ in range(asked)])


async def test_servers_that_share_a_redis_share_a_limit(redis_server: RedisServer) -> None:
    one, two = (SharedRates(redis_server.url, "t:", TIMEOUT_S) for _ in range(2))
    other = SharedRates(redis_server.url, "another service:", TIMEOUT_S)
    granted = await asyncio.gather(*(count_granted(rates, 10, 10) for rates in (one, two)))
    assert sum(granted) == 10
    wait_s = await one.take("a", 10)
    assert 4 < wait_s <= 6, "a tenth of a minute to the next"
    assert await count_granted(other, 10, 10) == 10
    for rates in (one, two, other):
        await rates.close()


async def test_a_limit_in_redis_is_forgotten_when_it_says_nothing_any_more(
    redis_server: RedisServer,
) -> None:
    rates = SharedRates(redis_server.url, "t:", TIMEOUT_S)
    assert await rates.take("a", 600) == 0
    left_ms = await rates._redis.pttl("t:a")
    assert 0 < left_ms <= 100
    await rates.close()


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        pytest.param("kill", "start", id="killed"),
        pytest.param("freeze", "thaw", id="frozen"),
    ],
)
async def test_without_redis_limits_are_counted_here_and_no_request_waits(
    redis_server: RedisServer, harm: str, mend: str
) -> None:
    rates = SharedRates(redis_server.url, "t:", TIMEOUT_S)
    assert await count_granted(rates, 5, 3) == 3
    getattr(redis_server, harm)()
    started, slowest = time.perf_counter(), 0.0
    granted = 0
    for _ in range(200):
        before = time.perf_counter()
        granted += await rates.take("a", 5) == 0
        slowest = max(slowest, time.perf_counter() - before)
    assert granted == 5, "counted here, from a full bucket"
    assert slowest < 5 * TIMEOUT_S
    assert time.perf_counter() - started < 20 * TIMEOUT_S, "after a few it is left alone"
    getattr(redis_server, mend)()
    end = time.monotonic() + 10 * REDIS_RETRY_S
    while await rates.take("b", 1000) == 0 and rates._is_down:
        assert time.monotonic() < end, "Redis is not asked again"
        await asyncio.sleep(0.05)
    assert not rates._is_down
    await rates.close()


def test_a_redis_that_is_killed_costs_two_servers_nothing(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    file = write_keys(tmp_path, f"web:infer:{sha('key')}:40", f"bulk:infer:{sha('b')}:100000")
    env = {"API_KEYS_FILE": file, "REDIS_URL": redis_server.url, "REDIS_TIMEOUT_MS": "100"}
    with run_server(tmp_path, "a", **env) as one, run_server(tmp_path, "b", **env) as two:
        clients = [httpx.Client(base_url=f"http://127.0.0.1:{s.find_port()}") for s in (one, two)]

        def ask(turn: int, key: str) -> int:
            headers = {**RAW, "x-api-key": key}
            answer = clients[turn % 2].post("/embed", content=JPEG, headers=headers)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        started = time.monotonic()
        shared = Counter(ask(turn, "key") for turn in range(60))
        flowed_in = (time.monotonic() - started) * 40 / 60
        before = Counter(ask(turn, "b") for turn in range(100))
        redis_server.kill()
        after = Counter(ask(turn, "b") for turn in range(300))
        for client in clients:
            client.close()
        assert (one.stop(), two.stop()) == (0, 0)
    assert 40 <= shared[200] <= 41 + flowed_in, "one limit for both"
    assert shared[200] + shared[429] == 60
    assert (before, after) == ({200: 100}, {200: 300})
