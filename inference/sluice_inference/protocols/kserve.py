"""KServe's first protocol: bodies of /v1/models/MODEL:predict. Typed; no I/O.

An instance is `{"b64": "…"}` (an image, as in TensorFlow Serving), `{"image": {"b64": "…"}}`,
`{"text": "…"}`, or a text as it is. Predictions keep the order and the number of the instances.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sluice_inference.errors import RequestError
from sluice_inference.protocols.asked import Base64, check_bound, decode_image, decode_json


class KServeError(msgspec.Struct, frozen=True):
    """Both of KServe's protocols refuse like this."""

    error: str


class Wrapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes in base64."""

    b64: Base64


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image or a text; exactly one of the fields."""

    b64: Base64 | msgspec.UnsetType = msgspec.UNSET
    image: Wrapped | None = None
    text: str | None = None


class InstancesRequest(msgspec.Struct, frozen=True):
    instances: tuple[Instance | str, ...]


class InstancePrediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the version has for one instance; `error` stands alone."""

    label: str = ""
    score: float | msgspec.UnsetType = msgspec.UNSET
    embedding: list[float] = []
    error: str = ""


class PredictionsAnswer(msgspec.Struct, frozen=True):
    predictions: list[InstancePrediction]


_DECODER = msgspec.json.Decoder(InstancesRequest)
_WANTED = '{"instances":[{"b64":"<base64>"} or {"text":"…"}]}'


def decode_request(body: bytes, most: int) -> list[bytes | str | RequestError]:
    """The images and texts of a request, one for each of at most `most` instances.

    Raises RequestError 400 BODY_INVALID, 413 TOO_MANY_INPUTS.
    """
    asked = decode_json(_DECODER, body, most, _WANTED)
    check_bound(len(asked.instances), most)
    return [_read(one, f"$.instances[{index}]") for index, one in enumerate(asked.instances)]


def _read(one: Instance | str, at: str) -> bytes | str | RequestError:
    if isinstance(one, str):
        return one
    found: list[bytes | str] = []
    if not isinstance(one.b64, msgspec.UnsetType):
        found.append(decode_image(one.b64, f"{at}.b64"))
    if one.image is not None:
        found.append(decode_image(one.image.b64, f"{at}.image.b64"))
    if one.text is not None:
        found.append(one.text)
    if len(found) != 1:
        return RequestError(
            400, "BODY_INVALID", f"{at} needs one of b64, image and text, and only one"
        )
    return found[0]


def encode_answer(predictions: Sequence[InstancePrediction]) -> bytes:
    return msgspec.json.encode(PredictionsAnswer(list(predictions)))


def make_error_body(problem: RequestError, request_id: str) -> bytes:
    """The request's id is in its header alone: the protocol has no place for it."""
    del request_id
    return msgspec.json.encode(KServeError(f"{problem.code}: {problem.message}"))
