"""A fallback behind an address: what it is asked, how its answers are read, and when it is not believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from sluice_inference.engine.backend import Output
from sluice_inference.errors import RequestError
from sluice_inference.http.app import make_app
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Input, Job, Reply
from sluice_inference.routing.fallback import WithFallback
from sluice_inference.routing.remote import RemoteModel
from sluice_inference.settings import read_settings
from tests.unit.inference.test_fallback import JPEG, UNLOADABLE, start

EMBED = ("ImageEmbedding", "TextEmbedding")
CLASSES = ("Classification",)
STATUS = {
    "state": "ready",
    "model": "small",
    "version": "1.4.0",
    "tasks": ["Classification", "OCR", *EMBED],
    "embedding": {"space": "s", "dimension": 2},
    "added": "by a later version",
}


def make_job(*inputs: Input | RequestError, tasks: tuple[str, ...] = CLASSES, s: float = 5) -> Job:
    return Job(inputs, asyncio.get_running_loop().time() + s, tasks=tasks, may_fall_back=False)


def make_remote(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> RemoteModel:
    return RemoteModel("http://small", Metrics(), transport=httpx.MockTransport(answer), **more)


async def ask_scripted(response: httpx.Response | Exception, job: Job) -> Reply:
    """The reply read from one scripted answer of the other server."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/status":
            return httpx.Response(200, json=STATUS)
        if isinstance(response, Exception):
            raise response
        return response

    remote = make_remote(answer)
    await remote.look()
    try:
        return await remote.answer(job)
    finally:
        await remote.close()


async def test_another_server_answers_as_its_model_would_here() -> None:
    """Both ends are real: the other server is our application over its own engine."""
    async with start(MODEL_NAME="small", MODEL_VERSION="1.4.0", FAKE_LABEL="small") as other:
        remote = RemoteModel(
            "http://small", Metrics(), transport=httpx.ASGITransport(make_app(other.context))
        )
        await remote.look()
        facts = remote.facts
        assert facts is not None
        assert (facts.tasks, facts.space, facts.dimension) == ((*EMBED, *CLASSES), "s", 8)
        labels = await remote.answer(make_job(JPEG, JPEG[:200]))
        vectors = await remote.answer(make_job(JPEG, "olive", tasks=EMBED))
        both = await remote.answer(make_job(JPEG, tasks=(*CLASSES, *EMBED)))
        own = (await other.client.post("/embed", content=JPEG)).json()["embeddings"][0]
        (alone,) = (await remote.answer(make_job(JPEG[:200]))).outcomes
        await remote.close()
    best, corrupt = labels.outcomes
    assert labels.model.title == "small/1.4.0"
    assert labels.facts.labels == ("small", "other")
    assert isinstance(best, Output)
    assert best.scores is not None
    assert best.scores[0] == pytest.approx(0.95, abs=1e-6)
    assert isinstance(corrupt, RequestError)
    assert (corrupt.status, corrupt.code) == (422, "IMAGE_CORRUPT")
    image, text = vectors.outcomes
    assert isinstance(image, Output)
    assert isinstance(text, Output)
    assert image.embedding is not None
    assert np.array_equal(image.embedding, np.asarray(own, dtype=np.float32))
    (whole,) = both.outcomes
    assert isinstance(whole, Output)
    assert whole.embedding is not None
    assert whole.scores is not None
    assert isinstance(alone, RequestError)
    assert (alone.status, alone.code) == (422, "IMAGE_CORRUPT")


async def test_every_request_is_marked_and_carries_the_key_of_the_moment(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    key = tmp_path / "key"

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["sluice-fallback"], request.headers["authorization"]))
        return httpx.Response(200, json=STATUS)

    remote = make_remote(answer, key_file=key)
    for text in ("one\n", "two\n"):
        key.write_text(text)
        await remote.look()
    await remote.close()
    assert seen == [("true", "Bearer one"), ("true", "Bearer two")]


