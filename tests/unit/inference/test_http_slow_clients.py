"""Clients that send or read slowly, or never: they take nothing from others, and judge no version."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from sluice_inference.http.middleware import Envelope
from sluice_inference.http.patience import read_patience
from tests.serving import RAW, Served, make_jpeg, serve

JPEG = make_jpeg()
MIB = 1 << 20
JSON = (b"content-type", b"application/json")


def make_scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/embed",
        "query_string": b"",
        "headers": list(headers),
    }


class Client:
    """One connection: sends `pieces` and no more, and reads nothing while `reads` is not set."""

    def __init__(self, pieces: list[bytes], *, is_whole: bool, reads: bool = False) -> None:
        self._pieces = pieces
        self._is_whole = is_whole
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()
        self.offered = asyncio.Event()
        self.moves = asyncio.Event()
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if not self._pieces:
            await self.moves.wait()
            self.moves.clear()
            if not self._pieces:
                return {"type": "http.disconnect"}
        body = self._pieces.pop(0)
        more_body = bool(self._pieces) or not self._is_whole
        return {"type": "http.request", "body": body, "more_body": more_body}

    def send_rest(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._is_whole = True
        self.moves.set()

    def leave(self) -> None:
        self.moves.set()

    async def send(self, message: Any) -> None:
        self.offered.set()
        await self.reads.wait()
        self.sent.append(message)

    def ask(self, app: Envelope, *headers: tuple[bytes, bytes]) -> asyncio.Task[None]:
        return asyncio.create_task(app(make_scope(*headers), self.receive, self.send))


def read_samples(served: Served) -> tuple[dict[str, int], float]:
    """How many answers of each outcome, and the seconds of those that count."""
    lines = served.context.samples.render().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    answers = {
        name.partition('"')[2].partition('"')[0]: int(value)
        for name, value in values.items()
        if "answers_total" in name and int(value)
    }
    return answers, float(values["sluice_inference_answer_seconds_sum"])


async def wait_for(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json.dumps({"inputs": [{"text": "x"}]}).encode(), id="answered"),
        pytest.param(b"{", id="refused"),
    ],
)
async def test_who_does_not_read_its_answer_keeps_nobody_away(body: bytes) -> None:
    async with serve(MAX_CONCURRENT_REQUESTS="1") as served, served.connect() as client:
        silent = Client([body], is_whole=True)
        task = silent.ask(served.app, JSON)
        await asyncio.wait_for(silent.offered.wait(), 10)
        traffic, budget = served.context.traffic, served.context.budget
        assert (traffic.in_flight, traffic.working, budget.held) == (1, 0, 0)
        other = await client.post("/embed", content=JPEG, headers=RAW)
        assert other.status_code == 200
        silent.reads.set()
        await asyncio.wait_for(task, 10)
        assert (traffic.in_flight, traffic.working, budget.held) == (0, 0, 0)


async def test_how_long_a_client_reads_is_not_the_versions_latency() -> None:
    async with serve() as served:
        slow = Client([b'{"inputs":[{"text":"x"}]}'], is_whole=True)
        task = slow.ask(served.app, JSON)
        await asyncio.wait_for(slow.offered.wait(), 10)
        made_s = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        slow.reads.set()
        await asyncio.wait_for(task, 10)
        took_s = asyncio.get_running_loop().time() - made_s
        answers, seconds = read_samples(served)
    assert answers == {"ok": 1}
    assert seconds < took_s


async def test_a_body_that_does_not_come_is_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sluice_inference.http.middleware._DISCARD_S", 0.05)
    async with serve(REQUEST_TIMEOUT_MS="100") as served:
        staller = Client([JPEG[:100]], is_whole=False, reads=True)
        length = (b"content-length", str(len(JPEG)).encode())
        await asyncio.wait_for(
            staller.ask(served.app, (b"content-type", b"image/jpeg"), length), 10
        )
        answers, seconds = read_samples(served)
    start, body = staller.sent
    assert (start["status"], json.loads(body["body"])["error"]["code"]) == (408, "BODY_TIMEOUT")
    assert (b"connection", b"close") in start["headers"]
    assert (answers, seconds) == ({"client_error": 1}, 0)


async def test_a_model_that_takes_too_long_is_still_the_servers_fault() -> None:
    async with serve(FAKE_LATENCY_MS="400", REQUEST_TIMEOUT_MS="100") as served:
        client = Client([JPEG[:100], JPEG[100:]], is_whole=True, reads=True)
        await asyncio.wait_for(client.ask(served.app, (b"content-type", b"image/jpeg")), 10)
        answers, _ = read_samples(served)
    assert (client.sent[0]["status"], answers) == (504, {"error": 1})


async def test_a_body_that_leaves_no_time_is_the_clients_fault() -> None:
    async with serve(FAKE_LATENCY_MS="400", REQUEST_TIMEOUT_MS="300") as served:
        slow = Client([JPEG[:100]], is_whole=False, reads=True)
        task = slow.ask(served.app, (b"content-type", b"image/jpeg"))
        await asyncio.sleep(0.2)
        slow.send_rest(JPEG[100:])
        await asyncio.wait_for(task, 10)
        answers, _ = read_samples(served)
    assert (slow.sent[0]["status"], answers) == (408, {"client_error": 1})
    assert "came so late" in json.loads(slow.sent[1]["body"])["error"]["message"]


# Behind a gateway


def patient(milliseconds: str) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    return (b"content-type", b"image/jpeg"), (b"sluice-timeout-ms", milliseconds.encode())


async def test_the_server_says_that_it_is_late_before_the_gateway_does() -> None:
    async with serve(FAKE_LATENCY_MS="400") as served:
        client = Client([JPEG], is_whole=True, reads=True)
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(client.ask(served.app, *patient("200")), 10)
        took_s = asyncio.get_running_loop().time() - began
        answers, _ = read_samples(served)
    assert (client.sent[0]["status"], answers) == (504, {"error": 1})
    assert took_s >= 0.18
    message = json.loads(client.sent[1]["body"])["error"]["message"]
    assert message == "no answer within 0.18 s (sluice-timeout-ms)"


async def test_a_gateway_that_waits_longer_changes_nothing() -> None:
    async with serve(FAKE_LATENCY_MS="400", REQUEST_TIMEOUT_MS="100") as served:
        client = Client([JPEG], is_whole=True, reads=True)
        await asyncio.wait_for(client.ask(served.app, *patient("60000")), 10)
    message = json.loads(client.sent[1]["body"])["error"]["message"]
    assert message == "no answer within 0.1 s (REQUEST_TIMEOUT_MS)"


@pytest.mark.parametrize(
    ("lag_s", "answers"),
    [
        pytest.param(0.0, {}, id="a client's own decision"),
        pytest.param(1.0, {"error": 1}, id="the request had lain unread for longer than that"),
    ],
)
async def test_who_leaves_when_the_gateway_gives_up_was_failed_by_the_version(
    lag_s: float, answers: dict[str, int]
) -> None:
    async with serve(FAKE_LATENCY_MS="400") as served:
        served.context.lag.note(lag_s)
        client = Client([JPEG], is_whole=True, reads=True)
        task = client.ask(served.app, *patient("1000"))
        await asyncio.sleep(0.05)
        client.leave()
        await asyncio.wait_for(task, 10)
        found, _ = read_samples(served)
    assert (client.sent, found) == ([], answers)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1000", 0.9),
        (b"0", None),
        (b"-1", None),
        (b"soon", None),
        (b"1e3", None),
        (b"", None),
        (b"1" * 10, None),
    ],
)
def test_what_is_no_time_is_passed_over(value: bytes, seconds: float | None) -> None:
    assert read_patience([(b"host", b"x"), (b"sluice-timeout-ms", value)]) == seconds


async def test_bodies_that_are_only_declared_keep_nobody_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sluice_inference.http.middleware._DISCARD_S", 0.05)
    async with serve(MAX_BODY_MB_IN_FLIGHT="8") as served, served.connect() as client:
        declared = (b"content-length", str(8 * MIB).encode())
        idle = [Client([], is_whole=False, reads=True) for _ in range(4)]
        tasks = [one.ask(served.app, JSON, declared) for one in idle]
        await wait_for(lambda: served.context.traffic.working == len(idle))
        assert served.context.budget.held == len(idle) * MIB
        answer = await client.post("/embed", content=JPEG, headers=RAW)
        for task in tasks:
            await cancel(task)
        assert served.context.budget.held == 0
    assert answer.status_code == 200


async def test_what_really_comes_of_a_body_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice_inference.http.middleware._DISCARD_S", 0.05)
    async with serve(MAX_BODY_MB_IN_FLIGHT="8") as served:
        sender = Client([bytes(3 * MIB)], is_whole=False, reads=True)
        task = sender.ask(served.app, JSON, (b"content-length", str(8 * MIB).encode()))
        await wait_for(lambda: served.context.budget.held == 3 * MIB)
        await cancel(task)
        assert served.context.budget.held == 0
