"""The HTTP surface over the test double: bodies, errors, limits, stamps, probes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from sluice_inference.engine.backend import Kind
from sluice_inference.engine.engine import Engine
from sluice_inference.errors import RequestError
from sluice_inference.http.budget import BodyBudget
from sluice_inference.http.versions import VERSIONS, ApiVersion
from sluice_inference.lifecycle import State
from sluice_inference.protocols.asked import EmbedRequest, decode_request
from tests.serving import serve


def make_picture(kind: str = "JPEG", side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG = make_picture(), make_picture("PNG")
LARGE = make_picture(side=256)
RAW = {"content-type": "image/jpeg"}


@asynccontextmanager
async def start(
    wait: bool = True, versions: Sequence[ApiVersion] = VERSIONS, **env: str
) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its engine running; the client carries `context` for the tests."""
    async with serve(waits=wait, versions=versions, **env) as served, served.connect() as client:
        client.context = served.context  # type: ignore[attr-defined]
        yield client


def occupy_queue(client: httpx.AsyncClient) -> AbstractContextManager[object]:
    """One place of the queue is taken, as by a picture that is being decoded."""
    engine: Engine = client.context.engine  # type: ignore[attr-defined]
    return engine.announce({Kind.IMAGE: 1})


def body_of(**inputs: str) -> bytes:
    return json.dumps({"inputs": [inputs]}).encode()


async def test_an_image_gets_an_embedding_of_length_one() -> None:
    async with start() as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
    said = answer.json()
    assert answer.status_code == 200
    assert (said["model"], said["version"], said["space"]) == ("pizza", "1.0.0", "pizza-1")
    assert said["dimension"] == len(said["embeddings"][0]) == 8
    assert sum(value * value for value in said["embeddings"][0]) == pytest.approx(1, abs=1e-6)
    assert answer.headers["sluice-revision"] == "abc123"
    assert answer.headers["sluice-model"] == "pizza/1.0.0"
    assert answer.headers["sluice-embedding-space"] == "pizza-1"
    assert "connection" not in answer.headers


async def test_an_image_gets_labels_best_first() -> None:
    async with start(FAKE_LABEL="olive-left") as client:
        answer = await client.post("/classify?top_k=2", content=PNG, headers=RAW)
    (prediction,) = answer.json()["predictions"]
    assert prediction["label"] == "olive-left"
    assert [one["label"] for one in prediction["top"]] == ["olive-left", "other"]
    assert prediction["score"] == prediction["top"][0]["score"] > prediction["top"][1]["score"]
    assert "embeddings" not in answer.json()
    assert "sluice-embedding-space" not in answer.headers


async def test_predict_gives_both() -> None:
    async with start() as client:
        said = (await client.post("/predict", content=JPEG, headers=RAW)).json()
    assert len(said["embeddings"]) == len(said["predictions"]) == 1


async def test_a_form_takes_several_images_and_tells_of_the_bad_one() -> None:
    files = [("files", JPEG), ("files", JPEG[:300]), ("file", PNG)]
    async with start() as client:
        answer = await client.post("/classify", files=[(name, ("x", data)) for name, data in files])
    first, second, third = answer.json()["predictions"]
    assert answer.status_code == 200
    assert first["label"] == third["label"] == "fake"
    assert (second["index"], second["error"]["code"]) == (1, "IMAGE_CORRUPT")


async def test_json_takes_images_and_texts_together() -> None:
    image = base64.b64encode(JPEG).decode()
    inputs = [{"image": image}, {"text": "olive left of tomato"}, {"image": image}]
    async with start() as client:
        answer = await client.post("/embed", json={"inputs": inputs})
    first, second, third = answer.json()["embeddings"]
    assert first == third != second


