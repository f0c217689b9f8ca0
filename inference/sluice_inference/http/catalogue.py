"""The routes there are: what each is for, which dialect it speaks, who answers it, what it takes and gives.

The one table that dispatch, metrics, samples, guards and the OpenAPI document read. Knows no single route.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sluice_inference.errors import RequestError
from sluice_inference.http.dialects import Dialect, choose_dialect

Handler = Callable[[Request], Awaitable[Response]]
Headers = tuple[tuple[bytes, bytes], ...]
JSON = "application/json"
BINARY = "application/octet-stream"
_PARAMETER = re.compile(r"\{([a-z]+)\}")


class Purpose(enum.Enum):
    """Whom a route is for."""

    INFERENCE = "inference"  # runs the model for a client; rollouts are judged by its answers
    ABOUT = "about"  # tells clients of models and routes
    OPS = "ops"  # for those who run the server
    PROBE = "probe"  # is it alive, is it ready


@dataclass(frozen=True, slots=True)
class Content:
    """One form of a body: its media type, and the type of its JSON or a JSON schema.

    `parts` are types that the schema refers to by name.
    """

    media_type: str
    schema: Any
    parts: tuple[type, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """One parameter after the question mark, and its JSON schema."""

    name: str
    says: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One path, which is asked by one method. GET is HEAD as well."""

    method: str
    path: str
    purpose: Purpose
    dialect: Dialect
    handle: Handler
    summary: str
    takes: tuple[Content, ...] = ()
    gives: tuple[Content, ...] = ()
    query: tuple[Query, ...] = ()
    headers: Headers = ()

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def parameters(self) -> list[str]:
        """The names in braces in its path."""
        return _PARAMETER.findall(self.path)

    @property
    def is_for_clients(self) -> bool:
        return self.purpose in (Purpose.INFERENCE, Purpose.ABOUT)


@dataclass(frozen=True, slots=True)
class Match:
    """What a path leads to. Without an entry, nowhere."""

    dialect: Dialect
    entry: Entry | None = None
    parameters: dict[str, str] | None = None


class Catalogue:
    """All routes. An ASGI application for requests whose `scope` has their match."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._fixed = {entry.path: entry for entry in entries if not entry.parameters}
        self._patterns = [
            (_make_pattern(entry.path), entry) for entry in entries if entry.parameters
        ]

    def find(self, path: str) -> Match:
        """The route of a path that is no longer percent-encoded."""
        if (fixed := self._fixed.get(path)) is not None:
            return Match(fixed.dialect, fixed, {})
        for pattern, entry in self._patterns:
            if (found := pattern.fullmatch(path)) is not None:
                return Match(entry.dialect, entry, found.groupdict())
        return Match(choose_dialect(path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises RequestError: 404, 405, and whatever its handler raises."""
        match: Match = scope["match"]
        entry = match.entry
        if entry is None:
            raise self._explain_missing(match.dialect)
        if scope["method"] not in entry.methods:
            allowed = ", ".join(entry.methods)
            raise RequestError(
                405,
                "METHOD_NOT_ALLOWED",
                f"{entry.path} is asked by {allowed}",
                headers=(("allow", allowed),),
            )
        scope["path_params"] = match.parameters
        response = await entry.handle(Request(scope, receive))
        await response(scope, receive, send)

    def _explain_missing(self, dialect: Dialect) -> RequestError:
        """A 404 that names what there is. What stands under a version stands without it as well."""
        paths = (
            f"{entry.method} {entry.path}"
            for entry in self.entries
            if entry.dialect is dialect and not entry.path.startswith("/api/")
        )
        there_are = ", ".join(paths)
        return RequestError(
            404,
            "NOT_FOUND",
            f"there is no such route; there are {there_are}, and GET /openapi.json lists all",
        )


def _make_pattern(path: str) -> re.Pattern[str]:
    """Braces stand for one segment without a colon: KServe puts its verbs after one."""
    escaped = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(_PARAMETER.sub(r"(?P<\1>[^/:]+)", escaped))
