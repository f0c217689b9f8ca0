"""Routing with real engines over test doubles: who answers when, and what the answer says of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload
from sluice_inference.errors import NoDeviceError, RequestError, RunError
from sluice_inference.http.context import Context
from sluice_inference.models.fake_backend import FakeBackend
from sluice_inference.models.registry import make_backend
from sluice_inference.predictor import Answerer, Job, Reply
from sluice_inference.routing.breaker import Breaker
from sluice_inference.routing.split import find_place
from sluice_inference.settings.model import ModelSettings
from tests.serving import make_jpeg, serve

RAW = {"content-type": "image/jpeg"}
PRIMARY = {
    "BACKEND": "fake",
    "MODEL_NAME": "big",
    "MODEL_VERSION": "2.0.0",
    "EMBEDDING_SPACE": "s",
    "EMBEDDING_DIMENSION": "8",
    "FAKE_LABEL": "big",
}
SMALL = {
    "FALLBACK_MODEL_PATH": "/small",
    "FALLBACK_BACKEND": "fake",
    "FALLBACK_MODEL_NAME": "small",
    "FALLBACK_MODEL_VERSION": "1.4.0",
    "FALLBACK_EMBEDDING_SPACE": "s",
    "FALLBACK_EMBEDDING_DIMENSION": "8",
    "FALLBACK_FAKE_LABEL": "small",
}
SECOND = {
    "AB_MODEL_PATH": "/second",
    "AB_BACKEND": "fake",
    "AB_MODEL_NAME": "big",
    "AB_MODEL_VERSION": "3.0.0",
    "AB_EMBEDDING_SPACE": "s",
    "AB_EMBEDDING_DIMENSION": "8",
    "AB_FAKE_LABEL": "second",
}
BROKEN = {"FAKE_FAIL_AFTER_SECONDS": "0"}
UNLOADABLE = {"BACKEND": "onnx", "MODEL_PATH": "/nowhere"}


JPEG = make_jpeg()


class Rig:
    """A server's models and its application, and what became of the process."""

    def __init__(self, client: httpx.AsyncClient, context: Context, ends: list[str]) -> None:
        self.client = client
        self.context = context
        self.ends = ends

    async def classify(self, **headers: str) -> httpx.Response:
        return await self.client.post("/classify", content=JPEG, headers={**RAW, **headers})

    async def status(self) -> dict[str, Any]:
        said: dict[str, Any] = (await self.client.get("/status")).json()
        return said

    async def read_metric(self, line: str) -> float:
        text = (await self.client.get("/metrics")).text
        values = [row.split()[-1] for row in text.splitlines() if row.startswith(line + " ")]
        return float(values[0]) if values else 0.0


@asynccontextmanager
async def start(*settings: dict[str, str], **env: str) -> AsyncIterator[Rig]:
    """A rig, once the process is ready or has failed and all its models are settled."""
    merged: dict[str, str] = {}
    for more in (PRIMARY, *settings, env):
        merged |= more
    async with serve(**merged) as served, served.connect() as client:
        yield Rig(client, served.context, served.ends)


def read_label(response: httpx.Response) -> str:
    (prediction,) = response.json()["predictions"]
    return str(prediction["label"])


async def test_a_model_that_works_answers_itself() -> None:
    async with start(SMALL) as rig:
        answer = await rig.classify()
        active = await rig.read_metric("sluice_inference_fallback_active")
    said = answer.json()
    assert (answer.status_code, read_label(answer)) == (200, "big")
    assert (said["model"], said["version"]) == ("big", "2.0.0")
    assert "fallback_reason" not in said
    assert "sluice-fallback-reason" not in answer.headers
    assert active == 0


async def test_a_fallback_answers_for_a_model_that_fails_and_is_named() -> None:
    async with start(SMALL, BROKEN) as rig:
        answer = await rig.classify()
        samples = (await rig.client.get("/metrics/rollout")).text
        fell = await rig.read_metric('sluice_inference_fallback_total{reason="Error"}')
        routed = await rig.read_metric('sluice_inference_routed_total{model="small/1.4.0"}')
    said = answer.json()
    assert (answer.status_code, read_label(answer)) == (200, "small")
    assert (said["model"], said["version"], said["fallback_reason"]) == ("small", "1.4.0", "Error")
    assert answer.headers["sluice-model"] == "small/1.4.0"
    assert answer.headers["sluice-fallback-reason"] == "Error"
    assert 'sluice_inference_answers_total{outcome="fallback"} 1' in samples
    assert (fell, routed) == (1, 1)


