"""Which web pages may ask from a browser (the Fetch standard's CORS protocol).

Keys travel in headers and never in cookies, so credentials in the standard's sense are not allowed.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

_METHODS = b"GET, POST"
_REQUEST_HEADERS = (
    b"authorization, cache-control, content-type, inference-header-content-length, sluice-key, "
    b"traceparent, tracestate, x-api-key, x-request-id"
)
_ANSWER_HEADERS = (
    b"deprecation, inference-header-content-length, link, retry-after, server-timing, "
    b"sluice-cache, sluice-embedding-space, sluice-fallback-reason, sluice-model, sluice-revision, "
    b"sunset, x-request-id"
)
_MAX_AGE_S = b"600"
_VARY = (b"vary", b"origin")


class Cors:
    """The pages of `origins` may ask; `*` lets all."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def make_headers(self, scope: Scope) -> Headers:
        """What every answer carries, a preflight's too: may the page that asked read it?"""
        allowed = self._allow(_find(scope, b"origin"))
        if not allowed:
            return [_VARY]
        return [*allowed, (b"access-control-expose-headers", _ANSWER_HEADERS), _VARY]

    def make_preflight(self, scope: Scope) -> Headers | None:
        """What else is told to a browser that asks whether it may ask; None for any other request.

        Such a request carries no key, by the standard, so it is answered before keys are looked at.
        """
        origin = _find(scope, b"origin")
        is_preflight = (
            scope["method"] == "OPTIONS"
            and origin
            and _find(scope, b"access-control-request-method")
        )
        if not is_preflight:
            return None
        if not self._allow(origin):
            return []
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def _allow(self, origin: bytes) -> Headers:
        if not origin:
            return []
        if b"*" in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin)]
        return []


def _find(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""
