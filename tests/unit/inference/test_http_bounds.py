"""What one body may cost before it is refused: elements without number, codecs, text that is no Unicode."""

from __future__ import annotations

import base64
import json
import threading
import time
import tracemalloc
from typing import Any

import msgspec
import pytest

from sluice_inference.errors import RequestError
from sluice_inference.http.inputs import add_questions, check_texts
from sluice_inference.protocols import asked as codec
from tests.unit.inference.test_http import JPEG, start

_MIB = 1 << 20
_JSON = {"content-type": "application/json"}
INFER = "/v2/models/pizza/infer"
PREDICT = "/v1/models/pizza:predict"


def fill(head: str, element: bytes, tail: str, size: int = 20 * _MIB) -> bytes:
    """A body of `size` bytes of elements between `head` and `tail`."""
    count = size // (len(element) + 1)
    return head.encode() + b",".join([element] * count) + tail.encode()


_TENSOR = '{"inputs":[{"name":"TEXT","shape":[1],"datatype":"BYTES","data":['


@pytest.mark.parametrize(
    ("path", "head", "element", "tail"),
    [
        pytest.param("/embed", '{"inputs":[', b"{}", "]}", id="embed"),
        pytest.param("/embed", '{"inputs":[', b"0", "]}", id="embed, of another type"),
        pytest.param("/similarity", '{"pairs":[', b"[{},{}]", "]}", id="similarity"),
        pytest.param(PREDICT, '{"instances":[', b"{}", "]}", id="v1"),
        pytest.param("/v1/embeddings", '{"model":"pizza","input":[', b"{}", "]}", id="openai"),
        pytest.param(INFER, _TENSOR, b'""', "]}]}", id="v2"),
    ],
)
async def test_elements_without_number_are_refused_before_they_become_objects(
    path: str, head: str, element: bytes, tail: str
) -> None:
    body = fill(head, element, tail)
    async with start() as client:
        started = time.process_time()
        answer = await client.post(path, content=body, headers=_JSON)
        took_s = time.process_time() - started  # of all threads, whatever else the machine does
        tracemalloc.start()
        try:
            await client.post(path, content=body, headers=_JSON)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (answer.status_code, "TOO_MANY_INPUTS" in answer.text.upper()) == (413, True)
    assert took_s < 1
    assert peak < 3 * len(body)  # the body in pieces and as one, and hardly anything else


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/embed", fill('{"inputs":[', b"{}", "]}", 300_000), id="embed"),
        pytest.param("/similarity", fill('{"pairs":[', b"[{},{}]", "]}", 300_000), id="similarity"),
        pytest.param(PREDICT, fill('{"instances":[', b"{}", "]}", 300_000), id="v1"),
        pytest.param(
            "/v1/embeddings",
            fill('{"model":"pizza","input":[', b"{}", "]}", 300_000),
            id="openai",
        ),
        pytest.param(
            INFER,
            _TENSOR.replace("[1]", "[100000]").encode() + b",".join([b'""'] * 100_000) + b"]}]}",
            id="v2",
        ),
    ],
)
async def test_nothing_is_made_of_more_inputs_than_a_request_may_have(
    monkeypatch: pytest.MonkeyPatch, path: str, body: bytes
) -> None:
    made: list[str] = []

    class CountedError(RequestError):
        def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
            made.append(code)
            super().__init__(status, code, message, **more)

    for module in ("protocols.asked", "protocols.kserve", "protocols.openai", "http.inputs"):
        monkeypatch.setattr(f"sluice_inference.{module}.RequestError", CountedError)
    async with start() as client:
        answer = await client.post(path, content=body, headers=_JSON)
    assert (answer.status_code, made) == (413, ["TOO_MANY_INPUTS"])


async def test_v2s_binary_elements_are_counted_before_they_are_cut() -> None:
    blob = bytes(4 * 100_000)
    tensor = {
        "name": "TEXT",
        "shape": [100_000],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    async with start() as client:
        answer = await client.post(INFER, content=head + blob, headers=headers)
    assert (answer.status_code, answer.json()["error"][:15]) == (413, "TOO_MANY_INPUTS")


_DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/embed", '{"inputs":[{"image":%s', id="embed"),
        pytest.param("/predict", '{"inputs":[{"image":%s', id="predict"),
        pytest.param("/classify", '{"inputs":[{"image":%s', id="classify"),
        pytest.param("/similarity", '{"pairs":[[{"image":%s', id="similarity"),
        pytest.param(PREDICT, '{"instances":[{"b64":%s', id="v1"),
        pytest.param(PREDICT, '{"more":%s', id="v1, beside the instances"),
        pytest.param("/v1/embeddings", '{"model":"pizza","more":%s', id="openai"),
        pytest.param(INFER, _TENSOR + "%s", id="v2, data"),
        pytest.param(INFER, '{"more":%s', id="v2, beside the inputs"),
    ],
)
async def test_json_of_endless_depth_is_refused_in_every_dialect(path: str, body: str) -> None:
    async with start() as client:
        answer = await client.post(path, content=body % _DEEP, headers=_JSON)
    assert (answer.status_code, "BODY_INVALID" in answer.text.upper()) == (400, True), answer.text
    assert "the JSON is nested too deep; wanted is" in answer.text


