"""The Open Inference Protocol, version 2, REST: tensors in JSON and in its binary extension. Pure; no I/O.

Knows tensors, not what a model makes of them. A binary body is JSON and then the tensors' bytes, in the
order of their inputs, little-endian and row-major; an element of BYTES is its length in 4 bytes and itself.
https://github.com/kserve/open-inference-protocol, and Triton's `extension_binary_data` and
`extension_classification`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RequestError
from sluice_inference.protocols.asked import check_bound, decode_json

HEADER = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data", "classification"]
Parameter = bool | int | float | str
Elements = list[bytes]
_LENGTH = struct.Struct("<I")


class Tensor(msgspec.Struct, frozen=True):
    """An input. `data` is nested or flat; absent where it follows in binary."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Wanted(msgspec.Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Parameter] = {}


class InferRequest(msgspec.Struct, frozen=True):
    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...] | None = None
    id: str = ""
    parameters: dict[str, Parameter] = {}


class OutputTensor(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Parameter] = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""


class TensorMetadata(msgspec.Struct, frozen=True):
    """-1 is a dimension of any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: list[str]


class Live(msgspec.Struct, frozen=True):
    live: bool


class Ready(msgspec.Struct, frozen=True):
    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    name: str
    ready: bool


class ModelNames(msgspec.Struct, frozen=True):
    models: list[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A decoded request: the elements of each input by its name, and what it wants back.

    Elements from JSON are the UTF-8 of its strings; `is_binary` says which inputs are bytes as they are.
    """

    id: str
    inputs: dict[str, Elements]
    is_binary: dict[str, bool]
    outputs: tuple[Wanted, ...] | None
    is_binary_wanted: bool


@dataclass(frozen=True, slots=True)
class Made:
    """One output: float32 [N, …], or texts [N] as BYTES."""

    name: str
    values: NDArray[np.float32] | Sequence[str]


_DECODER = msgspec.json.Decoder(InferRequest)
_WANTED = (
    '{"inputs":[{"name":"IMAGE","shape":[1],"datatype":"BYTES","data":["<base64>"]}]}, or its binary '
    "form with header Inference-Header-Content-Length"
)


def decode_request(body: bytes, header: str | None, most: int) -> Asked:
    """A request, by the length of its JSON as the header says; None: all of it is JSON.

    Raises RequestError 400 BODY_INVALID, 413 TOO_MANY_INPUTS for more than `most` elements in all. Only
    BYTES can be an input here: images and texts.
    """
    size = len(body) if header is None else _read_size(header, len(body))
    asked = decode_json(_DECODER, body, most, _WANTED, size)
    _check_outputs(asked.outputs or ())
    inputs: dict[str, Elements] = {}
    elements = 0
    is_binary: dict[str, bool] = {}
    position = size
    for tensor in asked.inputs:
        if tensor.name in inputs:
            raise _make_invalid(f"input {tensor.name[:64]!r} is there twice")
        count = _count_elements(tensor)
        elements += count
        check_bound(elements, most)
        length = tensor.parameters.get("binary_data_size")
        is_binary[tensor.name] = length is not None
        if length is None:
            inputs[tensor.name] = _read_json(tensor, count)
            continue
        if isinstance(length, bool) or not isinstance(length, int):
            raise _make_invalid(f"{_name(tensor)}: binary_data_size is a number of bytes")
        if not isinstance(tensor.data, msgspec.UnsetType):
            raise _make_invalid(f"{_name(tensor)} has both data and binary_data_size")
        if not 0 <= length <= len(body) - position:
            raise _make_invalid(
                f"{_name(tensor)}: binary_data_size is {length}, and {len(body) - position} bytes are "
                "left in the body"
            )
        inputs[tensor.name] = _read_elements(body[position : position + length], count, tensor)
        position += length
    if position != len(body):
        raise _make_invalid(f"{len(body) - position} bytes follow the last binary input")
    is_wanted = asked.parameters.get("binary_data_output") is True
    return Asked(asked.id, inputs, is_binary, asked.outputs, is_wanted)


def _check_outputs(outputs: Sequence[Wanted]) -> None:
    """Each output is a tensor of its own: named without number, one request would fill the memory."""
    names: set[str] = set()
    for wanted in outputs:
        if wanted.name in names:
            raise _make_invalid(f"output {wanted.name[:64]!r} is there twice")
        names.add(wanted.name)


def _read_size(header: str, most: int) -> int:
    if not header.isascii() or not header.isdigit() or len(header) > 20 or int(header) > most:
        raise _make_invalid(
            f"Inference-Header-Content-Length is the length of the JSON, from 1 to the body's {most} "
            "bytes; 0 for a body that is one bare image"
        )
    return int(header)


