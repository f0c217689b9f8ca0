"""Every protocol over the test double: what its clients get, and how they are refused."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.inference.test_http import JPEG, PNG, RAW, start

B64, B64_PNG = base64.b64encode(JPEG).decode(), base64.b64encode(PNG).decode()
BAD = base64.b64encode(JPEG[:300]).decode()
INFER = "/v2/models/pizza/infer"
PREDICT = "/v1/models/pizza:predict"


def tensor(name: str, data: list[str]) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data}


def read_tensors(answer: httpx.Response) -> dict[str, Any]:
    return {one["name"]: one for one in answer.json()["outputs"]}


async def embed(client: httpx.AsyncClient, *inputs: dict[str, str]) -> np.ndarray[Any, Any]:
    said = (await client.post("/embed", json={"inputs": inputs})).json()
    return np.asarray(said["embeddings"], dtype=np.float32)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("/embed", {"encoding": "base64"}, id="in the body"),
        pytest.param("/embed?encoding=base64", {}, id="in the query"),
        pytest.param("/api/v1/embed?encoding=float", {"encoding": "base64"}, id="the body counts"),
    ],
)
async def test_embeddings_come_in_base64_as_well(path: str, more: dict[str, str]) -> None:
    async with start() as client:
        expected = await embed(client, {"text": "olive"})
        answer = await client.post(path, json={"inputs": [{"text": "olive"}], **more})
    packed = base64.b64decode(answer.json()["embeddings"][0])
    assert np.array_equal(np.frombuffer(packed, dtype="<f4"), expected[0])


async def test_classes_of_the_requests_own_are_scored_by_their_texts() -> None:
    labels = ["olive", "tomato", "basil"]
    async with start() as client:
        answer = await client.post(
            "/classify?top_k=3",
            json={"inputs": [{"image": B64}], "labels": labels, "template": "there is {} here"},
        )
        form = await client.post(
            "/classify",
            files={"file": ("x", JPEG)},
            data={"labels": labels, "template": "there is {} here"},
        )
        texts = [{"text": f"there is {label} here"} for label in labels]
        image, *classes = await embed(client, {"image": B64}, *texts)
    (prediction,) = answer.json()["predictions"]
    powers = np.exp(10.0 * (np.stack(classes) @ image))  # the double's scale
    expected = dict(zip(labels, powers / powers.sum(), strict=True))
    scores = {one["label"]: one["score"] for one in prediction["top"]}
    assert scores == pytest.approx(expected, abs=1e-5)
    assert prediction["label"] == max(expected, key=lambda label: expected[label])
    assert form.json()["predictions"] == answer.json()["predictions"]


@pytest.mark.parametrize(
    ("tasks", "body", "status", "code"),
    [
        pytest.param("Classification", {"labels": ["a"]}, 404, "TASK_NOT_SERVED", id="no texts"),
        pytest.param("ImageEmbedding,TextEmbedding", {}, 404, "TASK_NOT_SERVED", id="no labels"),
        pytest.param("", {"labels": []}, 400, "BODY_INVALID", id="an empty list"),
        pytest.param("", {"labels": ["a"] * 101}, 400, "BODY_INVALID", id="too many"),
        pytest.param("", {"labels": ["a"], "template": "x"}, 400, "BODY_INVALID", id="template"),
        pytest.param("", {"labels": [" " * 9000]}, 400, "BODY_INVALID", id="a long label"),
    ],
)
async def test_classes_that_can_not_be_used(
    tasks: str, body: dict[str, Any], status: int, code: str
) -> None:
    async with start(MODEL_TASKS=tasks) as client:
        answer = await client.post("/classify", json={"inputs": [{"image": B64}], **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_similarity_is_the_cosine_of_pairs_or_of_a_query_with_each() -> None:
    image, olive, basil = {"image": B64}, {"text": "olive"}, {"text": "basil"}
    async with start() as client:
        pairs = await client.post("/similarity", json={"pairs": [[image, olive], [olive, olive]]})
        each = await client.post("/similarity", json={"query": image, "inputs": [olive, basil]})
        vectors = await embed(client, image, olive, basil)
    cosines = vectors @ vectors.T
    assert pairs.json()["similarities"] == pytest.approx([cosines[0, 1], 1.0], abs=1e-6)
    assert each.json()["similarities"] == pytest.approx(cosines[0, 1:].tolist(), abs=1e-6)
    assert each.headers["sluice-embedding-space"] == each.json()["space"] == "pizza-1"


async def test_a_pair_that_fails_leaves_the_others() -> None:
    olive, bad = {"text": "olive"}, {"image": BAD}
    async with start() as client:
        answer = await client.post("/similarity", json={"pairs": [[olive, bad], [olive, olive]]})
        empty = await client.post("/similarity", json={"pairs": []})
        both = await client.post(
            "/similarity", json={"pairs": [[olive, olive]], "query": olive, "inputs": [olive]}
        )
    first, second = answer.json()["similarities"]
    assert (first["index"], first["error"]["code"], second) == (0, "IMAGE_CORRUPT", 1.0)
    assert (empty.status_code, both.status_code) == (400, 400)


@pytest.mark.parametrize(
    ("path", "task"),
    [
        pytest.param("/caption", "Captioning", id="caption"),
        pytest.param("/vqa", "VisualQuestionAnswering", id="vqa"),
        pytest.param("/ocr", "OCR", id="ocr"),
    ],
)
async def test_pictures_are_answered_in_words_whatever_the_body(path: str, task: str) -> None:
    question = "how many olives?"
    async with start(MODEL_TASKS=task) as client:
        form = await client.post(path, files={"file": ("x", JPEG)}, data={"question": question})
        asked = {"image": B64, "question": question}
        listed = await client.post(path, json={"inputs": [asked, {**asked, "image": BAD}]})
        raw = await client.post(path, content=JPEG, headers=RAW, params={"question": question})
    assert form.json()["answers"] == raw.json()["answers"] == listed.json()["answers"][:1]
    assert form.json()["answers"][0]["text"].startswith(task)
    assert listed.json()["answers"][1]["error"]["code"] == "IMAGE_CORRUPT"
    assert "sluice-embedding-space" not in form.headers


@pytest.mark.parametrize(
    ("path", "data", "status", "code"),
    [
        pytest.param("/vqa", {}, 400, "BODY_INVALID", id="no question"),
        pytest.param("/vqa", {"question": ["a", "b", "c"]}, 400, "BODY_INVALID", id="too many"),
        pytest.param("/vqa", {"other": "a"}, 400, "BODY_INVALID", id="another field"),
        pytest.param("/vqa", {"question": "a" * 9000}, 422, "ALL_INPUTS_FAILED", id="too long"),
        pytest.param("/ocr", {}, 404, "TASK_NOT_SERVED", id="another task"),
    ],
)
async def test_questions_that_can_not_be_answered(
    path: str, data: dict[str, Any], status: int, code: str
) -> None:
    files = [("files", ("x", JPEG)), ("files", ("y", PNG))]
    async with start(MODEL_TASKS="VisualQuestionAnswering") as client:
        answer = await client.post(path, files=files, data=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_v2_answers_in_json() -> None:
    async with start() as client:
        answer = await client.post(
            INFER, json={"id": "7", "inputs": [tensor("IMAGE", [B64]), tensor("TEXT", ["olive"])]}
        )
        expected = await embed(client, {"image": B64}, {"text": "olive"})
    said, found = answer.json(), read_tensors(answer)
    assert (said["model_name"], said["model_version"], said["id"]) == ("pizza", "1.0.0", "7")
    assert found["image_embeds"]["data"] == pytest.approx(expected[0].tolist())
    assert found["text_embeds"]["data"] == pytest.approx(expected[1].tolist())
    assert found["labels"] == {
        "name": "labels",
        "shape": [1],
        "datatype": "BYTES",
        "data": ["fake"],
    }
    assert found["probs"]["shape"] == [1, 2]
    assert answer.headers["sluice-embedding-space"] == "pizza-1"
    assert answer.headers["sluice-model"] == "pizza/1.0.0"


async def test_v2_takes_a_bare_image_and_binary_and_gives_binary() -> None:
    blob = struct.pack("<I", len(JPEG)) + JPEG
    image = {
        "name": "IMAGE",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    outputs = [{"name": "image_embeds"}]
    head = json.dumps(
        {"inputs": [image], "outputs": outputs, "parameters": {"binary_data_output": True}}
    ).encode()
    async with start() as client:
        bare = await client.post(
            INFER, content=JPEG, headers={"inference-header-content-length": "0"}
        )
        binary = await client.post(
            "/v2/models/pizza/versions/1.0.0/infer",
            content=head + blob,
            headers={"inference-header-content-length": str(len(head))},
        )
    assert binary.headers["content-type"] == "application/octet-stream"
    size = int(binary.headers["inference-header-content-length"])
    (told,) = json.loads(binary.content[:size])["outputs"]
    assert told["parameters"] == {"binary_data_size": 8 * 4}
    found = np.frombuffer(binary.content[size:], dtype="<f4")
    assert found.tolist() == pytest.approx(read_tensors(bare)["image_embeds"]["data"])


async def test_v2_tells_of_server_and_model() -> None:
    async with start(MODEL_TASKS="ImageEmbedding,Classification") as client:
        server, live, ready, names, model, model_ready = [
            (await client.get(f"/v2{path}")).json()
            for path in (
                "",
                "/health/live",
                "/health/ready",
                "/models",
                "/models/pizza",
                "/models/pizza/versions/1.0.0/ready",
            )
        ]
    assert server["extensions"] == ["binary_tensor_data", "classification"]
    assert (live, ready, names) == ({"live": True}, {"ready": True}, {"models": ["pizza"]})
    assert model_ready == {"name": "pizza", "ready": True}
    assert model["inputs"] == [{"name": "IMAGE", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in model["outputs"]] == ["image_embeds", "probs", "labels"]


async def test_nothing_is_ready_before_the_model_is() -> None:
    async with start(wait=False) as client:
        answers = [
            await client.get(path)
            for path in ("/v2/health/ready", "/v2/models/pizza/ready", "/v1/models/pizza")
        ]
        infer = await client.post(INFER, json={"inputs": [tensor("TEXT", ["a"])]})
        live = await client.get("/v2/health/live")
    for answer in (*answers, infer):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert live.status_code == 200


async def test_v1_keeps_the_order_and_tells_of_the_bad_instance() -> None:
    instances = [{"b64": B64}, {"b64": BAD}, {"text": "olive"}, "olive"]
    async with start() as client:
        answer = await client.post(PREDICT, json={"instances": instances})
        image, text = await embed(client, {"image": B64}, {"text": "olive"})
    first, second, third, fourth = answer.json()["predictions"]
    assert (first["label"], first["embedding"]) == ("fake", pytest.approx(image.tolist()))
    assert second == {"error": second["error"]}
    assert second["error"].startswith("IMAGE_CORRUPT: ")
    assert third == fourth == {"embedding": pytest.approx(text.tolist())}


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_openai_embeds_texts_and_images(encoding: str) -> None:
    inputs = ["olive", f"data:image/jpeg;base64,{B64}"]
    body = {"model": "pizza", "input": inputs, "encoding_format": encoding}
    async with start() as client:
        answer = await client.post("/v1/embeddings", json=body)
        expected = await embed(client, {"text": "olive"}, {"image": B64})
    said = answer.json()
    found = [one["embedding"] for one in said["data"]]
    if encoding == "base64":
        found = [np.frombuffer(base64.b64decode(one), dtype="<f4") for one in found]
    assert np.allclose(np.asarray(found, dtype=np.float32), expected)
    assert [one["index"] for one in said["data"]] == [0, 1]
    assert (said["object"], said["data"][0]["object"]) == ("list", "embedding")
    assert said["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert answer.headers["sluice-embedding-space"] == "pizza-1"


async def test_models_are_listed_for_both_kinds_of_clients() -> None:
    async with start() as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/pizza")).json()
    assert listed["models"] == ["pizza"]
    assert listed["data"] == [one]
    assert (one["id"], one["object"], one["name"], one["ready"]) == (
        "pizza",
        "model",
        "pizza",
        True,
    )


def post(path: str, body: Any) -> tuple[str, str, Any]:
    return "POST", path, body


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        pytest.param(("GET", "/v2/models/other", None), 404, "MODEL_NOT_FOUND", id="v2 model"),
        pytest.param(
            ("GET", "/v2/models/pizza/versions/2/ready", None), 404, "MODEL_NOT_FOUND", id="version"
        ),
        pytest.param(("GET", "/v2/nothing", None), 404, "NOT_FOUND", id="v2 route"),
        pytest.param(("GET", INFER, None), 405, "METHOD_NOT_ALLOWED", id="v2 method"),
        pytest.param(post(INFER, {"inputs": []}), 400, "BODY_INVALID", id="v2 no input"),
        pytest.param(
            post(INFER, {"inputs": [tensor("IMAGE", [])]}), 400, "BODY_INVALID", id="v2 empty input"
        ),
        pytest.param(
            post(INFER, {"inputs": [tensor("OTHER", ["a"])]}), 400, "BODY_INVALID", id="v2 input"
        ),
        pytest.param(
            post(INFER, {"inputs": [tensor("IMAGE", ["http://x/y"])]}),
            400,
            "BODY_INVALID",
            id="v2 URL",
        ),
        pytest.param(
            post(INFER, {"inputs": [tensor("IMAGE", [BAD])]}), 422, "IMAGE_CORRUPT", id="v2 image"
        ),
        pytest.param(
            post(INFER, {"inputs": [tensor("IMAGE", ["eA=="] * 11)]}),
            413,
            "TOO_MANY_INPUTS",
            id="v2 eleven",
        ),
        pytest.param(
            post(INFER, {"inputs": [tensor("TEXT", ["a"])], "outputs": [{"name": "probs"}]}),
            400,
            "BODY_INVALID",
            id="v2 output",
        ),
        pytest.param(post("/v1/models/other:predict", {}), 404, "MODEL_NOT_FOUND", id="v1 model"),
        pytest.param(post(PREDICT, {"instances": []}), 400, "BODY_INVALID", id="v1 no instance"),
        pytest.param(post(PREDICT, {"instances": [{}]}), 400, "BODY_INVALID", id="v1 instance"),
        pytest.param(
            post("/v1/embeddings", {"model": "m", "input": "a"}),
            404,
            "model_not_found",
            id="openai model",
        ),
        pytest.param(
            post("/v1/embeddings", {"model": "pizza", "input": "a", "dimensions": 4}),
            400,
            "body_invalid",
            id="openai dimensions",
        ),
        pytest.param(
            post("/v1/embeddings", {"model": "pizza", "input": []}),
            400,
            "body_invalid",
            id="openai no input",
        ),
        pytest.param(("GET", "/v1/nothing", None), 404, "not_found", id="openai route"),
    ],
)
async def test_every_dialect_refuses_in_its_own_words(
    asked: tuple[str, str, Any], status: int, code: str
) -> None:
    method, path, body = asked
    async with start() as client:
        answer = await client.request(method, path, json=body)
    error = answer.json()["error"]
    found = error["code"] if isinstance(error, dict) else error.partition(": ")[0]
    assert (answer.status_code, found) == (status, code)
    assert isinstance(error, dict) == (path.startswith("/v1/") and ":" not in path)
    assert answer.headers["sluice-revision"] == "abc123"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(INFER, {"inputs": [tensor("TEXT", ["a"])]}, id="v2"),
        pytest.param(PREDICT, {"instances": ["a", "b"]}, id="v1"),
        pytest.param("/v1/embeddings", {"model": "pizza", "input": ["a"]}, id="openai"),
        pytest.param("/similarity", {"pairs": [[{"text": "a"}, {"text": "b"}]]}, id="similarity"),
    ],
)
async def test_a_failing_model_is_a_500_and_counts_for_rollouts(path: str, body: Any) -> None:
    async with start(FAKE_ERROR_PERCENT="100") as client:
        answer = await client.post(path, json=body)
        samples = (await client.get("/metrics/rollout")).text
    assert answer.status_code == 500
    assert 'sluice_inference_answers_total{outcome="error"} 1' in samples.splitlines()


PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "binary_data_output"]),
    st.one_of(st.integers(-2, 300), st.booleans(), st.text(max_size=3)),
    max_size=2,
)
OUTPUTS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["image_embeds", "probs", "labels", "text_embeds", "x"])},
        optional={"parameters": PARAMETERS},
    ),
    max_size=3,
)
ELEMENTS = {
    "IMAGE": st.sampled_from([JPEG, JPEG, PNG, JPEG[:300], b""]),
    "TEXT": st.sampled_from([b"olive", "ü".encode(), b" ", b"\xff", b"\x00"]),
    "X": st.binary(max_size=3),
}


@st.composite
def infer_requests(draw: st.DrawFn) -> tuple[bytes, str]:
    """A body and its header: right, or wrong in a place or two."""
    tensors, blob = [], b""
    names = st.sampled_from(["IMAGE", "IMAGE", "TEXT", "TEXT", "X"])
    for name in draw(st.lists(names, min_size=1, max_size=2, unique=True)):
        elements = draw(st.lists(ELEMENTS[name], min_size=1, max_size=3))
        made: dict[str, Any] = {"name": name, "shape": [len(elements)], "datatype": "BYTES"}
        if draw(st.booleans()):
            packed = b"".join(struct.pack("<I", len(one)) + one for one in elements)
            size = len(packed) + draw(st.sampled_from([0] * 8 + [-1, 1, 1 << 40]))
            made["parameters"] = {"binary_data_size": size}
            blob += packed
        elif name == "IMAGE":
            made["data"] = [base64.b64encode(one).decode() for one in elements]
        else:
            made["data"] = [one.decode("latin-1") for one in elements]
        if draw(st.sampled_from([False] * 8 + [True])):
            made["shape"] = draw(st.lists(st.integers(-1, 1 << 62), max_size=3))
        tensors.append(made)
    body: dict[str, Any] = {"inputs": tensors}
    for key, values in (
        ("outputs", OUTPUTS),
        ("id", st.text(max_size=3)),
        ("parameters", PARAMETERS),
    ):
        if draw(st.sampled_from([False, False, True])):
            body[key] = draw(values)
    head = json.dumps(body).encode()
    size = len(head) + draw(st.sampled_from([0] * 10 + [-1, 1]))
    return head + blob + draw(st.sampled_from([b""] * 10 + [b"x"])), str(size)


@pytest.fixture
async def fuzzed() -> Any:
    async with start(FAKE_IMAGE_SIZE="8") as client:
        yield client


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=infer_requests())
async def test_no_v2_body_is_a_500(fuzzed: httpx.AsyncClient, made: tuple[bytes, str]) -> None:
    body, size = made
    answer = await fuzzed.post(
        INFER, content=body, headers={"inference-header-content-length": size}
    )
    assert answer.status_code in (200, 400, 413, 415, 422), answer.text
