"""Credentials and hosts for fetching and pushing, from the environment. Never logged."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Access:
    """How artifact stores are spoken to. `plain_http` names registries without TLS."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    plain_http: frozenset[str] = frozenset()
    retry_s: float = 60.0

    def make_basic(self) -> str:
        """The value of an Authorization header for user and password, or nothing."""
        if not self.username:
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    def make_authorization(self) -> str:
        """The value of an Authorization header to send unasked, or nothing."""
        return f"Bearer {self.token}" if self.token else self.make_basic()


def read_access(env: Mapping[str, str]) -> Access:
    """Access from ARTIFACT_USERNAME, ARTIFACT_PASSWORD, ARTIFACT_TOKEN, ARTIFACT_PLAIN_HTTP."""
    hosts = env.get("ARTIFACT_PLAIN_HTTP", "").split(",")
    return Access(
        username=env.get("ARTIFACT_USERNAME", ""),
        password=env.get("ARTIFACT_PASSWORD", ""),
        token=env.get("ARTIFACT_TOKEN", "").strip(),
        plain_http=frozenset(host.strip() for host in hosts if host.strip()),
    )