async def test_v2_gives_an_output_once_however_often_it_is_asked_for() -> None:
    tensor = {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    body = {"inputs": [tensor], "outputs": [{"name": "text_embeds"}] * 100_000}
    async with start() as client:
        answer = await client.post(INFER, json=body)
    expected = {"error": "BODY_INVALID: output 'text_embeds' is there twice"}
    assert (answer.status_code, answer.json()) == (400, expected)


async def test_commas_in_texts_and_in_binary_are_no_inputs() -> None:
    texts = [{"text": "," * 8192}] * 128
    image = base64.b64encode(JPEG).decode()
    blob = b"," * 2 * _MIB
    tensor = {
        "name": "IMAGE",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob) + 4},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    async with start() as client:
        answer = await client.post("/embed", json={"inputs": [*texts, {"image": image}]})
        binary = await client.post(
            INFER, content=head + len(blob).to_bytes(4, "little") + blob, headers=headers
        )
    assert answer.status_code == 200
    assert binary.status_code == 415, binary.text  # it was read, and is no picture


@pytest.mark.parametrize(
    ("charset", "status"),
    [
        pytest.param("undefined", 415, id="a codec that always fails"),
        pytest.param("idna", 415, id="a codec that fails in its own way"),
        pytest.param("unicode_escape", 415, id="a codec that makes surrogates"),
        pytest.param("latin-1", 415, id="another charset"),
        pytest.param("nothing", 415, id="no charset at all"),
        pytest.param("UTF-8", 200, id="utf-8"),
        pytest.param('"us-ascii"', 200, id="ascii, quoted"),
    ],
)
async def test_a_form_is_utf8(charset: str, status: int) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n\\ud800..a\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="p"\r\n\r\n' + JPEG
    ) + b"\r\n--x--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    async with start() as client:
        answer = await client.post("/classify", content=body, headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"
        assert "utf-8 and us-ascii" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/embed", '{"inputs":[{"text":"%s"}]}', id="embed"),
        pytest.param("/similarity", '{"pairs":[[{"text":"%s"},{"text":"a"}]]}', id="similarity"),
        pytest.param(
            "/classify", '{"inputs":[{"image":"eA=="}],"labels":["%s","b"]}', id="a label"
        ),
        pytest.param("/v1/embeddings", '{"model":"pizza","input":["%s"]}', id="openai"),
        pytest.param("/v1/embeddings", '{"model":"%s","input":["a"]}', id="openai's model"),
        pytest.param(PREDICT, '{"instances":["%s"]}', id="v1"),
        pytest.param(INFER, _TENSOR + '"%s"]}]}', id="v2"),
        pytest.param(INFER, '{"id":"%s","inputs":[]}', id="v2's id"),
    ],
)
@pytest.mark.parametrize(
    "text",
    [r"\ud800", r"\udc00", r"a\ud800b", r"\ud800\u0041 and more text", r"\ud800\ud800", "\udced"],
)
async def test_half_a_surrogate_pair_is_no_500(path: str, body: str, text: str) -> None:
    async with start() as client:
        content = (body % text).encode("utf-8", "surrogatepass")
        answer = await client.post(path, content=content, headers=_JSON)
    assert answer.status_code in (400, 422), answer.text


def test_text_that_is_no_unicode_is_refused_whatever_read_it() -> None:
    (text,) = check_texts(["a\ud800"])
    (question,) = add_questions([JPEG], ["a\ud800"], "OCR")
    for one in (text, question):
        assert isinstance(one, RequestError)
        assert (one.status, one.code) == (422, "TEXT_INVALID")


async def test_v2s_images_are_decoded_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def decode(data: bytes, **more: Any) -> bytes:
        seen.append(threading.current_thread() is threading.main_thread())
        return base64.b64decode(data, **more)

    monkeypatch.setattr(
        "sluice_inference.http.routes_v2.base64", type("", (), {"b64decode": staticmethod(decode)})
    )
    image = base64.b64encode(JPEG + bytes(_MIB)).decode()
    tensor = {"name": "IMAGE", "shape": [1], "datatype": "BYTES", "data": [image]}
    async with start() as client:
        answer = await client.post(INFER, json={"inputs": [tensor]})
    assert (answer.status_code, seen) == (200, [False])


def test_json_is_bounded_by_what_its_inputs_can_say() -> None:
    decoder = msgspec.json.Decoder(list[str])
    one_text = json.dumps(["," * codec.MAX_TEXT]).encode()
    assert codec.decode_json(decoder, one_text, 1, "a list") == ["," * codec.MAX_TEXT]
    with pytest.raises(RequestError, match="more commas") as caught:
        codec.decode_json(decoder, one_text + b"," * 65, 1, "a list")
    assert (caught.value.status, caught.value.code) == (413, "TOO_MANY_INPUTS")
    assert codec.decode_json(decoder, b"[]" + b"," * 9000, 1, "a list", 2) == []