async def test_embeddings_of_one_space_come_from_the_fallback_too() -> None:
    async with start(SMALL, BROKEN) as rig:
        answer = await rig.client.post("/embed", content=JPEG, headers=RAW)
    assert answer.status_code == 200
    assert answer.headers["sluice-embedding-space"] == "s"
    assert len(answer.json()["embeddings"][0]) == 8


@pytest.mark.parametrize(
    ("other", "path", "status"),
    [
        pytest.param({"FALLBACK_EMBEDDING_SPACE": "t"}, "/embed", 500, id="another space"),
        pytest.param({"FALLBACK_EMBEDDING_DIMENSION": "4"}, "/embed", 500, id="another width"),
        pytest.param({"FALLBACK_MODEL_TASKS": "Classification"}, "/embed", 500, id="no such task"),
        pytest.param({"FALLBACK_MODEL_TASKS": "ImageEmbedding"}, "/classify", 500, id="no labels"),
        pytest.param({"FALLBACK_EMBEDDING_SPACE": "t"}, "/classify", 200, id="labels all the same"),
        pytest.param({"FALLBACK_ON": "Timeout"}, "/classify", 500, id="not asked on errors"),
    ],
)
async def test_what_a_fallback_may_not_say_stays_the_models_error(
    other: dict[str, str], path: str, status: int
) -> None:
    async with start(SMALL, other, BROKEN) as rig:
        answer = await rig.client.post(path, content=JPEG, headers=RAW)
    assert answer.status_code == status


async def test_predict_gives_what_the_fallback_has_of_both() -> None:
    async with start(SMALL, BROKEN, FALLBACK_EMBEDDING_SPACE="t") as rig:
        answer = await rig.client.post("/predict", content=JPEG, headers=RAW)
    assert answer.status_code == 200
    assert "embeddings" not in answer.json()
    assert "sluice-embedding-space" not in answer.headers
    assert read_label(answer) == "small"


async def test_only_the_inputs_that_failed_are_asked_again() -> None:
    async with start(SMALL, FAKE_FAIL_AFTER_INPUTS="2", BATCH_SIZE="1") as rig:
        names = [("files", ("x", data)) for data in (JPEG, JPEG[:200], JPEG, JPEG)]
        answer = await rig.client.post("/classify", files=names)
        samples = (await rig.client.get("/metrics/rollout")).text
        asked = await rig.read_metric('sluice_inference_routed_total{model="small/1.4.0"}')
    said = answer.json()
    first, corrupt, second, third = said["predictions"]
    assert answer.status_code == 200
    assert [one["label"] for one in (first, second, third)] == ["big", "big", "small"]
    assert corrupt["error"]["code"] == "IMAGE_CORRUPT"
    assert (said["model"], said["version"]) == ("big", "2.0.0")
    assert said["fallbacks"] == [
        {"index": 3, "model_used": "small/1.4.0", "fallback_reason": "Error"}
    ]
    assert answer.headers["sluice-model"] == "big/2.0.0"
    assert answer.headers["sluice-fallback-reason"] == "Error"
    assert 'sluice_inference_answers_total{outcome="fallback"} 1' in samples
    assert asked == 1


@pytest.mark.parametrize("header", ["sluice-shadow", "sluice-fallback"])
async def test_who_judges_the_model_or_is_a_server_itself_gets_no_fallback(header: str) -> None:
    async with start(SMALL, BROKEN) as rig:
        answer = await rig.classify(**{header: "true"})
        assert answer.status_code == 500
        assert (await rig.classify()).status_code == 200


async def test_a_client_error_is_not_asked_again() -> None:
    async with start(SMALL) as rig:
        answer = await rig.client.post("/classify", content=JPEG[:200], headers=RAW)
        asked = await rig.read_metric('sluice_inference_routed_total{model="small/1.4.0"}')
    assert (answer.status_code, asked) == (422, 0)


async def test_a_slow_model_leaves_the_fallback_time_within_the_requests_own() -> None:
    env = {"FAKE_LATENCY_MS": "5000", "REQUEST_TIMEOUT_MS": "800", "FALLBACK_RESERVE_MS": "500"}
    async with start(SMALL, env) as rig:
        answer = await rig.classify()
    assert (answer.status_code, answer.json()["fallback_reason"]) == (200, "Timeout")


