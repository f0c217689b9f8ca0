"""From a request's body to a list of inputs: raw image, multipart form, or JSON of any dialect.

Reads no more than the limits allow and decodes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from starlette.requests import Request

from sluice_inference.errors import RequestError
from sluice_inference.imaging.sniff import ALLOWED
from sluice_inference.predictor import Input, Question
from sluice_inference.protocols.asked import MAX_LABELS, MAX_TEXT, A, decode_request
from sluice_inference.settings.limits import Limits

RAW_TYPES = ("image/jpeg", "image/png", "application/octet-stream")
_FIELDS = frozenset({"file", "files"})
_CHARSETS = ("utf-8", "us-ascii")
_LARGE_BODY = 1 << 20

Read = list[Input | RequestError]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Body(Generic[A]):
    """A body of our own dialect: its images and texts, and what else it says.

    `said` is the JSON there was; `fields` are the texts of a form.
    """

    inputs: Read
    said: A | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)


async def read_body(
    request: Request, limits: Limits, kind: type[A], fields: Sequence[str] = ()
) -> Body[A]:
    """A body in any of our own forms. A form may have texts in `fields`.

    Raises RequestError when the request as a whole can't be used (400, 413, 415).
    """
    media_type = read_media_type(request)
    if media_type == "multipart/form-data":
        body: Body[A] = await _read_form(request, limits, fields)
    elif media_type == "application/json":
        said, found = await read_json(
            request, limits, lambda data, most: decode_request(data, kind, most)
        )
        body = Body(check_texts(found), said)
    elif not media_type or media_type in RAW_TYPES:
        return Body([await read_bytes(request, limits.max_image_bytes, "the image")])
    else:
        raise RequestError(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            f"content type {media_type[:64]!r}; allowed are {ALLOWED}, multipart/form-data with images "
            "in field file or files, and application/json",
        )
    check_count(body.inputs, limits)
    return body


def read_media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, limits: Limits, decode: Callable[[bytes, int], T]) -> T:
    """What `decode` makes of the body, given how many inputs it may have; of a large one in a thread.

    Base64 in megabytes takes many milliseconds, in which no other request would be answered.
    """
    body = await read_bytes(request, limits.max_body_bytes, "the body")
    most = limits.max_images + limits.max_texts
    if len(body) <= _LARGE_BODY:
        return decode(body, most)
    return await asyncio.to_thread(decode, body, most)


def check_texts(inputs: Sequence[Input | RequestError]) -> Read:
    """The inputs; in place of texts that can't be used, what is wrong with them."""
    return [_check_text(one) if isinstance(one, str) else one for one in inputs]


def _check_text(text: str) -> str | RequestError:
    if len(text) > MAX_TEXT or not text.strip():
        return RequestError(422, "TEXT_INVALID", f"a text needs 1 to {MAX_TEXT} characters")
    return text if is_unicode(text) else _make_surrogate("a text")


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8: a lone half of a UTF-16 pair makes tokenizers fail."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _make_surrogate(what: str) -> RequestError:
    return RequestError(
        422,
        "TEXT_INVALID",
        f"{what} has half of a surrogate pair (U+D800 to U+DFFF), which is no character; send Unicode",
    )


def check_count(inputs: Sequence[Input | RequestError], limits: Limits) -> None:
    """Raises RequestError 400 for no input, 413 TOO_MANY_INPUTS for more than one request may hold."""
    if not inputs:
        raise RequestError(400, "BODY_INVALID", "the request holds no input; send at least one")
    texts = sum(isinstance(one, str) for one in inputs)
    for count, most, what in (
        (len(inputs) - texts, limits.max_images, "images (MAX_IMAGES)"),
        (texts, limits.max_texts, "texts (MAX_TEXTS)"),
    ):
        if count > most:
            raise RequestError(
                413,
                "TOO_MANY_INPUTS",
                f"{count} inputs; one request takes at most {most} {what}. Send several requests",
            )


async def _read_form(request: Request, limits: Limits, fields: Sequence[str]) -> Body[A]:
    from starlette.formparsers import MultiPartException, MultiPartParser

    _check_charset(request)
    parser = MultiPartParser(
        request.headers,
        stream(request, limits.max_body_bytes, "the form"),
        max_files=limits.max_images + 1,
        max_fields=MAX_LABELS + limits.max_images + len(fields) if fields else 0,
        max_part_size=4 * MAX_TEXT,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(
            400,
            "BODY_INVALID",
            f"the form can't be read: {error.message}; images go into field files",
        ) from error
    inputs: Read = []
    texts: dict[str, list[str]] = {}
    try:
        for name, part in form.multi_items():
            if isinstance(part, str) and name in fields:
                texts.setdefault(name, []).append(part)
            elif isinstance(part, str) or name not in _FIELDS:
                known = "".join(f", texts into {one}" for one in fields)
                raise RequestError(
                    400,
                    "BODY_INVALID",
                    f"field {name[:64]!r}; images go into field file or files{known}",
                )
            else:
                inputs.append(await part.read())
    finally:
        await form.close()
    return Body(inputs, fields=texts)


def _check_charset(request: Request) -> None:
    """Raises RequestError 415 UNSUPPORTED_MEDIA_TYPE.

    The parser decodes names and texts with any codec that the client names; some of Python's fail in
    their own ways, and some make text that is no Unicode.
    """
    from python_multipart.multipart import parse_options_header

    said = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    charset = said.decode("latin-1").strip().lower()
    if charset not in _CHARSETS:
        raise RequestError(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            f"charset {charset[:64]!r} of the form; allowed are {' and '.join(_CHARSETS)}. Send UTF-8, "
            "and leave charset out",
        )


async def read_bytes(request: Request, limit: int, what: str) -> bytes:
    """The body. Raises RequestError 413 before more than `limit` bytes were held."""
    return b"".join([piece async for piece in stream(request, limit, what)])


async def stream(request: Request, limit: int, what: str) -> AsyncGenerator[bytes, None]:
    """The body in pieces. Raises RequestError 413 before more than `limit` bytes were held."""
    declared = request.headers.get("content-length", "0")
    seen = int(declared) if declared.isdecimal() else 0
    if seen <= limit:
        seen = 0
        async for piece in request.stream():
            seen += len(piece)
            if seen > limit:
                break
            if piece:
                yield piece
        else:
            return
    raise RequestError(
        413,
        "IMAGE_TOO_LARGE" if what == "the image" else "BODY_TOO_LARGE",
        f"{what} has more than {limit} bytes (MAX_IMAGE_MB, MAX_IMAGES). Send it smaller",
    )


def add_questions(inputs: Read, questions: Sequence[str], task: str) -> Read:
    """The images, each with its question: one for all, or as many as images. Problems stay."""
    if len(questions) not in (1, len(inputs)):
        raise RequestError(
            400,
            "BODY_INVALID",
            f"{len(questions)} questions for {len(inputs)} images; send one for all, or one for each",
        )
    asked = questions if len(questions) == len(inputs) else [*questions] * len(inputs)
    return [_ask(one, question, task) for one, question in zip(inputs, asked, strict=True)]


def _ask(one: Input | RequestError, question: str, task: str) -> Input | RequestError:
    if not isinstance(one, bytes):
        return one
    if len(question) > MAX_TEXT:
        return RequestError(422, "TEXT_INVALID", f"a question has at most {MAX_TEXT} characters")
    if not is_unicode(question):
        return _make_surrogate("a question")
    return Question(one, question, task)
