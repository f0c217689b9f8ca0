"""The codecs of others' protocols: what they read, what they refuse, and that they never fail otherwise."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_inference.errors import RequestError
from sluice_inference.protocols import kserve, openai, v2
from sluice_inference.protocols.asked import SimilarityRequest, decode_request
from sluice_inference.protocols.native import encode_vector

B64 = base64.b64encode(b"picture").decode()
MOST = 138  # inputs of a request, as the limits are by default


def pack(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def make_infer(tensors: list[dict[str, Any]], blob: bytes = b"", **more: Any) -> tuple[bytes, str]:
    """A binary body and its header."""
    head = json.dumps({"inputs": tensors, **more}).encode()
    return head + blob, str(len(head))


def tensor(name: str = "IMAGE", shape: Any = (1,), datatype: str = "BYTES", **more: Any) -> Any:
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def sized(size: Any, **more: Any) -> Any:
    return tensor(parameters={"binary_data_size": size}, **more)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        pytest.param([3], ["a", "b", "ü"], id="flat"),
        pytest.param([3, 1], [["a"], ["b"], ["ü"]], id="nested"),
        pytest.param([3, 1], ["a", "b", "ü"], id="flat by a nested shape"),
    ],
)
def test_data_is_flat_or_nested(shape: list[int], data: Any) -> None:
    body, _ = make_infer([tensor("TEXT", shape, data=data)], id="mine")
    asked = v2.decode_request(body, None, MOST)
    assert asked.inputs == {"TEXT": [b"a", b"b", "ü".encode()]}
    assert (asked.id, asked.is_binary) == ("mine", {"TEXT": False})


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.text(max_size=9), max_size=4))
def test_binary_and_json_inputs_stand_beside_each_other(
    images: list[bytes], texts: list[str]
) -> None:
    blob = pack(*images)
    body, header = make_infer(
        [
            tensor("TEXT", [len(texts)], data=texts),
            sized(len(blob), shape=[len(images)]),
        ],
        blob,
    )
    asked = v2.decode_request(body, header, MOST)
    assert asked.inputs["IMAGE"] == images
    assert asked.inputs["TEXT"] == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("given_body", "says"),
    [
        pytest.param((b"{", None), "wanted is", id="broken JSON"),
        pytest.param((b"[]", None), "wanted is", id="no object"),
        pytest.param((b"\xff\xfe", None), "wanted is", id="no UTF-8"),
        pytest.param((b"{}", "3"), "Inference-Header", id="a header longer than the body"),
        pytest.param((b"{}", "-1"), "Inference-Header", id="a negative header"),
        pytest.param((b"{}", "²"), "Inference-Header", id="a header of other digits"),
        pytest.param((b"{}", "1" * 5000), "Inference-Header", id="a header of 5,000 digits"),
        pytest.param(make_infer([tensor(datatype="FP32", data=["a"])]), "BYTES", id="datatype"),
        pytest.param(make_infer([tensor(shape=[], data=["a"])]), "shape", id="no shape"),
        pytest.param(make_infer([tensor(shape=[-1], data=["a"])]), "shape", id="a negative side"),
        pytest.param(make_infer([tensor(shape=[2], data=["a"])]), "1 elements", id="too few"),
        pytest.param(make_infer([tensor(shape=[MOST], data=[])]), "0 elements", id="none there"),
        pytest.param(make_infer([tensor(data=[1])]), "strings", id="numbers as data"),
        pytest.param(make_infer([tensor(data={"a": 1})]), "strings", id="an object as data"),
        pytest.param(make_infer([tensor()]), "neither data", id="no data"),
        pytest.param(make_infer([tensor(data=["a"])] * 2), "twice", id="an input twice"),
        pytest.param(
            make_infer([tensor(data=["a"])], outputs=[{"name": "probs"}] * 2),
            "output 'probs' is there twice",
            id="an output twice",
        ),
        pytest.param(make_infer([sized(9)], b"\1\0\0\0a"), "bytes are left", id="size beyond"),
        pytest.param(make_infer([sized(-1)]), "bytes are left", id="a negative size"),
        pytest.param(make_infer([sized(True)]), "number of bytes", id="true as size"),
        pytest.param(make_infer([sized("5")]), "number of bytes", id="a text as size"),
        pytest.param(make_infer([sized(5, data=["a"])], pack(b"a")), "both", id="data and size"),
        pytest.param(make_infer([sized(3)], b"abc"), "each its length", id="no element"),
        pytest.param(
            make_infer([sized(5)], b"\xff\xff\xff\xffa"), "each its length", id="an element beyond"
        ),
        pytest.param(
            make_infer([sized(10)], pack(b"a", b"b")), "each its length", id="an element too many"
        ),
        pytest.param(make_infer([sized(5)], pack(b"a") + b"x"), "follow", id="bytes left over"),
    ],
)
def test_a_bad_tensor_is_told_what_is_wrong(given_body: tuple[bytes, str], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        v2.decode_request(*given_body, MOST)
    assert (caught.value.status, caught.value.code) == (400, "BODY_INVALID")


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param([tensor(shape=[1 << 62] * 8, data=[])], id="a vast shape"),
        pytest.param([tensor(shape=[MOST + 1], data=[])], id="one too many"),
        pytest.param(
            [tensor("TEXT", data=["a"]), tensor(shape=[MOST], data=["a"] * MOST)], id="in all"
        ),
    ],
)
def test_more_elements_than_a_request_may_have_are_not_read(tensors: list[Any]) -> None:
    with pytest.raises(RequestError, match=f"at most {MOST} inputs") as caught:
        v2.decode_request(*make_infer(tensors), MOST)
    assert (caught.value.status, caught.value.code) == (413, "TOO_MANY_INPUTS")


NUMBERS = st.one_of(st.integers(-3, 40), st.just(1 << 70), st.booleans(), st.text(max_size=2))
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["IMAGE", "TEXT", "OTHER", "\x00"]),
        "shape": st.lists(NUMBERS, max_size=3),
        "datatype": st.sampled_from(["BYTES", "FP32", "", "BYTES\ud800"]),
    },
    optional={
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "other"]), NUMBERS, max_size=2
        ),
        "data": st.recursive(
            st.one_of(st.none(), NUMBERS, st.text(max_size=3)), st.lists, max_leaves=5
        ),
    },
)


@settings(max_examples=100)
@given(st.lists(TENSORS, max_size=3), st.binary(max_size=60), st.integers(-5, 400), st.booleans())
def test_no_binary_body_makes_the_codec_fail(
    tensors: list[Any], blob: bytes, offset: int, is_exact: bool
) -> None:
    head = json.dumps({"inputs": tensors}).encode()
    header = str(len(head) if is_exact else offset)
    with contextlib.suppress(RequestError):
        asked = v2.decode_request(head + blob, header, MOST)
        assert set(asked.inputs) <= {"IMAGE", "TEXT", "OTHER", "\x00"}


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_no_bytes_make_a_codec_fail(body: bytes) -> None:
    for decode in (
        kserve.decode_request,
        openai.decode_request,
        lambda data, most: decode_request(data, SimilarityRequest, most),
        lambda data, most: v2.decode_request(data, None, most),
    ):
        with pytest.raises(RequestError):
            decode(body, MOST)  # type: ignore[operator]


def test_outputs_go_out_in_json_in_binary_and_as_classification() -> None:
    probs = np.asarray([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    made = [v2.Made("probs", probs), v2.Made("labels", ["b", "ü"]), v2.Made("probs", probs)]
    wanted = [
        v2.Wanted("probs", {"binary_data": False}),
        None,
        v2.Wanted("probs", {"classification": 1}),
    ]
    body, size = v2.encode_answer(
        "pizza", "1.0.0", "mine", made, wanted, is_binary=True, labels=["a", "b"]
    )
    assert size is not None
    head = json.loads(body[:size])
    plain, labels, best = head["outputs"]
    assert (head["id"], plain["data"]) == ("mine", [0.25, 0.75, 0.5, 0.5])
    assert (labels["datatype"], labels["shape"]) == ("BYTES", [2])
    assert (best["datatype"], best["shape"]) == ("BYTES", [2, 1])
    first = pack(b"b", "ü".encode())
    assert labels["parameters"]["binary_data_size"] == len(first)
    assert body[size:] == first + pack(b"0.750000:1:b", b"0.500000:0:a")


@pytest.mark.parametrize("top", [0, -1, True, "1", 1.5])
def test_a_classification_needs_a_count(top: Any) -> None:
    made = [v2.Made("probs", np.ones((1, 2), dtype=np.float32))]
    with pytest.raises(RequestError, match="classification is a count"):
        v2.encode_answer(
            "m",
            "1",
            "",
            made,
            [v2.Wanted("probs", {"classification": top})],
            is_binary=False,
            labels=["a", "b"],
        )


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param({"input": "a text"}, ["a text"], id="one text"),
        pytest.param({"input": ["a", "b"]}, ["a", "b"], id="texts"),
        pytest.param(
            {"input": [f"data:image/jpeg;base64,{B64}", "a"]}, [b"picture", "a"], id="NV-CLIP"
        ),
        pytest.param({"input": [B64], "modality": "image"}, [b"picture"], id="infinity"),
        pytest.param({"input": [{"image": B64}, {"text": "a"}]}, [b"picture", "a"], id="Jina"),
        pytest.param(
            {"input": ["http://x/y"], "modality": "text"}, ["http://x/y"], id="a URL meant as text"
        ),
    ],
)
def test_embeddings_are_asked_in_several_dialects(body: dict[str, Any], found: list[Any]) -> None:
    _, inputs = openai.decode_request(json.dumps({"model": "m", **body}).encode(), MOST)
    assert inputs == found


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param({"input": [1, 2]}, r"input\[0\] has tokens", id="tokens"),
        pytest.param({"input": [1] * 500}, r"input\[0\] has tokens", id="many tokens"),
        pytest.param({"input": [[1, 2], [3]]}, r"input\[0\] has tokens", id="lists of tokens"),
        pytest.param({"input": "http://x/cat.jpg"}, "URLs are not fetched", id="a URL"),
        pytest.param(
            {"input": ["file:///etc/passwd"], "modality": "image"}, "not fetched", id="a file's URL"
        ),
        pytest.param({"input": [{"image": "https://x"}]}, "not fetched", id="a URL in an object"),
        pytest.param({"input": ["data:image/png;base64,!"]}, "no image in base64", id="no base64"),
        pytest.param({"input": [{}]}, "either image or text", id="nothing in an object"),
        pytest.param({"input": 3}, "wanted is", id="a number"),
        pytest.param({"input": "a", "encoding_format": "int8"}, "encoding_format", id="encoding"),
    ],
)
def test_bad_embeddings_requests_are_told_what_is_wrong(body: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        openai.decode_request(json.dumps({"model": "m", **body}).encode(), MOST)


def test_instances_are_images_and_texts() -> None:
    instances = [{"b64": B64}, {"image": {"b64": B64}}, {"text": "a"}, "b", {}]
    found = kserve.decode_request(json.dumps({"instances": instances}).encode(), MOST)
    assert found[:4] == [b"picture", b"picture", "a", "b"]
    assert isinstance(found[4], RequestError)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_a_vector_survives_both_encodings(values: list[float]) -> None:
    vector = np.asarray(values, dtype=np.float32)
    packed = encode_vector(vector, "base64")
    assert isinstance(packed, bytes)
    assert np.array_equal(np.frombuffer(packed, dtype="<f4"), vector)
    listed = json.loads(msgspec.json.encode(encode_vector(vector, "float")))
    assert np.array_equal(np.asarray(listed, dtype=np.float32), vector)