async def test_a_deadline_shorter_than_the_queue_goes_to_the_fallback_at_once() -> None:
    env = {"FAKE_LATENCY_MS": "200", "BATCH_SIZE": "1", "REQUEST_TIMEOUT_MS": "1000"}
    async with start(SMALL, env, FALLBACK_RESERVE_MS="100") as rig:
        await rig.classify()  # teaches the engine what a run costs
        waiting = [asyncio.create_task(rig.classify()) for _ in range(8)]
        async with asyncio.timeout(5):
            while rig.context.engine.queued < 6:  # noqa: ASYNC110 - a queue has no event for this
                await asyncio.sleep(0.001)
        started = time.monotonic()
        late = await rig.classify()
        seconds = time.monotonic() - started
        answers = await asyncio.gather(*waiting)
    assert {one.status_code for one in answers} == {200}
    assert late.json()["fallback_reason"] == "Timeout"
    assert seconds < 0.8, "it did not wait for the model's share of its time to pass"


async def test_a_queue_over_its_high_water_has_room_left_that_is_not_used() -> None:
    env = {"FAKE_LATENCY_MS": "1000", "BATCH_SIZE": "1", "QUEUE_MAX_ITEMS": "10"}
    async with start(SMALL, env, FALLBACK_HIGH_WATER_PERCENT="20") as rig:
        waiting = [asyncio.create_task(rig.classify()) for _ in range(4)]
        async with asyncio.timeout(5):
            while rig.context.engine.queued < 2:  # noqa: ASYNC110 - a queue has no event for this
                await asyncio.sleep(0.001)
        answer = await rig.classify()
        await asyncio.gather(*waiting)
        full = await rig.read_metric('sluice_inference_rejected_total{reason="queue_full"}')
    assert (answer.json()["fallback_reason"], full) == ("Overload", 0)


async def test_a_full_queue_overflows_into_the_fallback() -> None:
    env = {"FAKE_LATENCY_MS": "100", "BATCH_SIZE": "1", "QUEUE_MAX_ITEMS": "4"}
    async with start(SMALL, env, FALLBACK_HIGH_WATER_PERCENT="100") as rig:
        answers = await asyncio.gather(*(rig.classify() for _ in range(20)))
    reasons = Counter(one.json().get("fallback_reason", "") for one in answers)
    assert {one.status_code for one in answers} == {200}
    assert reasons["Overload"] >= 12
    assert reasons[""] >= 2


async def test_a_fallback_that_has_no_room_either_leaves_it_at_overloaded() -> None:
    slow = {"FAKE_LATENCY_MS": "300", "BATCH_SIZE": "1", "QUEUE_MAX_ITEMS": "1"}
    also = {"FALLBACK_" + name: value for name, value in slow.items()}
    async with start(SMALL, slow, also) as rig:
        answers = await asyncio.gather(*(rig.classify() for _ in range(12)))
    refused = [one for one in answers if one.status_code != 200]
    assert refused
    assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {
        (503, "OVERLOADED")
    }
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)


UNSURE = {
    "FALLBACK_ON": "LowConfidence",
    "FALLBACK_MIN_CONFIDENCE": "0.6",
    "FAKE_CONFIDENCE": "0.55",
}


@pytest.mark.parametrize(
    ("confidence", "other", "path", "label", "reason"),
    [
        pytest.param("0.9", {}, "/classify", "small", "LowConfidence", id="a surer fallback"),
        pytest.param("0.51", {}, "/classify", "big", None, id="one that is less sure"),
        pytest.param(
            "0.9", {"FAKE_CONFIDENCE": "0.61"}, "/classify", "big", None, id="sure enough"
        ),
        pytest.param("0.9", {}, "/predict", "small", "LowConfidence", id="with its embedding"),
        pytest.param(
            "0.9",
            {"FALLBACK_EMBEDDING_SPACE": "t"},
            "/predict",
            "big",
            None,
            id="an embedding would be lost",
        ),
        pytest.param(
            "0.9",
            {"FALLBACK_FAKE_FAIL_AFTER_SECONDS": "0"},
            "/classify",
            "big",
            None,
            id="it fails",
        ),
    ],
)
async def test_an_unsure_model_asks_a_surer_one(
    confidence: str, other: dict[str, str], path: str, label: str, reason: str | None
) -> None:
    async with start(SMALL, UNSURE, other, FALLBACK_FAKE_CONFIDENCE=confidence) as rig:
        answer = await rig.client.post(path, content=JPEG, headers=RAW)
    assert (answer.status_code, read_label(answer)) == (200, label)
    assert answer.json().get("fallback_reason") == reason