@pytest.mark.parametrize(
    ("inputs", "tasks", "target"),
    [
        pytest.param((b"x",), CLASSES, "/classify?top_k=100", id="labels"),
        pytest.param((b"x", "y"), EMBED, "/embed", id="embeddings"),
        pytest.param((b"x",), (*CLASSES, *EMBED), "/predict?top_k=100", id="both"),
    ],
)
async def test_it_is_asked_where_the_tasks_are_served(
    inputs: tuple[Input, ...], tasks: tuple[str, ...], target: str
) -> None:
    seen: list[tuple[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/status":
            return httpx.Response(200, json=STATUS)
        seen.append((request.url.raw_path.decode(), json.loads(request.content)))
        return httpx.Response(503)

    remote = make_remote(answer)
    await remote.look()
    with pytest.raises(RequestError):
        await remote.answer(make_job(*inputs, tasks=tasks))
    await remote.close()
    ((path, body),) = seen
    want = [{"text": one} if isinstance(one, str) else {"image": "eA=="} for one in inputs]
    assert (path, body) == (target, {"inputs": want})


def make_answer(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json={"model": "small", "version": "1.4.0", **fields})


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(httpx.ConnectError("refused"), id="nobody there"),
        pytest.param(httpx.ReadError("reset"), id="a reset"),
        pytest.param(httpx.Response(500, json={"error": {"code": "X", "message": "x"}}), id="500"),
        pytest.param(httpx.Response(503), id="503"),
        pytest.param(httpx.Response(401, text="who?"), id="it does not know us"),
        pytest.param(httpx.Response(422, text="<html>"), id="a refusal that is none of ours"),
        pytest.param(httpx.Response(200, text="<html>"), id="a page"),
        pytest.param(make_answer(), id="an answer without answers"),
        pytest.param(make_answer(predictions=[]), id="too few"),
        pytest.param(make_answer(predictions=[{"top": []}] * 2), id="too many"),
        pytest.param(
            make_answer(embeddings=[[1.0, 2.0, 3.0]], space="s", dimension=2), id="another width"
        ),
        pytest.param(make_answer(embeddings=[[1.0, 1e60]], space="s", dimension=2), id="infinite"),
    ],
)
async def test_what_is_no_answer_is_silence(response: httpx.Response | Exception) -> None:
    with pytest.raises(RequestError) as caught:
        await ask_scripted(response, make_job(b"x"))
    assert (caught.value.status, caught.value.code) == (503, "FALLBACK_SILENT")


async def test_inputs_at_fault_are_told_as_the_other_server_tells_them() -> None:
    detail = {"code": "IMAGE_CORRUPT", "message": "half a picture"}
    items = [
        {"index": 0, "error": detail},
        {"index": 1, "error": {**detail, "code": "MODEL_FAILED"}},
    ]
    refusal = httpx.Response(422, json={"error": detail, "items": items})
    reply = await ask_scripted(refusal, make_job(b"x", b"y"))
    first, second = reply.outcomes
    assert isinstance(first, RequestError)
    assert isinstance(second, RequestError)
    assert [(one.status, one.code) for one in (first, second)] == [
        (422, "IMAGE_CORRUPT"),
        (500, "MODEL_FAILED"),
    ]


async def test_labels_of_several_inputs_come_together() -> None:
    predictions = [
        {"top": [{"label": "a", "score": 0.7}, {"label": "b", "score": 0.2}]},
        {"top": [{"label": "c", "score": 0.9}]},
    ]
    reply = await ask_scripted(make_answer(predictions=predictions), make_job(b"x", b"y"))
    scores = [one.scores for one in reply.outcomes if isinstance(one, Output)]
    assert reply.facts.labels == ("a", "b", "c")
    assert np.allclose(
        np.stack([one for one in scores if one is not None]), [[0.7, 0.2, 0], [0, 0, 0.9]]
    )


async def test_an_answer_from_another_space_says_so() -> None:
    """The server behind the address was replaced since its /status was read."""
    answer = make_answer(embeddings=[[1.0, 2.0]], space="t", dimension=2)
    reply = await ask_scripted(answer, make_job(b"x", tasks=EMBED))
    assert (reply.facts.space, reply.facts.dimension) == ("t", 2)


@pytest.mark.parametrize(
    ("space", "path", "status"),
    [
        pytest.param("s", "/embed", 200, id="it is still the same"),
        pytest.param("t", "/embed", 500, id="it has become another space"),
        pytest.param("t", "/predict", 200, id="labels have no space"),
    ],
)
async def test_a_server_that_became_another_is_held_to_what_it_answers_now(
    space: str, path: str, status: int
) -> None:
    answer: dict[str, Any] = {"predictions": [{"top": [{"label": "a", "score": 0.9}]}]}
    answer |= {"embeddings": [[0.5] * 8], "space": space, "dimension": 8}
    status_then = {**STATUS, "embedding": {"space": "s", "dimension": 8}}

    def respond(request: httpx.Request) -> httpx.Response:
        return (
            httpx.Response(200, json=status_then)
            if "status" in request.url.path
            else (make_answer(**answer))
        )

    remote = make_remote(respond)
    await remote.look()
    settings = read_settings({"FALLBACK_URL": "http://small"}).routing.fallback
    assert settings is not None
    async with start(FAKE_FAIL_AFTER_SECONDS="0") as rig:
        roster = rig.context.roster
        roster.answerer = WithFallback(roster.primary, remote, settings, Metrics())
        got = await rig.client.post(path, content=JPEG)
    await remote.close()
    assert got.status_code == status
    if path == "/predict":
        assert "embeddings" not in got.json()


