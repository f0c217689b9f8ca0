"""The comparer: what agreement is, what is counted, what a mirrored request may cost."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice_inference.compare.agreement import Outcome, compare_answers, compute_cosine
from sluice_inference.compare.answer import TrackAnswer, read_answer
from sluice_inference.compare.body import Body
from sluice_inference.compare.comparer import Comparer
from sluice_inference.compare.counts import REASONS, Counts
from sluice_inference.compare.settings import read_compare_settings
from sluice_inference.compare.track import _keep_headers
from sluice_inference.errors import SettingsError
from sluice_inference.http.budget import BodyBudget

URLS = {"COMPARE_STABLE_URL": "http://stable:80", "COMPARE_CANDIDATE_URL": "http://candidate"}
FAILED = {"index": 0, "error": {"code": "MODEL_FAILED", "message": "no"}}


def label(name: str, *others: str) -> dict[str, Any]:
    top = [{"label": one, "score": 0.5} for one in (name, *others)]
    return {"label": name, "score": 0.5, "top": top}


def answer(status: int = 200, header: str | None = None, **body: Any) -> TrackAnswer:
    """An answer as the server gives it; `header` is the space it is stamped with."""
    space = body.get("space", "") if header is None else header
    return read_answer(
        status, space, json.dumps({"model": "m", "version": "1.0.0", **body}).encode()
    )


def embed(*vectors: Any, space: str = "pizza-1") -> TrackAnswer:
    return answer(space=space, dimension=2, embeddings=list(vectors))


def pack(*values: float) -> str:
    """A vector as `"encoding":"base64"` gives it."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def classify(*items: dict[str, Any]) -> TrackAnswer:
    return answer(predictions=list(items))


A, B = label("a", "b"), label("b", "a")


@pytest.mark.parametrize(
    ("stable", "candidate", "outcome", "reason"),
    [
        pytest.param(classify(A), classify(label("a")), "agree", "", id="same label"),
        pytest.param(classify(A), classify(B), "disagree", "", id="another label"),
        pytest.param(classify(A, A), classify(A, B), "disagree", "", id="one of two labels"),
        pytest.param(classify(A, FAILED), classify(A, B), "agree", "", id="stable lacks an item"),
        pytest.param(
            classify(A, A), classify(A, FAILED), "disagree", "", id="candidate lacks an item"
        ),
        pytest.param(classify(A), classify(A, A), "disagree", "", id="another number of items"),
        pytest.param(
            classify(FAILED), classify(A), "skipped", "not_comparable", id="stable has no item"
        ),
        pytest.param(embed([1, 0]), embed([2, 0]), "agree", "", id="same direction"),
        pytest.param(embed([1, 0]), embed([1, 0.15]), "disagree", "", id="under the bound"),
        pytest.param(embed(pack(1, 0)), embed(pack(2, 0)), "agree", "", id="both in base64"),
        pytest.param(embed(pack(1, 0)), embed([0, 1]), "disagree", "", id="one in base64"),
        pytest.param(embed([1, 0]), embed("AAAA" * 2), "disagree", "", id="half a number"),
        pytest.param(embed([1, 0]), embed([1, 0, 0]), "disagree", "", id="another length"),
        pytest.param(embed([1, 0]), embed([0, 0]), "disagree", "", id="no direction"),
        pytest.param(embed([1, 0]), embed(FAILED), "disagree", "", id="no embedding"),
        pytest.param(
            embed([1, 0]), embed([1, 0], space="x"), "skipped", "other_space", id="another space"
        ),
        pytest.param(
            embed([1, 0], space=""),
            embed([1, 0], space=""),
            "skipped",
            "other_space",
            id="unknown spaces",
        ),
        pytest.param(embed([1, 0]), classify(A), "disagree", "", id="embeddings are gone"),
        pytest.param(classify(A), embed([1, 0]), "disagree", "", id="labels are gone"),
        pytest.param(
            answer(predictions=[A], embeddings=[[1, 0]], space="one"),
            answer(predictions=[A], embeddings=[[0, 1]], space="two"),
            "agree",
            "",
            id="labels alone where spaces differ",
        ),
        pytest.param(
            answer(predictions=[A], embeddings=[[1, 0]], space="one"),
            answer(predictions=[A], embeddings=[[0, 1]], space="one"),
            "disagree",
            "",
            id="labels agree, embeddings don't",
        ),
        pytest.param(
            answer(embeddings=[[1, 0]], space="one"),
            answer(header="two", embeddings=[[1, 0]], space="one"),
            "skipped",
            "other_space",
            id="header and body of candidate differ",
        ),
        pytest.param(answer(), answer(), "skipped", "not_comparable", id="neither part"),
        pytest.param(
            read_answer(200, "", b"{"), classify(A), "skipped", "not_comparable", id="not JSON"
        ),
        pytest.param(classify(A), read_answer(200, "", b"\xff"), "disagree", "", id="garbage"),
        pytest.param(classify(A), answer(500), "candidate_failed", "", id="candidate errs"),
        pytest.param(classify(A), answer(0), "candidate_failed", "", id="candidate is silent"),
        pytest.param(classify(A), answer(404), "candidate_failed", "", id="candidate refuses"),
        pytest.param(answer(422), answer(503), "candidate_failed", "", id="refused and failed"),
        pytest.param(answer(503), classify(A), "stable_failed", "", id="stable errs"),
        pytest.param(answer(301), answer(404), "stable_failed", "", id="stable redirects"),
        pytest.param(answer(0), answer(500), "both_failed", "", id="both fail"),
        pytest.param(answer(422), answer(422), "skipped", "refused", id="both refuse"),
        pytest.param(answer(404), classify(A), "skipped", "refused", id="stable refuses"),
    ],
)
def test_what_agreement_is(
    stable: TrackAnswer, candidate: TrackAnswer, outcome: str, reason: str
) -> None:
    made = compare_answers(stable, candidate, 0.99)
    assert (made.outcome, made.reason) == (outcome, reason)
    assert not reason or reason in REASONS