async def test_confidence_is_only_asked_of_classifications() -> None:
    async with start(SMALL, UNSURE) as rig:
        await rig.client.post("/embed", content=JPEG, headers=RAW)
        asked = await rig.read_metric('sluice_inference_routed_total{model="small/1.4.0"}')
    assert asked == 0


async def test_the_breaker_opens_and_tells_and_the_model_is_left_alone() -> None:
    env = {"BREAKER_ERRORS": "3", "BREAKER_OPEN_S": "3600"}
    async with start(SMALL, BROKEN, env) as rig:
        answers = [await rig.classify() for _ in range(5)]
        state = await rig.read_metric('sluice_inference_breaker_state{model="big/2.0.0"}')
        said = await rig.status()
        asked = await rig.read_metric('sluice_inference_routed_total{model="big/2.0.0"}')
    assert {read_label(one) for one in answers} == {"small"}
    assert (state, asked) == (2, 3)
    assert said["fallback_active"] is True
    assert [(one["part"], one["state"]) for one in said["models"]] == [
        ("primary", "ready"),
        ("fallback", "ready"),
    ]
    assert said["models"][0]["breaker"] == "open"


async def test_a_model_behind_an_open_breaker_is_the_last_resort() -> None:
    env = {"FALLBACK_FAKE_FAIL_AFTER_INPUTS": "5", "FAKE_FAIL_AFTER_INPUTS": "1000000"}
    async with start(SMALL, env) as rig:
        router = rig.context.roster
        assert router is not None
        breaker = router.get_router("primary").breaker
        for _ in range(5):
            ticket = breaker.admit()
            assert ticket is not None
            breaker.settle(ticket, "Error", 0.1)
        labels = [read_label(await rig.classify()) for _ in range(7)]
    assert labels == ["small"] * 5 + ["big"] * 2


def open_breaker(rig: Rig) -> Breaker:
    roster = rig.context.roster
    breaker = roster.get_router("primary").breaker
    for _ in range(5):
        ticket = breaker.admit()
        assert ticket is not None
        breaker.settle(ticket, "Error", 0.1)
    assert breaker.state.name == "OPEN"
    return breaker


async def test_a_fallback_that_hangs_leaves_time_for_the_model() -> None:
    env = {"FAKE_LATENCY_MS": "100", "FALLBACK_FAKE_LATENCY_MS": "2000"}
    async with start(SMALL, env, REQUEST_TIMEOUT_MS="1000") as rig:
        open_breaker(rig)
        answer = await rig.classify()
    assert (answer.status_code, read_label(answer)) == (200, "big")


async def test_a_probe_that_never_met_the_model_says_nothing_of_it() -> None:
    async with start(SMALL, BREAKER_OPEN_S="0.1") as rig:
        breaker = open_breaker(rig)
        await asyncio.sleep(0.11)  # the breaker's clock is the real one here
        corrupt = await rig.client.post("/classify", content=JPEG[:200], headers=RAW)
        state = breaker.state.name
        answer = await rig.classify()
    assert (corrupt.status_code, state) == (422, "OPEN")
    assert (read_label(answer), breaker.state.name) == ("big", "CLOSED")


async def test_an_answer_from_the_cache_does_not_show_that_the_model_is_well() -> None:
    async with start(SMALL, BREAKER_OPEN_S="0.1", CACHE_SIZE_MB="1") as rig:
        await rig.classify()
        breaker = open_breaker(rig)
        await asyncio.sleep(0.11)  # the breaker's clock is the real one here
        known = await rig.classify()
        after_known = breaker.state.name
        fresh = await rig.classify(**{"cache-control": "no-cache"})
    assert (read_label(known), after_known) == ("big", "OPEN")
    assert (read_label(fresh), breaker.state.name) == ("big", "CLOSED")


async def test_inputs_at_fault_do_not_hide_that_the_model_failed_at_the_others() -> None:
    async with start(SMALL, BROKEN, BREAKER_ERRORS="1") as rig:
        names = [("files", ("x", data)) for data in (JPEG[:200], JPEG[:200], JPEG)]
        await rig.client.post("/classify", files=names)
        said = await rig.status()
    assert said["models"][0]["breaker"] == "open"


