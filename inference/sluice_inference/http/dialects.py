"""The dialects that routes speak, as far as an error body goes: ours, and those of others' protocols.

Who answers a request does not matter here, only how its client expects to be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sluice_inference.errors import RequestError
from sluice_inference.protocols import kserve, native, openai


@dataclass(frozen=True, slots=True)
class Dialect:
    """`make_error` writes the body for a problem and a request id; `error` is its type."""

    name: str
    make_error: Callable[[RequestError, str], bytes]
    error: type


NATIVE = Dialect("native", native.make_error_body, native.ErrorBody)
OPENAI = Dialect("openai", openai.make_error_body, openai.OpenAIError)
# KServe's two protocols refuse alike: {"error": "a sentence"}.
V1 = Dialect("v1", kserve.make_error_body, kserve.KServeError)
V2 = Dialect("v2", kserve.make_error_body, kserve.KServeError)


def choose_dialect(path: str) -> Dialect:
    """The dialect of a path that is no route's, by what its client probably speaks."""
    if path == "/v2" or path.startswith("/v2/"):
        return V2
    if path.startswith("/v1/"):
        return V1 if path.startswith("/v1/models/") and ":" in path else OPENAI
    return NATIVE
