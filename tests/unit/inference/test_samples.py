"""What rollouts are judged by: which answers count, as what, and how small it stays."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import math
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from sluice_inference.http.app import make_app
from sluice_inference.http.context import Context
from sluice_inference.metrics import CONTENT_TYPE
from sluice_inference.samples import BOUNDS_S, OUTCOMES, Samples, choose_outcome
from tests.unit.inference.test_http import JPEG, RAW, occupy_queue, start

MAX_BYTES = 16 * 1024
TEXT = {"inputs": [{"text": "olive left of tomato"}]}


def read(text: str) -> dict[str, float]:
    """Every sample of a text in Prometheus' format, by its name and only label."""
    return {
        f"{one.name}{{{''.join(one.labels.values())}}}" if one.labels else one.name: one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def read_answers(values: dict[str, float]) -> dict[str, int]:
    """The outcomes that were counted at all."""
    counts = {name: int(values[f"sluice_inference_answers_total{{{name}}}"]) for name in OUTCOMES}
    return {name: count for name, count in counts.items() if count}


async def ask_rollout(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics/rollout")
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    assert answer.headers["sluice-revision"] == "abc123"
    return read(answer.text)


def test_neighbouring_bounds_differ_by_a_tenth_at_most() -> None:
    assert (BOUNDS_S[0], BOUNDS_S[-1]) == (0.0005, 60)
    assert all(1 < high / low <= 1.1 for low, high in itertools.pairwise(BOUNDS_S))


def test_the_body_stays_small_whatever_was_counted() -> None:
    samples = Samples()
    samples._answers = dict.fromkeys(OUTCOMES, 10**12)
    samples._split = 10**12
    samples._buckets = [10**12] * (len(BOUNDS_S) + 1)
    samples._seconds = 1e12
    assert len(samples.render()) < MAX_BYTES


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_bucket_holds_what_is_no_slower_than_its_bound(took: list[float]) -> None:
    samples = Samples(started=12.5)
    for seconds in took:
        samples.count("ok", seconds)
    samples.count("client_error", 7.0)
    values = read(samples.render().decode())
    for bound in (*BOUNDS_S, math.inf):
        label = "+Inf" if math.isinf(bound) else f"{bound:g}"
        expected = sum(seconds <= bound for seconds in took)
        assert values[f"sluice_inference_answer_seconds_bucket{{{label}}}"] == expected
    assert values["sluice_inference_answer_seconds_count"] == len(took)
    assert values["sluice_inference_answer_seconds_sum"] == pytest.approx(sum(took), abs=1e-5)
    assert values["sluice_inference_start_time_seconds"] == 12.5


@pytest.mark.parametrize(
    ("status", "is_fallback", "is_partial", "outcome"),
    [
        pytest.param(200, False, False, "ok", id="an answer"),
        pytest.param(200, True, False, "fallback", id="an answer of the fallback"),
        pytest.param(200, False, True, "error", id="an input failed by our fault"),
        pytest.param(422, True, False, "client_error", id="a bad request"),
        pytest.param(499, False, False, "client_error", id="the last of the 400s"),
        pytest.param(500, True, False, "error", id="an error of the fallback"),
        pytest.param(503, False, False, "error", id="overload"),
        pytest.param(0, False, False, "error", id="no answer at all"),
    ],
)
def test_the_outcome_of_an_answer(
    status: int, is_fallback: bool, is_partial: bool, outcome: str
) -> None:
    assert choose_outcome(status, is_fallback=is_fallback, is_partial=is_partial) == outcome


@pytest.mark.parametrize(
    ("env", "request_of", "counted"),
    [
        pytest.param({}, ("/embed", TEXT), {"ok": 1}, id="an answer"),
        pytest.param({}, ("/classify", TEXT), {"client_error": 1}, id="the client's error"),
        pytest.param({"FAKE_ERROR_PERCENT": "100"}, ("/embed", TEXT), {"error": 1}, id="a 500"),
        pytest.param(
            {"FAKE_LATENCY_MS": "400", "REQUEST_TIMEOUT_MS": "50"},
            ("/embed", TEXT),
            {"error": 1},
            id="a 504",
        ),
        pytest.param({"SLUICE_ROLE": "fallback"}, ("/embed", TEXT), {"fallback": 1}, id="fallback"),
        pytest.param({}, ("/nothing", TEXT), {}, id="a route that is none"),
        pytest.param(
            {},
            ("/v2/models/pizza/infer", {"inputs": []}),
            {"client_error": 1},
            id="another protocol",
        ),
    ],
)
async def test_answers_of_inference_routes_are_counted_by_outcome(
    env: dict[str, str], request_of: tuple[str, Any], counted: dict[str, int]
) -> None:
    async with start(**env) as client:
        await client.post(request_of[0], json=request_of[1])
        values = await ask_rollout(client)
    assert read_answers(values) == counted
    timed = sum(count for name, count in counted.items() if name != "client_error")
    assert values["sluice_inference_answer_seconds_count"] == timed


SPLIT = {"sluice-split": "1"}


@pytest.mark.parametrize(
    ("env", "path", "headers", "split"),
    [
        pytest.param({}, "/embed", SPLIT, 1, id="an answer"),
        pytest.param({}, "/classify", SPLIT, 0, id="the client's error"),
        pytest.param({"FAKE_ERROR_PERCENT": "100"}, "/embed", SPLIT, 1, id="a 500"),
        pytest.param(
            {"SLUICE_ROLE": "fallback"}, "/embed", SPLIT, 1, id="an answer of the fallback"
        ),
        pytest.param({}, "/embed", {}, 0, id="split by nobody"),
        pytest.param({}, "/embed", {"sluice-split": "0"}, 0, id="another value"),
        pytest.param({}, "/embed", {**SPLIT, "sluice-shadow": "true"}, 0, id="the comparer's own"),
        pytest.param({}, "/nothing", SPLIT, 0, id="a route that is none"),
    ],
)
async def test_answers_to_what_a_gateway_split_are_counted_once_more(
    env: dict[str, str], path: str, headers: dict[str, str], split: int
) -> None:
    async with start(**env) as client:
        await client.post(path, json=TEXT, headers=headers)
        assert (await client.get("/ready", headers=SPLIT)).status_code == 200
        values = await ask_rollout(client)
    assert values["sluice_inference_split_answers_total"] == split


async def test_a_request_that_there_is_no_room_for_is_an_error() -> None:
    async with start(QUEUE_MAX_ITEMS="1") as client:
        with occupy_queue(client):
            answer = await client.post("/embed", json=TEXT)
        values = await ask_rollout(client)
    assert answer.status_code == 503
    assert read_answers(values) == {"error": 1}
    assert values["sluice_inference_answer_seconds_count"] == 1


async def test_an_input_that_fails_by_our_fault_among_good_ones_is_an_error() -> None:
    async with start(FAKE_FAIL_AFTER_INPUTS="1") as client:
        answer = await client.post("/embed", json={"inputs": TEXT["inputs"] * 2})
        values = await ask_rollout(client)
    assert answer.status_code == 200
    assert answer.json()["embeddings"][1]["error"]["code"] == "MODEL_FAILED"
    assert read_answers(values) == {"error": 1}


async def test_an_input_that_fails_by_the_clients_fault_is_not() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    inputs = [{"image": base64.b64encode(data).decode()} for data in (buffer.getvalue(), b"no")]
    async with start() as client:
        answer = await client.post("/embed", json={"inputs": inputs})
        values = await ask_rollout(client)
    assert answer.json()["embeddings"][1]["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"
    assert read_answers(values) == {"ok": 1}


async def test_probes_and_the_comparers_own_requests_do_not_count() -> None:
    async with start() as client:
        for path in ("/health", "/ready", "/status", "/metrics", "/metrics/rollout"):
            assert (await client.get(path)).status_code == 200
        shadow = await client.post("/embed", content=JPEG, headers={**RAW, "sluice-shadow": "true"})
        values = await ask_rollout(client)
        everything = read((await client.get("/metrics")).text)
    assert shadow.status_code == 200
    assert read_answers(values) == {}
    assert everything["sluice_inference_answer_seconds_count"] == 0
    assert everything["sluice_inference_batch_size_count{pizza/1.0.0}"] == 1


async def test_a_browser_that_asks_whether_it_may_ask_does_not_count() -> None:
    page = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    async with start(CORS_ORIGINS=page["origin"]) as client:
        preflight = await client.options("/embed", headers=page)
        values = await ask_rollout(client)
    assert preflight.status_code == 204
    assert read_answers(values) == {}
    assert values["sluice_inference_answer_seconds_count"] == 0


async def test_metrics_has_the_same_samples() -> None:
    async with start() as client:
        await client.post("/embed", json=TEXT)
        rollout = await ask_rollout(client)
        everything = read((await client.get("/metrics")).text)
    assert rollout.items() <= everything.items()


async def test_a_request_cut_off_by_the_end_is_answered_stamped_and_counted() -> None:
    async with start(FAKE_LATENCY_MS="600") as client:
        context: Context = client.context  # type: ignore[attr-defined]
        sent: list[dict[str, Any]] = []
        app = make_app(context)

        messages = [{"type": "http.request", "body": b'{"inputs":[{"text":"x"}]}'}]

        async def receive() -> dict[str, Any]:
            if not messages:  # a server has no more to say until the client leaves
                await asyncio.Event().wait()
            return messages.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/embed",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        task = asyncio.create_task(app(scope, receive, send))
        while not context.traffic.in_flight:  # noqa: ASYNC110 - it has begun at the next turn
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sent[0]["status"] == 503
    assert (b"sluice-revision", b"abc123") in sent[0]["headers"]
    assert b"STOPPING" in sent[1]["body"]
    assert read_answers(read(context.samples.render().decode())) == {"error": 1}
