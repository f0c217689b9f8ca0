"""OpenAI's embeddings and models: bodies of /v1/embeddings and /v1/models. Typed; no I/O.

Images stand among the inputs as data URIs, as infinity and NVIDIA's NV-CLIP take them, or as {"image": …}
objects as Jina does. Nothing is ever fetched: a URL is an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RequestError
from sluice_inference.protocols.asked import Encoding, check_bound, decode_json
from sluice_inference.protocols.native import encode_vector

_DATA_URI = re.compile(r"data:[a-z0-9.+/-]*(?:;[a-z0-9=.+-]+)*;base64,", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S*", re.IGNORECASE)
_NO_URLS = "URLs are not fetched; send the image itself, as data:image/jpeg;base64,…"


class OpenAIErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    error: OpenAIErrorDetail


class ObjectInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image (base64 or data URI) or a text; exactly one of them."""

    image: str | None = None
    text: str | None = None


Tokens = Annotated[
    tuple[int, ...], msgspec.Meta(description="tokens; refused: send texts", min_length=1)
]


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """`modality` says what every input is; without it data URIs are images and all else is text."""

    input: str | tuple[str | int | ObjectInput | Tokens, ...]
    model: str
    encoding_format: Encoding = "float"
    dimensions: int | None = None
    user: str | None = None
    modality: Literal["text", "image"] | None = None


class Embedding(msgspec.Struct, frozen=True):
    """`embedding` in base64 is float32, little-endian."""

    index: int
    embedding: list[float] | bytes
    object: str = "embedding"


class Usage(msgspec.Struct, frozen=True):
    """Tokens are not counted here, so both are 0."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsAnswer(msgspec.Struct, frozen=True):
    data: list[Embedding]
    model: str
    usage: Usage = Usage()
    object: str = "list"


class Model(msgspec.Struct, frozen=True):
    """One model, to OpenAI's clients (id, created …) and to KServe's (name, ready)."""

    id: str
    created: int
    name: str
    ready: bool
    object: str = "model"
    owned_by: str = "sluice"


class ModelList(msgspec.Struct, frozen=True):
    """`data` is what OpenAI's clients read, `models` what KServe's do."""

    data: list[Model]
    models: list[str]
    object: str = "list"


_DECODER = msgspec.json.Decoder(EmbeddingsRequest)
_WANTED = '{"model":"…","input":["a text","data:image/jpeg;base64,…"]}'


def decode_request(body: bytes, most: int) -> tuple[EmbeddingsRequest, list[bytes | str]]:
    """A request of at most `most` inputs, and its images and texts in order.

    Raises RequestError 400 BODY_INVALID: not of this form, tokens, a URL, what is no base64; 413
    TOO_MANY_INPUTS.
    """
    asked = decode_json(_DECODER, body, most, _WANTED)
    inputs = (asked.input,) if isinstance(asked.input, str) else asked.input
    if not (inputs and isinstance(inputs[0], int)):  # tokens are one text; they are refused as such
        check_bound(len(inputs), most)
    single = isinstance(asked.input, str)
    return asked, [
        _read(one, asked.modality, "input" if single else f"input[{index}]")
        for index, one in enumerate(inputs)
    ]


def _read(one: str | int | ObjectInput | Tokens, modality: str | None, at: str) -> bytes | str:
    if isinstance(one, ObjectInput):
        if (one.image is None) == (one.text is None):
            raise _make_invalid(f"{at} needs either image or text, and only one")
        return one.text if one.text is not None else _read_image(one.image or "", at)
    if not isinstance(one, str):
        raise _make_invalid(
            f"{at} has tokens; this server takes texts and makes its own. With the openai library's "
            "wrappers, turn their length check off (LangChain: check_embedding_ctx_length=False)"
        )
    if modality == "text":
        return one
    if modality == "image" or _DATA_URI.match(one):
        return _read_image(one, at)
    if _URL.fullmatch(one):
        raise _make_invalid(
            f'{at}: {_NO_URLS}. A URL that is meant as text needs "modality":"text"'
        )
    return one


def _read_image(text: str, at: str) -> bytes:
    if _URL.match(text):
        raise _make_invalid(f"{at}: {_NO_URLS}")
    head = _DATA_URI.match(text)
    try:
        return base64.b64decode(text[head.end() :] if head else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _make_invalid(f"{at} is no image in base64; send data:image/jpeg;base64,…") from error


def _make_invalid(message: str) -> RequestError:
    return RequestError(400, "BODY_INVALID", message)


def encode_answer(
    model: str, embeddings: Sequence[NDArray[np.float32]], encoding: Encoding
) -> bytes:
    data = [Embedding(index, encode_vector(one, encoding)) for index, one in enumerate(embeddings)]
    return msgspec.json.encode(EmbeddingsAnswer(data, model))


def make_error_body(problem: RequestError, request_id: str) -> bytes:
    """The request's id is in its header alone: the protocol has no place for it."""
    del request_id
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error")
    if problem.status >= 500:
        kind = "server_error"
    detail = OpenAIErrorDetail(problem.message, kind, None, problem.code.lower())
    return msgspec.json.encode(OpenAIError(detail))
