"""What our own routes answer, in JSON. Typed; no I/O. What they are asked is in `asked.py`.

Lists keep the order of the inputs. An input that failed has {"index", "error"} in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.protocols.asked import Encoding


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


class Words(msgspec.Struct, frozen=True):
    """What a model says about one picture."""

    text: str


class Exposure(msgspec.Struct, frozen=True):
    """Mean brightness, and the shares of pixels that are black and white; each 0 to 1."""

    brightness: float
    dark: float
    bright: float


class PictureQuality(msgspec.Struct, frozen=True):
    """How good the picture of one input is.

    `issues`: what is below the server's thresholds. `duplicate_of`: the first input of the same request
    that looks the same; `is_recent`: one like it was measured here not long ago.
    """

    width: int
    height: int
    sharpness: float
    exposure: Exposure
    issues: list[str]
    duplicate_of: int | None
    is_recent: bool


class FallbackItem(msgspec.Struct, frozen=True):
    """Says that another model than the answer's gave the answer to input `index`, and why."""

    index: int
    model_used: str
    fallback_reason: str


def _make_schema(name: str) -> msgspec.Meta:
    """What the library can't derive by itself: one of two kinds of objects, told apart by their fields."""
    kinds = [{"$ref": f"#/components/schemas/{one}"} for one in (name, ItemError.__name__)]
    return msgspec.Meta(extra_json_schema={"anyOf": kinds})


_PredictionOrError = Annotated[Any, _make_schema(Prediction.__name__)]
_WordsOrError = Annotated[Any, _make_schema(Words.__name__)]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a predict route gives. Fields that the route does not give are absent."""

    model: str
    version: str
    fallback_reason: str = ""
    fallbacks: list[FallbackItem] = []
    space: str = ""
    dimension: int = 0
    embeddings: list[list[float] | bytes | ItemError] = []
    predictions: list[_PredictionOrError] = []
    similarities: list[float | ItemError] = []
    answers: list[_WordsOrError] = []
    quality: list[PictureQuality | None] = []


_ENCODER = msgspec.json.Encoder()


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


def make_embeddings(
    outcomes: Sequence[Output | RequestError], encoding: Encoding = "float"
) -> list[list[float] | bytes | ItemError]:
    """Embeddings in the inputs' order."""
    made: list[list[float] | bytes | ItemError] = []
    for index, one in enumerate(outcomes):
        if isinstance(one, RequestError):
            made.append(make_item_error(index, one))
        else:
            made.append([] if one.embedding is None else encode_vector(one.embedding, encoding))
    return made


def encode_vector(vector: NDArray[np.float32], encoding: Encoding) -> list[float] | bytes:
    """A vector [D] as numbers, or as little-endian float32, which JSON carries in base64.

    Base64 takes a quarter of the bytes and an eighth of the time of numbers.
    """
    if encoding == "base64":
        return vector.astype("<f4", copy=False).tobytes()
    numbers: list[float] = vector.tolist()
    return numbers


def make_words(outcomes: Sequence[Output | RequestError]) -> list[Words | ItemError]:
    """What the model says, in the inputs' order."""
    return [
        make_item_error(index, one) if isinstance(one, RequestError) else Words(one.text or "")
        for index, one in enumerate(outcomes)
    ]


def make_predictions(
    outcomes: Sequence[Output | RequestError],
    find_labels: Callable[[int], Sequence[str]],
    top: int,
) -> list[Prediction | ItemError]:
    """Best label, its probability, and the `top` best, in the inputs' order.

    `find_labels` gives the labels of the model that answered an input, by its index.
    """
    return [
        make_item_error(index, one)
        if isinstance(one, RequestError)
        else _make_prediction(one.scores, find_labels(index), top)
        for index, one in enumerate(outcomes)
    ]


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
