"""What clients ask in our own JSON, and images in base64 wherever they stand. Typed; no I/O.

Images stay base64 in quotes until they are decoded one by one: the library holds the interpreter's lock
throughout a call, so a large body that is decoded in a thread would stop the event loop all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec

from sluice_inference.errors import RequestError

MAX_TOP = 100
MAX_LABELS = 100
MAX_TEXT = 8192
# A text may be nothing but commas; beside it stand the few that part fields and inputs.
_COMMAS_AN_INPUT = MAX_TEXT + 64
_PIECE = 1 << 20
Base64 = Annotated[
    msgspec.Raw,
    msgspec.Meta(extra_json_schema={"type": "string", "contentEncoding": "base64"}),
]
Encoding = Literal["float", "base64"]
Top = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOP)]
Labels = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=1024)], ...],
    msgspec.Meta(min_length=1, max_length=MAX_LABELS),
]
Template = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"^[^{}]*\{\}[^{}]*$")]


class JsonInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input: an image in base64, or a text. Exactly one of them."""

    image: Base64 | msgspec.UnsetType = msgspec.UNSET
    text: str | None = None


class JsonQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image in base64, and what is asked of it."""

    image: Base64
    question: str = ""


class EmbedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[JsonInput, ...]
    encoding: Encoding | None = None

    @property
    def asked(self) -> Sequence[JsonInput]:
        return self.inputs


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[JsonInput, ...]
    encoding: Encoding | None = None
    top_k: Top | None = None

    @property
    def asked(self) -> Sequence[JsonInput]:
        return self.inputs


class ClassifyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `labels` the classes are the request's own; `template` has {} where a label goes."""

    inputs: tuple[JsonInput, ...]
    top_k: Top | None = None
    labels: Labels | None = None
    template: Template | None = None

    @property
    def asked(self) -> Sequence[JsonInput]:
        return self.inputs


class SimilarityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either `pairs`, or one `query` against each of `inputs`."""

    pairs: tuple[tuple[JsonInput, JsonInput], ...] = ()
    query: JsonInput | None = None
    inputs: tuple[JsonInput, ...] = ()

    @property
    def asked(self) -> Sequence[JsonInput]:
        if self.query is not None:
            return [self.query, *self.inputs]
        return [one for pair in self.pairs for one in pair]


class QuestionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: tuple[JsonQuestion, ...]

    @property
    def asked(self) -> Sequence[JsonQuestion]:
        return self.inputs


class Asked(Protocol):
    """A body whose images are still to be decoded, in the order in which its answer speaks of them."""

    @property
    def asked(self) -> Sequence[JsonInput | JsonQuestion]: ...


A = TypeVar("A", bound=Asked)
T = TypeVar("T")
_IMAGE = msgspec.json.Decoder(bytes)
_DECODERS: dict[type, msgspec.json.Decoder[Asked]] = {
    EmbedRequest: msgspec.json.Decoder(EmbedRequest),
    PredictRequest: msgspec.json.Decoder(PredictRequest),
    ClassifyRequest: msgspec.json.Decoder(ClassifyRequest),
    SimilarityRequest: msgspec.json.Decoder(SimilarityRequest),
    QuestionRequest: msgspec.json.Decoder(QuestionRequest),
}
_WANTED: dict[type, str] = {
    EmbedRequest: '{"inputs":[{"image":"<base64>"} or {"text":"…"}]}',
    PredictRequest: '{"inputs":[{"image":"<base64>"}]}',
    ClassifyRequest: '{"inputs":[{"image":"<base64>"}]}, and labels where they are yours',
    SimilarityRequest: '{"pairs":[[A,B],…]} or {"query":A,"inputs":[B,…]}, where A and B are '
    '{"image":"<base64>"} or {"text":"…"}',
    QuestionRequest: '{"inputs":[{"image":"<base64>","question":"…"}]}',
}


def decode_request(
    body: bytes, kind: type[A], most: int
) -> tuple[A, list[bytes | str | RequestError]]:
    """A JSON body of at most `most` inputs, and its images and texts in order.

    An item with both, or neither, of image and text is a problem of its own. Raises RequestError 400
    BODY_INVALID, 413 TOO_MANY_INPUTS.
    """
    request = decode_json(_DECODERS[kind], body, most, _WANTED[kind])
    assert isinstance(request, kind)  # noqa: S101 - the decoder's own type, lost in the table
    asked = request.asked
    check_bound(len(asked), most)
    return request, [_read(one, index) for index, one in enumerate(asked)]


def decode_json(
    decoder: msgspec.json.Decoder[T], body: bytes, most: int, wanted: str, size: int | None = None
) -> T:
    """What the JSON says that is the body, or its first `size` bytes.

    Every element becomes an object before anything can be counted, in gigabytes where a body is elements
    of two bytes; so commas are counted first. Raises RequestError 400 BODY_INVALID with `wanted`, 413
    TOO_MANY_INPUTS for more commas than `most` inputs can have.
    """
    end = len(body) if size is None else size
    commas = 0
    # In pieces: one call would hold the interpreter's lock throughout a large body.
    for start in range(0, end, _PIECE):
        commas += body.count(b",", start, min(end, start + _PIECE))
        if commas > most * _COMMAS_AN_INPUT:
            raise _make_too_many("the JSON has more commas than its inputs could have", most)
    try:
        return decoder.decode(body if size is None else memoryview(body)[:size])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error, wanted) from error


def check_bound(count: int, most: int) -> None:
    """Before anything is made of inputs. Raises RequestError 413 TOO_MANY_INPUTS."""
    if count > most:
        raise _make_too_many(f"{count} inputs", most)


def _make_too_many(found: str, most: int) -> RequestError:
    return RequestError(
        413,
        "TOO_MANY_INPUTS",
        f"{found}; one request takes at most {most} inputs (MAX_IMAGES and MAX_TEXTS). Send several "
        "requests",
    )


def _read(one: JsonInput | JsonQuestion, index: int) -> bytes | str | RequestError:
    at = f"$.inputs[{index}]"
    text = None if isinstance(one, JsonQuestion) else one.text
    if isinstance(one.image, msgspec.UnsetType) == (text is None):
        return RequestError(
            400, "BODY_INVALID", "an input needs either image or text, and only one"
        )
    if not isinstance(one.image, msgspec.UnsetType):
        return decode_image(one.image, f"{at}.image")
    return text or ""


def decode_image(quoted: msgspec.Raw, at: str) -> bytes:
    """An image's bytes from base64 in quotes. Raises RequestError 400 BODY_INVALID; nothing is fetched."""
    try:
        return _IMAGE.decode(quoted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            400,
            "BODY_INVALID",
            f"{at} is no base64; wanted are the bytes of a JPEG or PNG file in base64. URLs are not "
            "fetched",
        ) from error


def explain(error: Exception, wanted: str) -> RequestError:
    """What is told of a body that can't be decoded: where it fails, and what is wanted."""
    match error:
        case msgspec.DecodeError():
            # Its texts name the place and the type in the client's own body, nothing of ours.
            where = str(error)
        case RecursionError():
            where = "the JSON is nested too deep"
        case _:
            where = "the body is no UTF-8"
    return RequestError(400, "BODY_INVALID", f"{where}; wanted is {wanted}")
