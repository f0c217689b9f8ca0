"""From a request's body to a list of inputs: raw image, multipart form, or JSON.

Reads no more than the limits allow and decodes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import Request

from sluice_inference.errors import RequestError
from sluice_inference.imaging.sniff import ALLOWED
from sluice_inference.predictor import Input
from sluice_inference.protocols.native import JsonInput, decode_request
from sluice_inference.settings.limits import Limits

_RAW = frozenset({"image/jpeg", "image/png", "application/octet-stream", ""})
_FIELDS = frozenset({"file", "files"})
MAX_TEXT = 8192
_LARGE_BODY = 1 << 20


async def read_inputs(request: Request, limits: Limits) -> list[Input | RequestError]:
    """The request's inputs: image bytes, texts, or what is wrong with one of them.

    Raises RequestError when the request as a whole can't be used (400, 413, 415).
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _check_count(await _read_form(request, limits), limits)
    if media_type == "application/json":
        body = await _read_body(request, limits.max_body_bytes, "the body")
        # Base64 in megabytes takes many milliseconds, in which no other request would be answered.
        request_body = (
            decode_request(body)
            if len(body) <= _LARGE_BODY
            else await asyncio.to_thread(decode_request, body)
        )
        inputs = [_read_json_input(one) for one in request_body.inputs]
        return _check_count(inputs, limits)
    if media_type in _RAW:
        return [await _read_body(request, limits.max_image_bytes, "the image")]
    raise RequestError(
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        f"content type {media_type!r}; allowed are {ALLOWED}, multipart/form-data with images in "
        "field file or files, and application/json",
    )


def _read_json_input(one: JsonInput) -> Input | RequestError:
    if (one.image is None) == (one.text is None):
        return RequestError(
            400, "BODY_INVALID", "an input needs either image or text, and only one"
        )
    if one.image is not None:
        return one.image
    text = one.text or ""
    if not text.strip() or len(text) > MAX_TEXT:
        return RequestError(422, "TEXT_INVALID", f"a text needs 1 to {MAX_TEXT} characters")
    return text


async def _read_form(request: Request, limits: Limits) -> list[Input | RequestError]:
    from starlette.formparsers import MultiPartException, MultiPartParser

    parser = MultiPartParser(
        request.headers,
        _stream(request, limits.max_body_bytes, "the form"),
        max_files=limits.max_images + 1,
        max_fields=0,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(
            400,
            "BODY_INVALID",
            f"the form can't be read: {error.message}; images go into field files",
        ) from error
    inputs: list[Input | RequestError] = []
    try:
        for name, upload in form.multi_items():
            if name not in _FIELDS or isinstance(upload, str):
                raise RequestError(
                    400, "BODY_INVALID", f"field {name[:64]!r}; images go into field file or files"
                )
            inputs.append(await upload.read())
    finally:
        await form.close()
    return inputs


def _check_count(inputs: list[Input | RequestError], limits: Limits) -> list[Input | RequestError]:
    if not inputs:
        raise RequestError(400, "BODY_INVALID", "the request holds no input; send at least one")
    if len(inputs) > limits.max_images:
        raise RequestError(
            413,
            "TOO_MANY_INPUTS",
            f"{len(inputs)} inputs; at most {limits.max_images} are taken (MAX_IMAGES). Send "
            "several requests",
        )
    return inputs


async def _read_body(request: Request, limit: int, what: str) -> bytes:
    return b"".join([piece async for piece in _stream(request, limit, what)])


async def _stream(request: Request, limit: int, what: str) -> AsyncGenerator[bytes, None]:
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
