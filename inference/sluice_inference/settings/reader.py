"""Reads environment variables one by one. Knows how values look, not which there are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


class Reader:
    """Reads variables one by one and remembers every problem, so that all are told at once."""

    def __init__(self, env: Mapping[str, str], prefix: str = "") -> None:
        self.env = env
        self.prefix = prefix
        self.problems: list[str] = []

    def scoped(self, prefix: str) -> Reader:
        """A reader that puts `prefix` before every name; what it finds wrong is told with ours."""
        reader = Reader(self.env, self.prefix + prefix)
        reader.problems = self.problems
        return reader

    def tell(self, name: str, problem: str) -> None:
        """Remember that variable `name` can't be used, and why."""
        self.problems.append(f"{self.prefix}{name}: {problem}")

    def text(self, name: str, default: str = "") -> str:
        return self.env.get(self.prefix + name, "").strip() or default

    def origin(self, name: str, whose: str, *, is_required: bool = False) -> str:
        """Scheme, host and port of a server, without a path; `whose` says which server is meant."""
        raw = self.text(name)
        if (raw or is_required) and not _is_origin(raw):
            self.tell(
                name,
                f"{raw!r} is not http://HOST[:PORT] or https://HOST[:PORT] without a path; give the "
                f"address of {whose}",
            )
        return raw.rstrip("/")

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.tell(name, f"{value!r} is not one of {', '.join(allowed)}")
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        raw = self.text(name)
        if not raw:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            self.tell(name, f"{raw!r} is not a number between {low:g} and {high:g}")
            return default
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        raw = self.text(name)
        if not raw:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", raw) or not low <= int(raw) <= high:
            self.tell(name, f"{raw!r} is not a whole number between {low} and {high}")
            return default
        return int(raw)

    def flag(self, name: str, default: bool) -> bool:
        return self.choice(name, str(default).lower(), ("true", "false")) == "true"

    def names(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        values = tuple(part.strip() for part in self.text(name).split(",") if part.strip())
        for value in values:
            if value not in allowed:
                self.tell(name, f"{value!r} is not one of {', '.join(allowed)}")
        return values


def _is_origin(raw: str) -> bool:
    try:
        parts = urlsplit(raw)
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment or parts.username or parts.password)
        )
    except ValueError:
        return False


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs this process may really use: affinity, then the container's quota (rounded up)."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return available
    if quota == "max":
        return available
    return max(1, min(available, -(-int(quota) // int(period))))
