"""Load on one server from several client processes, and what it measured.

Knows addresses and encoded requests; nothing of models or of whose server it is.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.client import Plan

_ROOT = Path(__file__).parents[2]
# From "all are ready" to the common start: longer than a scheduler takes to wake each of them.
_HEAD_START_S = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked. `rate`: requests a second of all processes together; None is a closed loop."""

    clients: int
    processes: int
    seconds: float
    warm_s: float
    rate: float | None = None


@dataclass(slots=True)
class Measured:
    """What one or more windows of load gave. Latencies of successful requests only."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    client_cpu_s: float = 0.0

    def add(self, other: Measured) -> None:
        self.seconds += other.seconds
        self.latencies_s += other.latencies_s
        self.statuses.update(other.statuses)
        self.client_cpu_s += other.client_cpu_s

    @property
    def per_second(self) -> float:
        """Successful requests a second."""
        return len(self.latencies_s) / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        return sum(self.statuses.values()) - self.statuses["200"]

    def quantile_ms(self, share: float) -> float:
        """A quantile of the latencies, in milliseconds; NaN without any."""
        return 1000 * find_quantile(self.latencies_s, share)


def find_quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them don't exceed; NaN without any."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def apply_load(port: int, requests: Path, load: Load) -> Measured:
    """Runs the client processes side by side for one window. Raises RuntimeError if one of them dies."""
    plans = make_plans(port, requests, load)
    processes = [_start(plan) for plan in plans]
    try:
        for process in processes:
            if _stdout(process).readline().strip() != "ready":
                raise RuntimeError("a client process ended before it was ready")
        started = time.monotonic() + _HEAD_START_S
        for process in processes:
            _tell(process, str(started))
        measured = Measured(seconds=load.seconds)
        for process in processes:
            said: dict[str, Any] = json.loads(_stdout(process).readline() or "null") or {}
            if not said:
                raise RuntimeError("a client process ended without a result")
            measured.latencies_s += said["latencies_s"]
            measured.statuses.update(said["statuses"])
            measured.client_cpu_s += said["cpu_s"]
        return measured
    finally:
        for process in processes:
            if process.poll() is None:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.communicate()


def make_plans(port: int, requests: Path, load: Load) -> list[Plan]:
    """The load, divided among its processes; none of them has no client."""
    count = max(1, min(load.processes, load.clients))
    return [
        Plan(
            port=port,
            requests=str(requests),
            clients=load.clients // count + (at < load.clients % count),
            seconds=load.seconds,
            warm_s=load.warm_s,
            rate=load.rate / count if load.rate is not None else None,
            seed=at,
        )
        for at in range(count)
    ]


def _start(plan: Plan) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.client"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _tell(process, json.dumps(asdict(plan)))
    return process


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _stdout(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout
