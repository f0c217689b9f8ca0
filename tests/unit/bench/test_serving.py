"""The pure parts of bench-serve, and its client against a real socket."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.serving import gpu, report
from benchmarks.serving.client import Plan, play, read_requests, write_requests
from benchmarks.serving.contestants import encode_infinity, encode_native
from benchmarks.serving.load import Load, Measured, find_quantile, make_plans
from benchmarks.serving.pictures import make_jpeg
from benchmarks.serving.wire import Connection, LostError, make_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Script(asyncio.Protocol):
    """A server that answers each request (it ends with a full stop) by the next lines of its script."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b".")):
            answer = self.answers.pop(0)
            self.transport.write(answer)
            if b"close" in answer or not answer.startswith(b"HTTP"):
                self.transport.close()


@asynccontextmanager
async def listen(answers: list[bytes]) -> AsyncIterator[int]:
    """The port of a server with that script; all its connections are gone at the end."""
    loop = asyncio.get_running_loop()
    scripts: list[Script] = []

    def accept() -> Script:
        scripts.append(Script(answers))
        return scripts[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
        for script in scripts:
            script.transport.abort()
    for _ in range(3):  # closing takes the loop a round or two
        await asyncio.sleep(0)


async def test_a_connection_is_kept_until_the_server_says_close() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with listen([OK, closing]) as port:
        connection = await Connection.open(port)
        first = await connection.ask(make_request("/embed", b"x.", "image/jpeg"))
        kept = connection.is_open
        second = await connection.ask(make_request("/embed", b"x.", "image/jpeg"))
        assert (first.status, first.body, kept) == (200, b"ok", True)
        assert (second.status, connection.is_open) == (200, False)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"rubbish", id="no whole head"),
    ],
)
async def test_an_answer_that_ends_early_is_lost(answer: bytes) -> None:
    async with listen([answer]) as port:
        connection = await Connection.open(port)
        with pytest.raises(LostError):
            await connection.ask(make_request("/embed", b"x.", "image/jpeg"))


@pytest.mark.parametrize(
    "rate", [pytest.param(None, id="closed loop"), pytest.param(200.0, id="open loop")]
)
async def test_a_client_process_counts_what_it_was_answered(rate: float | None) -> None:
    async with listen([OK, OK.replace(b"200", b"503")] * 5000) as port:
        plan = Plan(port=port, requests="", clients=2, seconds=0.15, rate=rate)
        started = asyncio.get_running_loop().time()
        tally = await play(plan, [make_request("/embed", b"x.", "image/jpeg")], started)
    assert set(tally.statuses) == {"200", "503"}
    assert len(tally.latencies_s) == tally.statuses["200"], "a refusal is no success"
    assert abs(tally.statuses["200"] - tally.statuses["503"]) <= 2


async def test_a_server_that_is_gone_is_counted_and_not_raised() -> None:
    async with listen([]) as port:
        pass
    plan = Plan(port=port, requests="", clients=1, seconds=0.05)
    tally = await play(plan, [b"x."], asyncio.get_running_loop().time())
    assert set(tally.statuses) == {"ConnectionRefusedError"}
    assert not tally.latencies_s


async def test_a_request_that_hangs_at_the_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.serving.client.HUNG_S", 0.05)
    monkeypatch.setattr("benchmarks.serving.client.TIMEOUT_S", 0.4)
    async with listen([]) as port:
        plan = Plan(port=port, requests="", clients=2, seconds=0.2)
        tally = await play(plan, [b"no full stop"], asyncio.get_running_loop().time())
    assert tally.statuses == Counter({"hung": 2})


def test_requests_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    requests = [b"", b"one", b"\x00" * 70000]
    write_requests(tmp_path / "requests", requests)
    assert read_requests(tmp_path / "requests") == requests


@pytest.mark.parametrize(
    ("clients", "processes", "shares"),
    [
        pytest.param(32, 2, [16, 16], id="evenly"),
        pytest.param(5, 3, [2, 2, 1], id="with a rest"),
        pytest.param(1, 8, [1], id="fewer clients than processes"),
    ],
)
def test_clients_are_divided_among_processes(
    clients: int, processes: int, shares: list[int]
) -> None:
    plans = make_plans(1, Path("x"), Load(clients, processes, 1.0, 0.0, rate=60.0))
    assert [plan.clients for plan in plans] == shares
    assert sum(plan.rate or 0 for plan in plans) == pytest.approx(60.0)
    assert len({plan.seed for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("share", "value"),
    [
        pytest.param(0.5, 2, id="median"),
        pytest.param(0.95, 4, id="p95"),
        pytest.param(0, 1, id="0"),
    ],
)
def test_a_quantile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert find_quantile([4, 2, 1, 3], share) == value


def test_pictures_are_distinct_and_as_large_as_photographs() -> None:
    files = [make_jpeg(seed) for seed in range(3)]
    assert len(set(files)) == 3
    assert make_jpeg(1) == files[1]
    assert all(25_000 < len(file) < 110_000 for file in files)
    assert Image.open(io.BytesIO(files[0])).size == (500, 375)


def test_several_pictures_are_a_form_and_one_is_the_body() -> None:
    assert encode_native([b"abc"]).endswith(b"Content-Length: 3\r\n\r\nabc")
    form = encode_native([b"abc", b"def"])
    head, _, body = form.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.count(b'name="files"') == 2
    assert body.endswith(b"--\r\n")


def test_infinity_gets_data_uris() -> None:
    body = json.loads(encode_infinity([b"abc"]).partition(b"\r\n\r\n")[2])
    assert body["input"] == ["data:image/jpeg;base64,YWJj"]
    assert body["modality"] == "image"


def describe(images_per_s: float, latencies_s: list[float]) -> dict[str, object]:
    measured = Measured(len(latencies_s) / images_per_s, latencies_s, Counter({"200": 1}))
    return report.describe(measured, 1)


def test_the_ratios_are_ours_by_theirs() -> None:
    ours = describe(24, [0.1] * 24)
    ratios = report.compare(ours, 30.0, {"baseline": describe(12, [0.2] * 12), "infinity": None})
    assert ratios == {
        "ratio_vs_ceiling": 0.8,
        "ratio_vs_baseline": 2.0,
        "p95_ratio_vs_baseline": 0.5,
        "ratio_vs_infinity": None,
        "p95_ratio_vs_infinity": None,
    }


def test_a_rival_that_failed_requests_is_no_measure() -> None:
    ours, rival = describe(24, [0.1] * 24), describe(12, [0.2] * 12)
    rival |= {"failed": 3, "statuses": {"200": 12, "500": 3}}
    ratios = report.compare(ours, 30.0, {"baseline": rival})
    assert (ratios["ratio_vs_baseline"], ratios["p95_ratio_vs_baseline"]) == (None, None)
    assert report.find_unfit({"baseline": rival, "infinity": None, "ours": ours}).keys() == {
        "baseline"
    }


def test_vectors_of_zeros_are_unlike_all_others() -> None:
    assert report.find_least_cosine([[1, 0], [1, 0]], [[2, 0], [0, 0]]) == 0
    assert report.find_least_cosine([[1, 0]], [[2, 0]]) == 1


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        pytest.param({"failed": 0, "ratio_vs_ceiling": 0.85}, [], id="met"),
        pytest.param({"failed": 1}, ["failed 1 is not <= 0"], id="a request failed"),
        pytest.param({"failed": 0, "ratio_vs_infinity": None}, [], id="not measured"),
        pytest.param(
            {"failed": 0, "least_cosine": 0.98},
            ["least_cosine 0.98 is not >= 0.99"],
            id="other vectors",
        ),
        pytest.param(
            {"failed": 0, "p95_ratio_vs_baseline": 1.2},
            ["p95_ratio_vs_baseline 1.2 is not <= 1"],
            id="slower than the baseline",
        ),
    ],
)
def test_goals_are_missed_by_what_was_measured(
    found: dict[str, float | None], missed: list[str]
) -> None:
    assert report.find_missed(found, "cpu") == missed


def test_stages_are_what_came_between_two_readings() -> None:
    before = report.read_stages(
        'sluice_inference_stage_seconds_count{stage="run"} 1.0\n'
        'sluice_inference_stage_seconds_sum{stage="run"} 5.0\n'
    )
    after = report.read_stages(
        'sluice_inference_stage_seconds_bucket{le="1.0",stage="run"} 3.0\n'
        'sluice_inference_stage_seconds_count{stage="run"} 3.0\n'
        'sluice_inference_stage_seconds_sum{stage="run"} 5.5\n'
        'sluice_inference_stage_seconds_count{stage="decode"} 0.0\n'
        'sluice_inference_batch_size_count{model="clip/1.0.0"} 2.0\n'
        'sluice_inference_batch_size_sum{model="clip/1.0.0"} 50.0\n'
    )
    assert report.describe_stages(before, after) == {
        "decode_ms": None,
        "run_ms": 250.0,
        "mean_batch": 25.0,
    }


def test_the_cosine_of_vectors() -> None:
    assert report.find_cosine([1, 0], [2, 0]) == pytest.approx(1)
    assert report.find_cosine([1, 0], [1, 1]) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("output", "summary"),
    [
        pytest.param(
            "H, 90, 100\nH, 80, 300\nH, 7",
            {"name": "H", "busy_pct": 85.0, "memory_mb": 300},
            id="the last line cut off",
        ),
        pytest.param("", None, id="nothing"),
        pytest.param("H, [N/A], 100", None, id="a device that does not say"),
    ],
)
def test_the_gpu_is_as_busy_as_its_driver_says(
    output: str, summary: dict[str, object] | None
) -> None:
    assert gpu.summarize(output) == summary
