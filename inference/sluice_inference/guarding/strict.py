"""What strict mode adds to answers, and what it leaves out of refusals.

The headers are for an API: answers are data, never pages, and belong to whoever asked.
"""

from __future__ import annotations

from collections.abc import Container

from sluice_inference.errors import RequestError

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
# Said in plain HTTP, browsers must ignore it (RFC 6797, section 8.1).
_OVER_TLS = (b"strict-transport-security", b"max-age=31536000")
# These say no more than this; so do all others that are the server's fault.
_MESSAGES = {
    "NOT_FOUND": "there is no such route",
    "OVERLOADED": "the server has too much to do; try again after Retry-After",
    "NOT_READY": "the server is not ready; try again after Retry-After",
    "STOPPING": "this server is going away; try again",
    "TIMEOUT": "there was no answer in time",
}
_OTHERWISE = "the server can't answer this request"


def make_headers(given: Container[bytes], scheme: str) -> list[tuple[bytes, bytes]]:
    """Headers for an answer; where a route has one of these itself (`given`), its own stays."""
    headers = [header for header in _HEADERS if header[0] not in given]
    return [*headers, _OVER_TLS] if scheme == "https" else headers


def simplify(problem: RequestError) -> RequestError:
    """The problem without what it tells of the inside: settings, limits, routes, state.

    What is wrong with a request itself is left as it is: its client needs every word.
    """
    if problem.status < 500 and problem.code not in _MESSAGES:
        return problem
    return RequestError(
        problem.status,
        problem.code,
        _MESSAGES.get(problem.code, _OTHERWISE),
        retry_after_s=problem.retry_after_s,
        headers=problem.headers,
    )
