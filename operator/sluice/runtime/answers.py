"""Turns an answer of the API server that is no success into a typed error. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from sluice.errors import (
    AlreadyExists,
    ApiError,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Transient,
)

MAX_RETRY_AFTER = 60.0
"""Seconds. A server that asks for more is asked again after this."""


def parse_retry_after(headers: Mapping[str, str], details: Mapping[str, Any]) -> float | None:
    """Seconds from the Retry-After header or from the Status, bounded; None if neither says."""
    for value in (headers.get("Retry-After"), details.get("retryAfterSeconds")):
        try:
            seconds = float(value)  # type: ignore[arg-type]  # None and dates end below
        except (TypeError, ValueError):
            continue
        if seconds > 0:
            return min(seconds, MAX_RETRY_AFTER)
    return None


def make_error(where: str, code: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error for an answer. ``where`` says what was asked for: "apply Deployment default/a"."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        # Not the API server itself: a proxy, or a server that is starting.
        status = {"message": body[:300].decode(errors="replace").strip()}
    details = status.get("details") or {}
    causes = tuple(
        Cause(cause.get("field", ""), cause.get("reason", ""), cause.get("message", ""))
        for cause in details.get("causes") or ()
    )
    reason = status.get("reason", "")
    message = f"{where}: {code} {reason}: {status.get('message') or 'no message'}"
    retry_after = parse_retry_after(headers, details)
    kind: type[ApiError]
    match code:
        case 401 | 403:
            kind = Forbidden
        case 404:
            kind = NotFound
        case 409:
            kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        case 410:
            kind = Gone
        case 422 if causes and all(cause.field == "metadata.uid" for cause in causes):
            # A uid given as a precondition of an apply. Where the object is another one of that
            # name, the server calls it a change of an immutable field.
            kind = Conflict
        case 400 | 405 | 406 | 413 | 415 | 422:
            kind = Invalid
        case 408 | 429:
            kind = Transient
        case _ if code >= 500:
            kind = Transient
        case _:
            kind = ApiError
    return kind(message, code=code, causes=causes, retry_after=retry_after)
