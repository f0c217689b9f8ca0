"""From what was measured to the one JSON object: figures, ratios, and which goals were missed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving.load import Measured

# By device: key, how it is compared, the goal. A key without a value was not measured and misses nothing.
GOALS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "cpu": (
        ("failed", "<=", 0),
        ("least_cosine", ">=", 0.99),
        ("ratio_vs_ceiling", ">=", 0.85),
        ("ratio_vs_baseline", ">=", 1.8),
        ("p95_ratio_vs_baseline", "<=", 1.0),
        ("ratio_vs_infinity", ">=", 1.2),
        ("p95_ratio_vs_infinity", "<=", 1.0),
    ),
    "cuda": (
        ("failed", "<=", 0),
        ("least_cosine", ">=", 0.99),
        ("ratio_vs_baseline", ">=", 10.0),
        ("ratio_vs_infinity", ">=", 10.0),
        ("gpu_busy_pct", ">=", 90.0),
    ),
}
_SAMPLE = re.compile(
    r'^sluice_inference_(\w+?)(?:\{(?:stage="(\w+)"|model="[^"]*")\})? ([0-9.e+-]+)$'
)


def describe(measured: Measured, images_per_request: int) -> dict[str, Any]:
    """Throughput and latencies of one server. Latencies are those of whole requests."""
    return {
        "images_per_s": _round(measured.per_second * images_per_request),
        "p50_ms": _round(measured.quantile_ms(0.5)),
        "p95_ms": _round(measured.quantile_ms(0.95)),
        "p99_ms": _round(measured.quantile_ms(0.99)),
        "failed": measured.failed,
        "statuses": dict(measured.statuses),
        "client_cpus": _round(
            measured.client_cpu_s / measured.seconds if measured.seconds else math.nan, 3
        ),
    }


def compare(
    ours: Mapping[str, Any], ceiling: float | None, rivals: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, float | None]:
    """The ratios that the goals are about; None where there is nothing to compare with.

    A rival that failed requests is no measure: who fails fast is fast.
    """
    ratios: dict[str, float | None] = {
        "ratio_vs_ceiling": _divide(ours["images_per_s"], ceiling),
    }
    for name, rival in rivals.items():
        theirs = {} if rival is None or rival["failed"] else rival
        ratios[f"ratio_vs_{name}"] = _divide(ours["images_per_s"], theirs.get("images_per_s"))
        ratios[f"p95_ratio_vs_{name}"] = _divide(ours["p95_ms"], theirs.get("p95_ms"))
    return ratios


def find_unfit(rivals: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Why rivals that ran are no measure."""
    return {
        name: f"{rival['failed']} of its requests failed, so it is no measure: {rival['statuses']}"
        for name, rival in rivals.items()
        if rival is not None and rival["failed"]
    }


def find_missed(report: Mapping[str, Any], device: str) -> list[str]:
    """The goals that were measured and missed, in words."""
    missed = []
    for key, sign, goal in GOALS[device]:
        value = report.get(key)
        if value is None:
            continue
        if (value < goal) if sign == ">=" else (value > goal):
            missed.append(f"{key} {value:g} is not {sign} {goal:g}")
    return missed


def read_stages(exposition: str) -> dict[str, float]:
    """Sums and counts of our server's stages and batches, from its /metrics."""
    found = {}
    for line in exposition.splitlines():
        match = _SAMPLE.match(line)
        if match and (match[2] or match[1].startswith("batch_size_")):
            found[f"{match[1]}/{match[2] or ''}"] = float(match[3])
    return found


def describe_stages(
    before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, float | None]:
    """Milliseconds of each stage on average, and the mean batch, between two readings."""

    def mean(name: str, stage: str, scale: float) -> float | None:
        count, total = (
            after.get(key, 0.0) - before.get(key, 0.0)
            for key in (f"{name}_count/{stage}", f"{name}_sum/{stage}")
        )
        return _round(scale * total / count) if count else None

    names = sorted(key.partition("/")[2] for key in after if key.startswith("stage_seconds_count/"))
    stages = {f"{stage}_ms": mean("stage_seconds", stage, 1000) for stage in names}
    return {**stages, "mean_batch": mean("batch_size", "", 1)}


def find_cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Of two vectors of one length; NaN where one of them is zero."""
    norms = math.hypot(*left) * math.hypot(*right)
    product = math.fsum(one * other for one, other in zip(left, right, strict=True))
    return product / norms if norms else math.nan


def find_least_cosine(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Of vectors of the same pictures. One that is zero or no number is as unlike as can be."""
    cosines = (find_cosine(one, other) for one, other in zip(ours, theirs, strict=True))
    return min(0.0 if math.isnan(cosine) else round(cosine, 6) for cosine in cosines)


def _divide(value: float | None, by: float | None) -> float | None:
    return round(value / by, 3) if value is not None and by else None


def _round(value: float, digits: int = 2) -> float | None:
    return None if math.isnan(value) else round(value, digits)
