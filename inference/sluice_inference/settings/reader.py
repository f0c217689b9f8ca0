"""Reads environment variables one by one. Knows how values look, not which there are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path


class Reader:
    """Reads variables one by one and remembers every problem, so that all are told at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self.env.get(name, "").strip() or default

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.problems.append(f"{name}: {value!r} is not one of {', '.join(allowed)}")
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
            self.problems.append(f"{name}: {raw!r} is not a number between {low:g} and {high:g}")
            return default
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        raw = self.text(name)
        if not raw:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", raw) or not low <= int(raw) <= high:
            self.problems.append(f"{name}: {raw!r} is not a whole number between {low} and {high}")
            return default
        return int(raw)

    def flag(self, name: str, default: bool) -> bool:
        return self.choice(name, str(default).lower(), ("true", "false")) == "true"

    def names(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        values = tuple(part.strip() for part in self.text(name).split(",") if part.strip())
        for value in values:
            if value not in allowed:
                self.problems.append(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        return values


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