def test_a_comparison_tells_what_led_to_it() -> None:
    stable = answer(
        predictions=[label("a", "b", "c", "d"), A], embeddings=[[1, 0], [1, 0]], space="s"
    )
    candidate = answer(
        predictions=[label("a", "b", "x", "y"), B], embeddings=[[1, 1], [0, 2]], space="s"
    )
    made = compare_answers(stable, candidate, 0.5)
    assert made.outcome is Outcome.DISAGREE
    assert made.top1 == [True, False]
    assert made.overlaps == [0.5, 1.0]
    assert made.cosines == pytest.approx([math.sqrt(0.5), 0.0])


@pytest.mark.parametrize(
    ("one", "other", "cosine"),
    [
        ((1.0, 0.0), (0.0, 3.0), 0.0),
        ((1.0, 2.0), (-1.0, -2.0), -1.0),
        ((0.1, 0.2, 0.7), (0.1, 0.2, 0.7), 1.0),
        ((), (), None),
        ((1e200, 1e200), (1e200, 1e200), None),
    ],
)
def test_the_cosine(one: tuple[float, ...], other: tuple[float, ...], cosine: float | None) -> None:
    made = compute_cosine(one, other)
    assert made == (None if cosine is None else pytest.approx(cosine))
    assert made is None or -1 <= made <= 1


def test_what_belongs_to_a_connection_is_not_passed_on() -> None:
    given = {
        b"host": b"pizza-shadow",
        b"connection": b"keep-alive, X-Hop",
        b"x-hop": b"1",
        b"content-length": b"3",
        b"sluice-shadow": b"false",
        b"sluice-split": b"1",
        b"sluice-pin": b"abc",
        b"content-type": b"image/png",
        b"x-request-id": b"one",
    }
    kept = dict(_keep_headers(tuple(given.items())))
    assert kept == {b"content-type": b"image/png", b"x-request-id": b"one"}


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def read(body: Body, *messages: dict[str, Any]) -> bytes:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    data = await body.read(receive, 5)
    assert not waiting or body.reason == "cut_off", "nothing may be left unread"
    return data


def piece(size: int, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


@pytest.mark.parametrize(
    ("messages", "size", "reason"),
    [
        pytest.param([piece(4), piece(6, False)], 10, "", id="as large as allowed"),
        pytest.param([piece(4), piece(7), piece(9, False)], 0, "too_large", id="too large"),
        pytest.param([piece(4), {"type": "http.disconnect"}], 0, "cut_off", id="cut off"),
    ],
)
async def test_a_body_is_read_within_its_bounds(
    messages: list[dict[str, Any]], size: int, reason: str
) -> None:
    budget = BodyBudget(100)
    body = Body(budget, 10)
    assert len(await read(body, *messages)) == size
    assert (body.reason, budget.held) == (reason, size)
    body.release()
    assert budget.held == 0


async def test_a_body_beyond_what_all_may_hold_is_shed() -> None:
    budget = BodyBudget(10)
    assert budget.take(8, 0)
    body = Body(budget, 10)
    assert await read(body, piece(3, False)) == b""
    assert (body.reason, budget.held) == ("shed", 8)


async def test_a_body_that_does_not_come_is_given_up() -> None:
    body = Body(BodyBudget(10), 10)
    assert await body.read(never, 0.01) == b""
    assert body.reason == "cut_off"


def test_every_number_is_there_from_the_start_and_the_rollouts_share_is_small() -> None:
    counts = Counts()
    small = counts.render_rollout().decode()
    families = {family.name: family for family in text_string_to_metric_families(small)}
    assert set(families) == {
        "sluice_compare_answers",
        "sluice_compare_cosine",
        "sluice_compare_start_time_seconds",
    }
    outcomes = {one.labels.get("outcome") for one in families["sluice_compare_answers"].samples}
    assert outcomes == set(Outcome)
    assert len(small) < 4096
    assert set(small.splitlines()) <= set(counts.render().decode().splitlines())


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        pytest.param({"COMPARE_STABLE_URL": ""}, "COMPARE_STABLE_URL: ''", id="missing"),
        pytest.param({"COMPARE_CANDIDATE_URL": "pizza:80"}, "COMPARE_CANDIDATE_URL", id="bare"),
        pytest.param(
            {"COMPARE_STABLE_URL": "http://x/predict"}, "without a path", id="with a path"
        ),
        pytest.param({"COMPARE_STABLE_URL": "http://x:99999"}, "COMPARE_STABLE_URL", id="port"),
        pytest.param({"COMPARE_TIMEOUT_S": "0"}, "0.05 and 600", id="no time"),
        pytest.param({"COMPARE_MAX_IN_FLIGHT": "0"}, "1 and 10000", id="none in flight"),
        pytest.param({"COMPARE_MIN_COSINE": "1.5"}, "-1 and 1", id="no cosine"),
        pytest.param({"DRAIN_LINGER_S": "60"}, "DRAIN_TIMEOUT_S", id="a linger past the drain"),
    ],
)
def test_an_unusable_setting_is_named_with_what_is_allowed(
    env: dict[str, str], problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_compare_settings({**URLS, **env})
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]
    assert next(iter(env)) in caught.value.problems[0]