async def test_it_is_not_waited_for_longer_than_the_request_has() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/status":
            return httpx.Response(200, json=STATUS)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    remote = RemoteModel("http://small", Metrics(), transport=httpx.MockTransport(answer))
    await remote.look()
    with pytest.raises(RequestError):
        await remote.answer(make_job(b"x", s=0.05))
    await remote.close()


async def test_a_server_that_is_gone_is_remembered_as_it_was_and_lost_in_the_end() -> None:
    answers: list[httpx.Response | Exception] = [
        httpx.Response(200, json={**STATUS, "state": "loading"}),
        httpx.Response(200, json=STATUS),
        httpx.Response(200, json=STATUS),
        httpx.ConnectError("gone"),
        httpx.Response(503),
        httpx.ReadTimeout("silent"),
        httpx.Response(200, json=STATUS),
    ]
    while_looking: list[str] = []

    def answer(_: httpx.Request) -> httpx.Response:
        while_looking.append(remote.describe()["state"])
        one = answers.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    changes: list[bool] = []
    remote = make_remote(answer)
    remote.on_change = lambda: changes.append(remote.is_up())
    seen = []
    for _ in range(7):
        await remote.look()
        seen.append((remote.is_up(), remote.describe()["state"]))
    await remote.close()
    assert seen == [
        (False, "unreachable"),
        (True, "reached"),
        (True, "reached"),
        (True, "unreachable"),
        (True, "unreachable"),
        (False, "unreachable"),
        (True, "reached"),
    ]
    assert changes == [True, False, True]
    assert while_looking == ["unreachable", *(state for _, state in seen[:-1])]


async def test_a_server_that_is_lost_stands_in_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    is_gone = False

    def answer(_: httpx.Request) -> httpx.Response:
        if is_gone:
            raise httpx.ConnectError("gone")
        return httpx.Response(200, json=STATUS)

    remote = make_remote(answer)
    monkeypatch.setattr("sluice_inference.hosting.RemoteModel", lambda *_, **__: remote)
    async with start(UNLOADABLE, FALLBACK_URL="http://small") as rig:
        paths = ("/ready", "/health")
        before = [(await rig.client.get(path)).status_code for path in paths]
        is_gone = True
        for _ in range(3):
            await remote.look()
        lost = [(await rig.client.get(path)).status_code for path in paths]
        is_gone = False
        await remote.look()
        after = [(await rig.client.get(path)).status_code for path in paths]
    assert (before, lost, after) == ([200, 200], [503, 503], [200, 200])


def make_scores(*scores: float | None) -> httpx.Response:
    """Labels with these scores; None is an input that the server refuses."""
    refusal = {"error": {"code": "IMAGE_CORRUPT", "message": "no picture"}}
    return make_answer(
        predictions=[
            refusal if score is None else {"top": [{"label": "a", "score": score}]}
            for score in scores
        ]
    )


@pytest.mark.parametrize(
    ("scores", "model"),
    [
        pytest.param((0.9, 0.8), "small", id="surer of all"),
        pytest.param((0.9, 0.5), "big", id="less sure of one"),
        pytest.param((0.5, 0.5), "big", id="less sure"),
        pytest.param((0.9, None), "big", id="it refuses what the model answered"),
    ],
)
async def test_of_two_whole_answers_the_surer_one_stands(
    scores: tuple[float | None, ...], model: str
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/status":
            return httpx.Response(200, json=STATUS)
        return make_scores(*scores)

    remote = make_remote(respond)
    await remote.look()
    limits = {"FALLBACK_ON": "LowConfidence", "FALLBACK_MIN_CONFIDENCE": "0.7"}
    settings = read_settings({"FALLBACK_URL": "http://small", **limits}).routing.fallback
    assert settings is not None
    async with start(FAKE_CONFIDENCE="0.6") as rig:
        roster = rig.context.roster
        router = WithFallback(roster.primary, remote, settings, Metrics())
        job = replace(make_job(JPEG, JPEG), may_fall_back=True, is_whole=True)
        reply = await router.answer(job)
    await remote.close()
    assert (reply.model.name, dict(reply.others)) == (model, {})
    assert all(isinstance(one, Output) for one in reply.outcomes)