@pytest.mark.parametrize(
    ("path", "content", "media_type", "status", "code"),
    [
        pytest.param("/embed", JPEG[:300], "image/jpeg", 422, "IMAGE_CORRUPT", id="half a JPEG"),
        pytest.param("/embed", b"", "image/png", 422, "IMAGE_CORRUPT", id="nothing"),
        pytest.param("/embed", b"x", "image/webp", 415, "UNSUPPORTED_MEDIA_TYPE", id="type"),
        pytest.param(
            "/embed", b"GIF89a", "image/jpeg", 415, "UNSUPPORTED_MEDIA_TYPE", id="a GIF as JPEG"
        ),
        pytest.param(
            "/embed", b"\xff\xd8" * 80_000, "image/jpeg", 413, "IMAGE_TOO_LARGE", id="bytes"
        ),
        pytest.param(
            "/embed", make_picture("PNG", 300), "image/png", 413, "IMAGE_TOO_LARGE", id="pixels"
        ),
        pytest.param("/embed", b"{", "application/json", 400, "BODY_INVALID", id="broken JSON"),
        pytest.param(
            "/embed", b'{"inputs":[]}', "application/json", 400, "BODY_INVALID", id="no input"
        ),
        pytest.param(
            "/embed", body_of(image="!!"), "application/json", 400, "BODY_INVALID", id="not base64"
        ),
        pytest.param(
            "/embed", body_of(url="http://x"), "application/json", 400, "BODY_INVALID", id="a URL"
        ),
        pytest.param(
            "/embed", body_of(text=" "), "application/json", 422, "TEXT_INVALID", id="blank text"
        ),
        pytest.param(
            "/embed",
            json.dumps({"inputs": [{"image": "eA=="}] * 11}).encode(),
            "application/json",
            413,
            "TOO_MANY_INPUTS",
            id="eleven images",
        ),
        pytest.param(
            "/embed",
            json.dumps({"inputs": [{"text": "x"}] * 129}).encode(),
            "application/json",
            413,
            "TOO_MANY_INPUTS",
            id="129 texts",
        ),
        pytest.param(
            "/classify", body_of(text="x"), "application/json", 400, "BODY_INVALID", id="text here"
        ),
        pytest.param(
            "/embed", b"--x", "multipart/form-data; boundary=y", 400, "BODY_INVALID", id="bad form"
        ),
        pytest.param("/embed?top_k=0", JPEG, "image/jpeg", 400, "QUERY_INVALID", id="top_k 0"),
        pytest.param(
            "/embed?top_k=000001999", JPEG, "image/jpeg", 400, "QUERY_INVALID", id="top_k in zeros"
        ),
        pytest.param(
            "/embed?top_k=000001" + "1" * 5000,
            JPEG,
            "image/jpeg",
            400,
            "QUERY_INVALID",
            id="top_k of 5,000 digits",
        ),
        pytest.param("/nothing", JPEG, "image/jpeg", 404, "NOT_FOUND", id="no such route"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    path: str, content: bytes, media_type: str, status: int, code: str
) -> None:
    async with start(MAX_IMAGE_MB="0.1", MAX_PIXELS="10000") as client:
        headers = {"content-type": media_type, "x-request-id": "mine-1"}
        answer = await client.post(path, content=content, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert len(error["message"]) > 20
    assert answer.headers["sluice-revision"] == "abc123"


async def test_when_all_inputs_fail_the_answer_is_an_error_with_each_reason() -> None:
    files = [("files", ("x", JPEG[:300])), ("files", ("y", b"hello"))]
    async with start() as client:
        answer = await client.post("/classify", files=files)
    said = answer.json()
    assert (answer.status_code, said["error"]["code"]) == (422, "ALL_INPUTS_FAILED")
    codes = [item["error"]["code"] for item in said["items"]]
    assert codes == ["IMAGE_CORRUPT", "UNSUPPORTED_MEDIA_TYPE"]


@pytest.mark.parametrize(
    ("tasks", "path", "content", "media_type"),
    [
        pytest.param("ImageEmbedding", "/classify", JPEG, "image/jpeg", id="no classifier"),
        pytest.param("Classification", "/embed", JPEG, "image/jpeg", id="no embeddings"),
        pytest.param("TextEmbedding", "/embed", JPEG, "image/jpeg", id="texts only"),
        pytest.param("ImageEmbedding", "/embed", body_of(text="x"), "application/json", id="text"),
    ],
)
async def test_a_task_of_another_version_is_not_served_here(
    tasks: str, path: str, content: bytes, media_type: str
) -> None:
    async with start(MODEL_TASKS=tasks) as client:
        answer = await client.post(path, content=content, headers={"content-type": media_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "TASK_NOT_SERVED")
    assert tasks in answer.json()["error"]["message"]


async def test_predict_gives_what_the_version_has() -> None:
    async with start(MODEL_TASKS="Classification") as client:
        said = (await client.post("/predict", content=JPEG, headers=RAW)).json()
    assert "predictions" in said
    assert "embeddings" not in said


async def test_a_failing_model_is_a_500_of_its_own_kind() -> None:
    async with start(FAKE_ERROR_PERCENT="100") as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
        health = await client.get("/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "MODEL_FAILED")
    assert health.status_code == 200


async def test_a_slow_model_is_a_504() -> None:
    async with start(FAKE_LATENCY_MS="400", REQUEST_TIMEOUT_MS="50") as client:
        answer = await client.post("/embed", content=JPEG, headers=RAW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "TIMEOUT")


async def test_before_the_model_is_ready_nothing_is_answered_but_probes() -> None:
    async with start(wait=False) as client:
        answers = {path: await client.get(path) for path in ("/health", "/ready", "/status")}
        answer = await client.post("/embed", content=JPEG, headers=RAW)
    assert [answers[path].status_code for path in answers] == [200, 503, 200]
    assert answers["/status"].json()["state"] == "starting"
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NOT_READY")
    assert answer.headers["retry-after"] == "1"


async def test_while_draining_requests_are_answered_and_connections_closed() -> None:
    async with start() as client:
        lifecycle: Any = client.context.lifecycle  # type: ignore[attr-defined]
        lifecycle.enter(State.DRAINING)
        ready = await client.get("/ready")
        answer = await client.post("/embed", content=JPEG, headers=RAW)
    assert (ready.status_code, answer.status_code) == (503, 200)
    assert answer.headers["connection"] == ready.headers["connection"] == "close"


async def test_a_full_house_turns_requests_away_but_not_probes() -> None:
    async with start(MAX_CONCURRENT_REQUESTS="2", FAKE_LATENCY_MS="100") as client:
        posts = [client.post("/embed", content=JPEG, headers=RAW) for _ in range(6)]
        answers = await asyncio.gather(*posts, client.get("/ready"))
    codes = sorted(answer.status_code for answer in answers[:-1])
    assert codes == [200, 200, 503, 503, 503, 503]
    assert answers[-1].status_code == 200
    turned_away = next(answer for answer in answers if answer.status_code == 503)
    assert turned_away.json()["error"]["code"] == "OVERLOADED"
    assert int(turned_away.headers["retry-after"]) >= 1


async def test_a_full_queue_is_a_503() -> None:
    inputs = {"inputs": [{"text": "x"}] * 4}
    async with start(QUEUE_MAX_ITEMS="3") as client:
        with occupy_queue(client):
            answer = await client.post("/embed", json=inputs)
        alone = await client.post("/embed", json=inputs)
    assert alone.status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "OVERLOADED")
    assert int(answer.headers["retry-after"]) >= 1


async def test_of_images_and_texts_all_enter_the_queue_or_none() -> None:
    image = {"image": base64.b64encode(JPEG).decode()}
    inputs = {"inputs": [image, image, {"text": "x"}, {"text": "y"}]}
    async with start(QUEUE_MAX_ITEMS="4") as client:
        with occupy_queue(client):
            answer = await client.post("/embed", json=inputs)
        next_one = await client.post("/embed", json={"inputs": [{"text": "x"}]})
        metrics = (await client.get("/metrics")).text
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "OVERLOADED")
    assert next_one.status_code == 200
    assert 'sluice_inference_batch_size_sum{model="pizza/1.0.0"} 1.0' in metrics.splitlines()


async def stream_picture() -> AsyncIterator[bytes]:
    """A body of unknown length."""
    for start_at in range(0, len(LARGE), 100):
        yield LARGE[start_at : start_at + 100]


@pytest.mark.parametrize(
    "make_content",
    [
        pytest.param(lambda: LARGE, id="a declared length"),
        pytest.param(stream_picture, id="counted as it comes"),
    ],
)
async def test_bodies_over_the_bound_on_all_of_them_are_turned_away(
    make_content: Callable[[], Any],
) -> None:
    async with start(MAX_BODY_MB_IN_FLIGHT="0.001") as client:
        budget: BodyBudget = client.context.budget  # type: ignore[attr-defined]
        assert budget.limit < len(LARGE)
        assert budget.take(50, 0)
        refused = await client.post("/embed", content=make_content(), headers=RAW)
        ready = await client.get("/ready")
        held_after = budget.held
        budget.give_back(50)
        alone = await client.post("/embed", content=make_content(), headers=RAW)
        metrics = (await client.get("/metrics")).text
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
    assert "MAX_BODY_MB_IN_FLIGHT" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert ready.status_code == 200
    assert (held_after, budget.held) == (50, 0)
    assert alone.status_code == 200, "a request that is alone is taken, whatever its size"
    assert 'rejected_total{reason="body_bytes"} 1.0' in metrics


@pytest.mark.parametrize(
    ("texts", "is_off"),
    [pytest.param(1, False, id="a small body"), pytest.param(300, True, id="a large body")],
)
async def test_large_json_is_decoded_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, texts: int, is_off: bool
) -> None:
    seen: list[bool] = []

    def decode(body: bytes, kind: type[EmbedRequest], most: int) -> Any:
        seen.append(threading.current_thread() is not threading.main_thread())
        return decode_request(body, kind, most)

    monkeypatch.setattr("sluice_inference.http.inputs.decode_request", decode)
    async with start(MAX_TEXTS="1000", QUEUE_MAX_ITEMS="1000") as client:
        answer = await client.post("/embed", json={"inputs": [{"text": "x" * 4000}] * texts})
    assert (answer.status_code, seen) == (200, [is_off])


def test_a_bad_image_in_json_is_named_by_its_place() -> None:
    body = json.dumps({"inputs": [{"text": "x"}, {"image": "!!"}]}).encode()
    with pytest.raises(RequestError, match=r"\$\.inputs\[1\]\.image is no base64"):
        decode_request(body, EmbedRequest, 138)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("x" * 200, id="too long"),
        pytest.param("a b", id="a space"),
        pytest.param('"}', id="quotes"),
    ],
)
async def test_a_harmful_request_id_is_replaced(given: str) -> None:
    async with start() as client:
        answer = await client.get("/health", headers={"x-request-id": given})
    assert len(answer.headers["x-request-id"]) == 32


async def test_status_names_the_test_double_and_metrics_count() -> None:
    async with start(MODEL_DIGEST="sha256:1") as client:
        await client.post("/embed", content=JPEG, headers=RAW)
        await client.post("/embed", content=b"no", headers=RAW)
        status = (await client.get("/status")).json()
        metrics = (await client.get("/metrics")).text
    assert (status["backend"], status["state"], status["digest"]) == ("fake", "ready", "sha256:1")
    assert status["embedding"] == {"space": "pizza-1", "dimension": 8}
    for line in (
        'sluice_inference_requests_total{code="200",model="pizza/1.0.0",route="/embed"} 1.0',
        'sluice_inference_requests_total{code="415",model="pizza/1.0.0",route="/embed"} 1.0',
        'sluice_inference_item_errors_total{code="UNSUPPORTED_MEDIA_TYPE"} 1.0',
        'sluice_inference_batch_size_count{model="pizza/1.0.0"} 1.0',
        'sluice_inference_queue_items{model="pizza/1.0.0"} 0.0',
    ):
        assert line in metrics.splitlines()
    for stage in ("read", "decode", "queue", "run", "encode"):
        assert f'stage_seconds_count{{stage="{stage}"}}' in metrics
