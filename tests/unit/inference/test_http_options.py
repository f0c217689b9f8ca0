"""Options of our own routes, wherever a request may say them: the query, a form's fields, JSON."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.unit.inference.test_http import JPEG, start

FILE = {"file": ("x", JPEG)}
B64 = base64.b64encode(JPEG).decode()


@pytest.mark.parametrize("path", ["/classify", "/predict", "/predict/batch"])
async def test_a_form_says_how_many_labels_are_wanted(path: str) -> None:
    async with start() as client:
        answer = await client.post(f"{path}?top_k=2", files=FILE, data={"top_k": "1"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"][0]["top"]) == 1


@pytest.mark.parametrize("path", ["/embed", "/predict"])
async def test_a_form_says_how_embeddings_are_written(path: str) -> None:
    async with start() as client:
        answer = await client.post(path, files=FILE, data={"encoding": "base64"})
    assert answer.status_code == 200, answer.text
    assert len(base64.b64decode(answer.json()["embeddings"][0])) == 4 * 8


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        pytest.param("/classify", {"top_k": "0"}, "QUERY_INVALID", id="a bad count"),
        pytest.param("/embed", {"encoding": "hex"}, "QUERY_INVALID", id="a bad encoding"),
        pytest.param("/embed", {"top_k": "1"}, "BODY_INVALID", id="another route's option"),
        pytest.param("/predict", {"quality": "true"}, "BODY_INVALID", id="quality"),
    ],
)
async def test_a_forms_fields_are_checked(path: str, data: dict[str, str], code: str) -> None:
    async with start() as client:
        answer = await client.post(path, files=FILE, data=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_form_has_room_for_all_options_beside_all_labels() -> None:
    data: dict[str, Any] = {
        "labels": [f"label {index}" for index in range(100)],
        "template": "a {}",
        "top_k": "100",
    }
    async with start(MAX_IMAGES="1") as client:
        answer = await client.post("/classify", files=FILE, data=data)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"][0]["top"]) == 100


async def test_a_query_asks_what_json_does_not() -> None:
    two = {"inputs": [{"image": B64}, {"image": B64, "question": "mine"}]}
    async with start(MODEL_TASKS="VisualQuestionAnswering") as client:

        async def ask(questions: list[str], body: dict[str, Any] = two) -> Any:
            return await client.post("/vqa", params={"question": questions}, json=body)

        expected = await ask(
            [], {"inputs": [{"image": B64, "question": one} for one in ("a", "mine")]}
        )
        one_for_all, one_for_each = await ask(["a"]), await ask(["a", "b"])
        too_many, none = await ask(["a", "b", "c"]), await ask([])
    assert expected.status_code == one_for_all.status_code == 200, one_for_all.text
    assert one_for_all.json() == one_for_each.json() == expected.json()
    assert (too_many.status_code, none.status_code) == (400, 400)
    assert "3 questions for 2 images" in too_many.json()["error"]["message"]


async def test_the_document_tells_of_a_forms_fields() -> None:
    async with start() as client:
        document = (await client.get("/openapi.json")).json()
    form = document["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(form["schema"]["properties"]) == {"files", "top_k", "encoding"}
