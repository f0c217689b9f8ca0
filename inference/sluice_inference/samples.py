"""What rollouts are judged by: answers to clients' inference requests, counted small and fast.

`GET /metrics/rollout` gives these alone, because an operator reads them from every pod, often. No
labels but the outcome, so the size is fixed. Must not decide what a request is: `http` does.

The buckets are geometric, so that a quantile read from them is off by less than their ratio at any
latency. Their bounds are the same in every server: counts of pods and versions may be added.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

OUTCOMES = ("ok", "client_error", "error", "fallback")
_LOWEST_S, _HIGHEST_S = 0.0005, 60.0
_STEPS = 123  # the ratio of neighbours is 120,000 ** (1 / 123) = 1.0998
BOUNDS_S = tuple(
    float(f"{_LOWEST_S * (_HIGHEST_S / _LOWEST_S) ** (step / _STEPS):.6g}")
    for step in range(_STEPS + 1)
)
_PREFIX = "sluice_inference"
_BUCKETS = tuple(
    f'{_PREFIX}_answer_seconds_bucket{{le="{bound}"}} '
    for bound in (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")
)


class Samples:
    """Counters since the process started. Event loop only, so nothing is locked."""

    def __init__(self, started: float | None = None) -> None:
        self._started = time.time() if started is None else started
        self._answers = dict.fromkeys(OUTCOMES, 0)
        self._split = 0
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._seconds = 0.0

    def count(self, outcome: str, seconds: float, *, is_split: bool = False) -> None:
        """Count one answer; `seconds` is how long its client waited for it.

        `is_split`: a gateway chose by weight who answers. A client's own error says nothing of the model,
        so it has no place in the latencies, nor among those.
        """
        self._answers[outcome] += 1
        if outcome != "client_error":
            self._split += is_split
            self._buckets[bisect_left(BOUNDS_S, seconds)] += 1
            self._seconds += seconds

    def render(self) -> bytes:
        """All of it in Prometheus' text format, under 16 KiB whatever the counts."""
        return ("\n".join(self._write_lines()) + "\n").encode()

    def _write_lines(self) -> Iterator[str]:
        name = f"{_PREFIX}_answers_total"
        yield f"# HELP {name} Answers to clients' inference requests."
        yield f"# TYPE {name} counter"
        for outcome, count in self._answers.items():
            yield f'{name}{{outcome="{outcome}"}} {count}'
        name = f"{_PREFIX}_split_answers_total"
        yield f"# HELP {name} Those to requests that a gateway split by weight, without client errors."
        yield f"# TYPE {name} counter"
        yield f"{name} {self._split}"
        name = f"{_PREFIX}_answer_seconds"
        yield f"# HELP {name} What clients waited for them; client errors are left out."
        yield f"# TYPE {name} histogram"
        for prefix, count in zip(_BUCKETS, accumulate(self._buckets), strict=True):
            yield f"{prefix}{count}"
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {sum(self._buckets)}"
        name = f"{_PREFIX}_start_time_seconds"
        yield f"# HELP {name} When this process began to count, in Unix time."
        yield f"# TYPE {name} gauge"
        yield f"{name} {self._started:.3f}"


def choose_outcome(status: int, *, is_fallback: bool, is_partial: bool) -> str:
    """The outcome of an answer. Status 0: the server gave none.

    `is_partial`: an input of several failed by the server's fault, though the others were answered.
    """
    if status >= 500 or status == 0 or is_partial:
        return "error"
    if status >= 400:
        return "client_error"
    return "fallback" if is_fallback else "ok"
