"""Roles, and which of them a path needs. A path that isn't named here needs the role of inference.

So a new route is closed until somebody opens it.
"""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """What a key is for. `admin` is for everything."""

    INFER = "infer"
    OPS = "ops"
    ADMIN = "admin"


# For kubelets and for the operator, which have no key: they say that the server runs and how its
# answers fare in sum, and nothing of any request.
ALWAYS_OPEN = frozenset(
    {"/health", "/ready", "/metrics/rollout", "/v2/health/live", "/v2/health/ready"}
)
_OPS = frozenset({"/status", "/metrics", "/docs", "/openapi.json"})
_OPEN_UNLESS_STRICT = frozenset({"/metrics", "/docs", "/openapi.json"})


def find_role(path: str, *, strict: bool) -> Role | None:
    """The role that a path needs, None where it is open to all."""
    if path in ALWAYS_OPEN:
        return None
    if path in _OPEN_UNLESS_STRICT and not strict:
        return None
    return Role.OPS if path in _OPS else Role.INFER


def may(role: Role, need: Role) -> bool:
    """Does a key with `role` open what needs `need`?"""
    return role is Role.ADMIN or role is need
