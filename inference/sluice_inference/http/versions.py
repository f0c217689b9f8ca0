"""The versions of our own API, and how the end of one is announced.

A version that nears its end says so in every answer: `Deprecation` (RFC 9745) since when it should not be
used any more, `Sunset` (RFC 8594) from when on it may be gone, `Link` to what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime

from sluice_inference.http.catalogue import Entry, Headers


@dataclass(frozen=True, slots=True)
class ApiVersion:
    """One version, at /api/NAME. Times are aware, in UTC."""

    name: str
    deprecated: datetime | None = None
    sunset: datetime | None = None

    @property
    def prefix(self) -> str:
        return f"/api/{self.name}"


# Oldest first. Paths without a version are those of the last one.
VERSIONS = (ApiVersion("v1"),)


def add_versions(entries: Sequence[Entry], versions: Sequence[ApiVersion]) -> list[Entry]:
    """The entries as they are, and below the prefix of each version."""
    made = list(entries)
    for version in versions:
        for entry in entries:
            successor = versions[-1].prefix + entry.path
            headers = make_headers(version, successor)
            made.append(replace(entry, path=version.prefix + entry.path, headers=headers))
    return made


def make_headers(version: ApiVersion, successor: str) -> Headers:
    """What the answers of a version announce; nothing as long as it is here to stay."""
    headers: list[tuple[str, str]] = []
    if version.deprecated is not None:
        links = '</docs>; rel="deprecation"; type="text/html"'
        headers = [
            ("deprecation", f"@{int(version.deprecated.timestamp())}"),
            ("link", f'{links}, <{successor}>; rel="successor-version"'),
        ]
    if version.sunset is not None:
        headers.append(("sunset", format_datetime(version.sunset, usegmt=True)))
    return tuple((name.encode(), value.encode()) for name, value in headers)