def _count_elements(tensor: Tensor) -> int:
    """How many elements the shape says. [N] and [N, 1] are both N images or texts."""
    if tensor.datatype != "BYTES":
        raise _make_invalid(
            f"{_name(tensor)} is {tensor.datatype[:16]}; images and texts are BYTES"
        )
    if not tensor.shape or any(side < 0 for side in tensor.shape) or len(tensor.shape) > 8:
        raise _make_invalid(f"{_name(tensor)}: shape is [N] or [N, 1], N being a count")
    return math.prod(tensor.shape)


def _read_json(tensor: Tensor, count: int) -> Elements:
    if isinstance(tensor.data, msgspec.UnsetType):
        raise _make_invalid(f"{_name(tensor)} has neither data nor binary_data_size")
    try:
        texts = list(_flatten(msgspec.json.decode(tensor.data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _make_invalid(f"{_name(tensor)}: data is no list of strings") from error
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise _make_invalid(
            f"{_name(tensor)}: data has {len(texts)} elements, and its shape has {count}; wanted is a "
            "list of so many strings"
        )
    return [text.encode("utf-8", "replace") for text in texts]


def _flatten(data: Any) -> Sequence[Any]:
    """Nested lists as one. Anything but a list is one element."""
    if not isinstance(data, list):
        return [data]
    flat: list[Any] = []
    waiting = data[::-1]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one[::-1]
        else:
            flat.append(one)
    return flat


def _read_elements(data: bytes, count: int, tensor: Tensor) -> Elements:
    """`count` elements of BYTES, which take up all of `data`."""
    found: Elements = []
    position = 0
    while len(found) < count and position + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += 4
        if length > len(data) - position:
            break
        found.append(data[position : position + length])
        position += length
    if len(found) != count or position != len(data):
        raise _make_invalid(
            f"{_name(tensor)}: its {len(data)} bytes are not {count} elements, each its length in 4 "
            "bytes (little-endian) and itself"
        )
    return found


def encode_answer(
    name: str,
    version: str,
    asked_id: str,
    made: Sequence[Made],
    wanted: Sequence[Wanted | None],
    *,
    is_binary: bool,
    labels: Sequence[str],
) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON where bytes follow it, else None.

    `wanted` stands beside each of `made`. `labels` name the columns of an output that is asked for as a
    classification: its best k as texts, "score:index:label".
    """
    tensors: list[OutputTensor] = []
    blobs: list[bytes] = []
    for one, want in zip(made, wanted, strict=True):
        parameters = want.parameters if want is not None else {}
        top = parameters.get("classification")
        values: NDArray[Any] | Sequence[str] = one.values
        if isinstance(one.values, np.ndarray):
            shape = list(one.values.shape)
            if top is not None:
                values, shape = _classify(one, top, labels)
        else:
            shape = [len(one.values)]
        datatype = "FP32" if isinstance(values, np.ndarray) else "BYTES"
        if parameters.get("binary_data", is_binary) is True:
            blob = _encode_blob(values)
            blobs.append(blob)
            size: dict[str, Parameter] = {"binary_data_size": len(blob)}
            tensors.append(OutputTensor(one.name, shape, datatype, size))
        else:
            flat = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
            tensors.append(OutputTensor(one.name, shape, datatype, data=flat))
    head = msgspec.json.encode(InferAnswer(name, version, tensors, asked_id))
    return b"".join([head, *blobs]), len(head) if blobs else None


def _classify(one: Made, top: Parameter, labels: Sequence[str]) -> tuple[Sequence[str], list[int]]:
    """The best `top` of each row. Raises RequestError 400 BODY_INVALID."""
    scores = np.asarray(one.values, dtype=np.float32)
    if (
        isinstance(top, bool)
        or not isinstance(top, int)
        or top < 1
        or len(labels) != scores.shape[1]
    ):
        raise _make_invalid(
            f"output {one.name}: classification is a count from 1, and for probs alone"
        )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    texts = [
        f"{row[at]:f}:{at}:{labels[at]}"
        for row, best in zip(scores, order, strict=True)
        for at in best
    ]
    return texts, [len(scores), order.shape[1]]


def _encode_blob(values: NDArray[Any] | Sequence[str]) -> bytes:
    if isinstance(values, np.ndarray):
        return values.astype("<f4", copy=False).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(_LENGTH.pack(len(one)) + one for one in encoded)


def _name(tensor: Tensor) -> str:
    return f"input {tensor.name[:64]!r}"


def _make_invalid(message: str) -> RequestError:
    return RequestError(400, "BODY_INVALID", message)