@asynccontextmanager
async def start(**env: str) -> AsyncIterator[tuple[httpx.AsyncClient, Comparer]]:
    """A comparer whose tracks can't be reached: port 1 of this machine refuses."""
    nowhere = dict.fromkeys(URLS, "http://127.0.0.1:1")
    comparer = Comparer(read_compare_settings({**nowhere, **env}), Counts())
    transport = httpx.ASGITransport(comparer)
    async with httpx.AsyncClient(transport=transport, base_url="http://comparer") as client:
        yield client, comparer
    await comparer.finish(5)


async def read_outcomes(client: httpx.AsyncClient) -> dict[str, int]:
    text = (await client.get("/metrics/rollout")).text
    return {
        one.labels["outcome"]: int(one.value)
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "sluice_compare_answers_total" and one.value
    }


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_any_mirrored_request_is_answered_202_and_compared(method: str) -> None:
    async with start() as (client, comparer):
        mirrored = await client.request(method, "/anything?x=1", content=b"abc")
        await comparer.finish(5)
        outcomes = await read_outcomes(client)
        health = await client.get("/health")
    assert (mirrored.status_code, mirrored.content) == (202, b"")
    assert outcomes == {"both_failed": 1}
    assert health.status_code == 200


async def test_what_is_too_large_is_answered_202_and_skipped() -> None:
    async with start(COMPARE_MAX_BODY_MB="0.001") as (client, comparer):
        mirrored = await client.post("/embed", content=b"x" * 2000)
        outcomes = await read_outcomes(client)
        everything = (await client.get("/metrics")).text
    assert mirrored.status_code == 202
    assert outcomes == {"skipped": 1}
    assert 'sluice_compare_skipped_total{reason="too_large"} 1.0' in everything.splitlines()
    assert comparer._in_flight == comparer._budget.held == 0


async def test_while_draining_it_is_not_ready_and_still_takes_mirrors() -> None:
    async with start() as (client, comparer):
        before = await client.get("/ready")
        comparer.start_draining()
        after = await client.get("/ready")
        mirrored = await client.post("/embed", content=b"x")
    assert (before.status_code, after.status_code, mirrored.status_code) == (200, 503, 202)
    assert after.headers["connection"] == mirrored.headers["connection"] == "close"


async def test_what_is_not_done_in_time_is_given_up_and_counted() -> None:
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the other side gives up
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with start(**dict.fromkeys(URLS, url)) as (client, comparer):
            await client.post("/embed", content=b"x")
            await asyncio.wait_for(asked.wait(), 10)
            await comparer.finish(0)
            outcomes = await read_outcomes(client)
            everything = (await client.get("/metrics")).text
    assert outcomes == {"skipped": 1}
    assert 'sluice_compare_skipped_total{reason="draining"} 1.0' in everything.splitlines()
    assert comparer._in_flight == comparer._budget.held == 0


async def test_a_fault_of_the_comparer_itself_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("sluice_inference.compare.comparer.compare_answers", fail)
    async with start() as (client, comparer):
        await client.post("/embed", content=b"x")
        await comparer.finish(5)
        everything = (await client.get("/metrics")).text
    assert 'sluice_compare_skipped_total{reason="internal"} 1.0' in everything.splitlines()
    assert comparer._in_flight == comparer._budget.held == 0


async def test_a_request_without_a_path_is_skipped() -> None:
    counts, sent = Counts(), []
    comparer = Comparer(read_compare_settings(URLS), counts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "OPTIONS",
        "path": "*",
        "raw_path": b"*",
        "query_string": b"",
        "headers": [],
    }
    await comparer(scope, receive, send)
    await comparer.finish(5)
    assert sent[0]["status"] == 202
    skipped = 'sluice_compare_skipped_total{reason="not_comparable"} 1.0'
    assert skipped in counts.render().decode().splitlines()
