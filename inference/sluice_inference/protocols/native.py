"""Our own JSON: bodies of /embed, /classify and /predict. Typed; no I/O.

Lists keep the order of the inputs. An input that failed has {"index", "error"} in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError


class JsonInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input: an image in base64, or a text. Exactly one of them."""

    image: bytes | None = None
    text: str | None = None


class JsonRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[JsonInput, ...]


class _ScannedInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input whose image is still base64 in quotes."""

    image: msgspec.Raw = msgspec.Raw(b"null")
    text: str | None = None


class _ScannedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[_ScannedInput, ...]


class LabelScore(msgspec.Struct, frozen=True):
    label: str
    score: float


class Prediction(msgspec.Struct, frozen=True):
    label: str
    score: float
    top: list[LabelScore]


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    code: str
    message: str
    request_id: str = ""


class ItemError(msgspec.Struct, frozen=True):
    """Stands where the answer to input `index` would."""

    index: int
    error: ErrorDetail


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    error: ErrorDetail
    items: list[ItemError] = []


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a predict route gives. Fields that the route does not give are absent."""

    model: str
    version: str
    fallback_reason: str = ""
    space: str = ""
    dimension: int = 0
    embeddings: list[list[float] | ItemError] = []
    predictions: list[Prediction | ItemError] = []


_ENCODER = msgspec.json.Encoder()
_SCANNER = msgspec.json.Decoder(_ScannedRequest)
_IMAGE = msgspec.json.Decoder(bytes | None)


def decode_request(body: bytes) -> JsonRequest:
    """The inputs of a JSON body. Raises RequestError 400 BODY_INVALID with the field.

    Image by image, because the library holds the interpreter's lock throughout a call: a large body
    that is decoded in a thread would stop the event loop all the same.
    """
    at = ""
    try:
        inputs = []
        for index, one in enumerate(_SCANNER.decode(body).inputs):
            at = f" - at `$.inputs[{index}].image`"
            inputs.append(JsonInput(_IMAGE.decode(one.image), one.text))
        return JsonRequest(tuple(inputs))
    except msgspec.DecodeError as error:
        raise RequestError(
            400,
            "BODY_INVALID",
            f'{error}{at}; wanted is {{"inputs":[{{"image":"<base64>"}} or {{"text":"…"}}]}}',
        ) from error


def encode(value: msgspec.Struct) -> bytes:
    """A body as JSON."""
    return _ENCODER.encode(value)


def make_error_body(
    problem: RequestError, request_id: str, items: Sequence[ItemError] = ()
) -> bytes:
    detail = ErrorDetail(problem.code, problem.message, request_id)
    return encode(ErrorBody(detail, list(items)))


def make_item_error(index: int, problem: RequestError) -> ItemError:
    return ItemError(index, ErrorDetail(problem.code, problem.message))


def make_embeddings(outcomes: Sequence[Output | RequestError]) -> list[list[float] | ItemError]:
    """Embeddings as lists of numbers, in the inputs' order."""
    made: list[list[float] | ItemError] = []
    for index, one in enumerate(outcomes):
        if isinstance(one, RequestError):
            made.append(make_item_error(index, one))
        else:
            made.append([] if one.embedding is None else one.embedding.tolist())
    return made


def make_predictions(
    outcomes: Sequence[Output | RequestError], labels: Sequence[str], top: int
) -> list[Prediction | ItemError]:
    """Best label, its probability, and the `top` best, in the inputs' order."""
    return [
        make_item_error(index, one)
        if isinstance(one, RequestError)
        else _make_prediction(one.scores, labels, top)
        for index, one in enumerate(outcomes)
    ]


def make_answer(settings_model: tuple[str, str], **parts: Any) -> bytes:
    """The answer of `(model, version)` as JSON."""
    model, version = settings_model
    return encode(Answer(model=model, version=version, **parts))


def describe_space(facts: ModelFacts) -> dict[str, Any]:
    """Space and dimension, for answers with embeddings."""
    return {"space": facts.space, "dimension": facts.dimension}


def _make_prediction(
    scores: NDArray[np.float32] | None, labels: Sequence[str], top: int
) -> Prediction:
    values = np.zeros(0, dtype=np.float32) if scores is None else scores
    order = np.argsort(-values, kind="stable")[:top]
    best = [LabelScore(labels[int(at)], float(values[at])) for at in order]
    return Prediction(best[0].label, best[0].score, best)