async def classify_among_own(rig: Rig, **headers: str) -> httpx.Response:
    said = {"labels": ["olive", "tomato"]}
    return await rig.client.post(
        "/classify", files=[("files", ("x", JPEG))], data=said, headers=headers
    )


async def test_labels_of_the_requests_own_have_a_fallback_too() -> None:
    async with start(SMALL, BROKEN) as rig:
        answer = await classify_among_own(rig)
    said = answer.json()
    assert (answer.status_code, said["model"], said["fallback_reason"]) == (200, "small", "Error")
    assert read_label(answer) in ("olive", "tomato")


class _HasNoScale(FakeBackend):
    """The small one can't judge labels of the request's own."""

    def load(self) -> ModelFacts:
        return replace(super().load(), logit_scale=0.0)


@pytest.mark.parametrize(
    ("env", "status", "code"),
    [
        pytest.param(BROKEN, 500, "MODEL_FAILED", id="the model's own error stands"),
        pytest.param({}, 200, "", id="the model itself"),
        pytest.param(UNLOADABLE, 503, "OVERLOADED", id="nobody for now"),
    ],
)
async def test_a_fallback_without_a_scale_judges_no_labels_of_the_requests_own(
    env: dict[str, str], status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(settings: ModelSettings) -> Any:
        return _HasNoScale(settings) if settings.name == "small" else make_backend(settings)

    monkeypatch.setattr("sluice_inference.hosting.make_backend", make)
    async with start(SMALL, env) as rig:
        if status == 200:
            open_breaker(rig)
        answer = await classify_among_own(rig)
    assert answer.status_code == status
    assert answer.headers.get("sluice-model", "big/2.0.0") == "big/2.0.0"
    assert answer.json().get("error", {}).get("code", "") == code
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


class _WithoutScale:
    """Answers as another does, and has lost its scale by then."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer

    @property
    def facts(self) -> ModelFacts | None:
        return self._answerer.facts

    async def answer(self, job: Job) -> Reply:
        reply = await self._answerer.answer(job)
        return replace(reply, facts=replace(reply.facts, logit_scale=0.0))


async def test_who_has_no_scale_in_the_end_does_not_judge_without_one() -> None:
    async with start() as rig:
        rig.context.roster.answerer = _WithoutScale(rig.context.answerer)
        answer = await classify_among_own(rig)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "OVERLOADED")
    assert answer.headers["retry-after"] == "1"


async def test_a_second_model_without_texts_gets_no_labels_of_the_requests_own() -> None:
    tasks = "ImageEmbedding,Classification"
    async with start(SECOND, AB_PERCENT="100", AB_MODEL_TASKS=tasks) as rig:
        answer = await classify_among_own(rig, **{"sluice-key": "x"})
    assert (answer.status_code, answer.headers["sluice-model"]) == (200, "big/2.0.0")


async def test_a_model_that_can_not_be_loaded_is_stood_in_for() -> None:
    async with start(SMALL, UNLOADABLE) as rig:
        ready = await rig.client.get("/ready")
        health = await rig.client.get("/health")
        answer = await rig.classify()
        embedded = await rig.client.post("/embed", content=JPEG, headers=RAW)
        shadow = await rig.classify(**{"sluice-shadow": "true"})
        said = await rig.status()
        active = await rig.read_metric("sluice_inference_fallback_active")
    assert (ready.status_code, health.status_code) == (200, 200)
    assert (answer.status_code, read_label(answer)) == (200, "small")
    assert answer.json()["fallback_reason"] == "Error"
    assert (embedded.status_code, embedded.json()["model"]) == (200, "small")
    assert (shadow.status_code, shadow.headers["retry-after"]) == (503, "1")
    assert said["models"][0]["state"] == "failed"
    assert (said["fallback_active"], active) == (True, 1)
    assert rig.ends == []


async def test_a_task_that_only_the_lost_model_has_is_refused_for_now() -> None:
    env = {
        "MODEL_TASKS": "ImageEmbedding,Classification",
        "FALLBACK_MODEL_TASKS": "Classification",
    }
    async with start(SMALL, UNLOADABLE, env) as rig:
        embedded = await rig.client.post("/embed", content=JPEG, headers=RAW)
        labelled = await rig.classify()
    assert (embedded.status_code, embedded.headers["retry-after"]) == (503, "1")
    assert labelled.status_code == 200


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"FALLBACK_ON": "Overload,Timeout"}, id="not asked to stand in"),
        pytest.param({"FALLBACK_BACKEND": "onnx"}, id="a fallback that can't be loaded either"),
    ],
)
async def test_where_nobody_stands_in_the_process_ends(env: dict[str, str]) -> None:
    async with start(SMALL, UNLOADABLE, env) as rig:
        health = await rig.client.get("/health")
    assert len(rig.ends) == 1
    assert "/nowhere" in rig.ends[0]
    assert health.status_code == 503


async def test_a_fallback_that_can_not_be_loaded_takes_nothing_down() -> None:
    async with start(SMALL, FALLBACK_BACKEND="onnx") as rig:
        answer, health, said = (
            await rig.classify(),
            await rig.client.get("/health"),
            await rig.status(),
        )
    assert (answer.status_code, read_label(answer), health.status_code) == (200, "big", 200)
    assert [one["state"] for one in said["models"]] == ["ready", "failed"]
    assert rig.ends == []


async def test_equal_keys_meet_the_same_model_and_no_key_meets_the_first() -> None:
    async with start(SECOND, AB_PERCENT="30") as rig:
        for number in range(60):
            key = f"client-{number}"
            want = "second" if find_place(key) < 3000 else "big"
            seen = {read_label(await rig.classify(**{"sluice-key": key})) for _ in range(2)}
            assert seen == {want}, key
        assert read_label(await rig.classify()) == "big"


@pytest.mark.parametrize(
    ("percent", "label"),
    [pytest.param("0", "big", id="nobody"), pytest.param("100", "second", id="everybody")],
)
async def test_the_ends_of_a_split_are_exact(percent: str, label: str) -> None:
    async with start(SECOND, AB_PERCENT=percent) as rig:
        answers = [await rig.classify(**{"sluice-key": str(number)}) for number in range(20)]
    assert {read_label(one) for one in answers} == {label}


async def test_an_answer_of_the_second_model_is_no_fallback_but_named() -> None:
    async with start(SECOND, AB_PERCENT="100") as rig:
        answer = await rig.classify(**{"sluice-key": "x"})
        samples = (await rig.client.get("/metrics/rollout")).text
    assert answer.headers["sluice-model"] == "big/3.0.0"
    assert "sluice-fallback-reason" not in answer.headers
    assert 'sluice_inference_answers_total{outcome="ok"} 1' in samples


async def test_a_second_model_that_is_missing_leaves_its_share_to_the_first() -> None:
    async with start(SECOND, AB_PERCENT="100", AB_BACKEND="onnx") as rig:
        answer = await rig.classify(**{"sluice-key": "x"})
        health = await rig.client.get("/health")
    assert (read_label(answer), health.status_code) == ("big", 200)


async def test_a_second_model_that_ends_leaves_what_waited_to_the_first() -> None:
    env = {"AB_PERCENT": "100", "AB_FAKE_LATENCY_MS": "300", "AB_BATCH_SIZE": "1"}
    async with start(SECOND, env) as rig:
        roster = rig.context.roster
        second = roster.list_local()[1].engine
        waiting = [
            asyncio.create_task(rig.classify(**{"sluice-key": str(number)})) for number in range(6)
        ]
        async with asyncio.timeout(5):
            while second.queued < 2:  # noqa: ASYNC110 - a queue has no event for this
                await asyncio.sleep(0.001)
        await asyncio.to_thread(second.close, 0.01)
        answers = await asyncio.gather(*waiting)
    assert {one.status_code for one in answers} == {200}
    assert "big" in {read_label(one) for one in answers}


async def test_a_pair_of_two_spaces_is_not_served() -> None:
    async with start(SECOND, EMBEDDING_SPACE="", AB_EMBEDDING_SPACE="t") as rig:
        pass
    assert len(rig.ends) == 1
    assert "'t' (8)" in rig.ends[0]


async def test_the_second_model_has_the_same_fallback() -> None:
    env = {"AB_PERCENT": "100", "AB_FAKE_FAIL_AFTER_SECONDS": "0"}
    async with start(SECOND, SMALL, env) as rig:
        answer = await rig.classify(**{"sluice-key": "x"})
    assert (read_label(answer), answer.json()["fallback_reason"]) == ("small", "Error")


async def test_under_load_a_half_broken_model_costs_nobody_an_answer() -> None:
    env = {"FAKE_ERROR_PERCENT": "40", "FAKE_LATENCY_MS": "2", "FALLBACK_FAKE_LATENCY_MS": "1"}
    async with start(SMALL, env, BREAKER_OPEN_S="0.1") as rig:
        answers = await asyncio.gather(*(rig.classify() for _ in range(200)))
    assert Counter(one.status_code for one in answers) == {200: 200}
    assert {read_label(one) for one in answers} == {"big", "small"}


def make_job(count: int, *, is_whole: bool = False) -> Job:
    deadline = asyncio.get_running_loop().time() + 10
    return Job([JPEG] * count, deadline, tasks=("Classification",), is_whole=is_whole)


@pytest.mark.parametrize(
    ("env", "model", "failed"),
    [
        pytest.param({}, "small", 0, id="all of it from the fallback"),
        pytest.param(
            {"FALLBACK_FAKE_FAIL_AFTER_INPUTS": "2", "FALLBACK_BATCH_SIZE": "1"},
            "big",
            1,
            id="or none of it, where it fails as well",
        ),
    ],
)
async def test_an_answer_with_room_for_one_model_is_one_models(
    env: dict[str, str], model: str, failed: int
) -> None:
    async with start(SMALL, env, FAKE_FAIL_AFTER_INPUTS="2", BATCH_SIZE="1") as rig:
        reply = await rig.context.answerer.answer(make_job(3, is_whole=True))
    assert (reply.model.name, dict(reply.others)) == (model, {})
    assert sum(isinstance(one, RequestError) for one in reply.outcomes) == failed


async def test_a_client_that_leaves_does_not_use_up_the_probe() -> None:
    env = {"FAKE_LATENCY_MS": "200", "BREAKER_OPEN_S": "0.1", "FAKE_FAIL_AFTER_INPUTS": "1000000"}
    async with start(SMALL, env) as rig:
        roster = rig.context.roster
        breaker = roster.get_router("primary").breaker
        for _ in range(5):
            ticket = breaker.admit()
            assert ticket is not None
            breaker.settle(ticket, "Error", 0.1)
        await asyncio.sleep(0.11)  # the breaker's clock is the real one here
        probe = asyncio.create_task(rig.context.answerer.answer(make_job(1)))
        await asyncio.sleep(0.02)
        assert breaker.state.name == "HALF_OPEN"
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        reply = await rig.context.answerer.answer(make_job(1))
    assert reply.model.name == "big"
    assert breaker.state.name == "CLOSED"


class _LosesItsDevice(FakeBackend):
    """Loses its GPU while it loads, or at the first run."""

    loads = True

    def load(self) -> ModelFacts:
        if not self.loads:
            raise NoDeviceError("no GPU")
        return super().load()

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class _NeverHasADevice(_LosesItsDevice):
    loads = False


@pytest.mark.parametrize(
    ("backend", "reasons"),
    [
        pytest.param(_NeverHasADevice, ["NoGPU", "NoGPU"], id="none from the start"),
        # The first one was in the model's hands; only then is it known what the matter is.
        pytest.param(_LosesItsDevice, ["Error", "NoGPU"], id="one that is lost at work"),
    ],
)
async def test_without_its_gpu_a_model_is_stood_in_for(
    backend: type[FakeBackend], reasons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(settings: ModelSettings) -> FakeBackend:
        return (backend if settings.name == "big" else FakeBackend)(settings)

    monkeypatch.setattr("sluice_inference.hosting.make_backend", make)
    async with start(SMALL) as rig:
        answers = [await rig.classify() for _ in reasons]
        ready, health = await rig.client.get("/ready"), await rig.client.get("/health")
    assert [one.json().get("fallback_reason") for one in answers] == reasons
    assert (ready.status_code, health.status_code, rig.ends) == (200, 200, [])


async def test_each_model_tells_of_its_own_queue_and_batches() -> None:
    async with start(SMALL, BROKEN) as rig:
        await rig.client.post("/classify", content=JPEG, headers=RAW)
        told = (await rig.client.get("/metrics")).text.splitlines()
    assert 'sluice_inference_batch_size_count{model="small/1.4.0"} 1.0' in told
    assert 'sluice_inference_poison_total{model="big/2.0.0"} 1.0' in told
    assert {line for line in told if line.startswith("sluice_inference_queue_items")} == {
        'sluice_inference_queue_items{model="big/2.0.0"} 0.0',
        'sluice_inference_queue_items{model="small/1.4.0"} 0.0',
    }
