"""Every metric of the comparer, its name in this one place. Prefix `sluice_compare_`."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sluice_inference.compare.agreement import Comparison, Outcome

# Fine where embeddings of one space lie, coarse where they don't.
_COSINES = (-1.0, 0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999, 0.9999, 1.0)
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# What an operator reads, often; the rest is for people.
_ROLLOUT = (
    "sluice_compare_answers_total",
    "sluice_compare_cosine_bucket",
    "sluice_compare_cosine_count",
    "sluice_compare_start_time_seconds",
)
TRACKS = ("stable", "candidate")
REASONS = (
    "shed",
    "too_large",
    "cut_off",
    "draining",
    "refused",
    "other_space",
    "not_comparable",
    "internal",
)


class Counts:
    """The metrics of one process, in a registry of their own. Every label's values exist at once."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answers = Counter(
            "sluice_compare_answers",
            "Mirrored requests by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self._cosine = Histogram(
            "sluice_compare_cosine",
            "Cosine of stable's and candidate's embedding of one input, same space only.",
            buckets=_COSINES,
            registry=registry,
        )
        self._skipped = Counter(
            "sluice_compare_skipped",
            "Mirrored requests that were not compared, by reason.",
            ("reason",),
            registry=registry,
        )
        self._top1 = Counter(
            "sluice_compare_top1",
            "Inputs that both gave a label, by whether it is the same.",
            ("same",),
            registry=registry,
        )
        self._overlap = Histogram(
            "sluice_compare_top_k_overlap",
            "Share of stable's top-k labels that are among candidate's.",
            buckets=_SHARES,
            registry=registry,
        )
        self._asked = Counter(
            "sluice_compare_asked",
            "Answers of each track by status code; 0 where none came in time.",
            ("track", "code"),
            registry=registry,
        )
        self._ask_seconds = Histogram(
            "sluice_compare_ask_seconds",
            "Time each track took to answer.",
            ("track",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "sluice_compare_in_flight", "Mirrored requests under way.", registry=registry
        )
        Gauge(
            "sluice_compare_start_time_seconds",
            "When this process began to count, in Unix time.",
            registry=registry,
        ).set(time.time())
        for outcome in Outcome:
            self._answers.labels(outcome)
        for reason in REASONS:
            self._skipped.labels(reason)
        for same in ("true", "false"):
            self._top1.labels(same)
        for track in TRACKS:
            self._ask_seconds.labels(track)

    def skip(self, reason: str) -> None:
        """Count one mirrored request that was not compared."""
        self._answers.labels(Outcome.SKIPPED).inc()
        self._skipped.labels(reason).inc()

    def count(self, comparison: Comparison) -> None:
        """Count one comparison."""
        for is_same in comparison.top1:
            self._top1.labels(str(is_same).lower()).inc()
        for overlap in comparison.overlaps:
            self._overlap.observe(overlap)
        for cosine in comparison.cosines:
            self._cosine.observe(cosine)
        if comparison.outcome is Outcome.SKIPPED:
            self.skip(comparison.reason)
        else:
            self._answers.labels(comparison.outcome).inc()

    def count_ask(self, track: str, status: int, seconds: float) -> None:
        """Count one track's answer; status 0 where none came."""
        self._asked.labels(track, str(status)).inc()
        self._ask_seconds.labels(track).observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def render_rollout(self) -> bytes:
        """The few that an operator reads."""
        return generate_latest(self.registry.restricted_registry(_ROLLOUT))
