"""Whose failure an answer is, and how requests were split between revisions.

Pure.  An answer that the server itself stamped with a candidate's revision is the candidate's own, whatever
its status.  Everything else that is no success is ours: what the gateway made up, what a stable revision
failed at, every reset, every request without an answer.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from benchmarks.traffic import Answer

# With so many requests, a share within `CLOSE_POINTS` of the weight is as good as the weight.
MANY = 10_000
CLOSE_POINTS = 1.0
# Below this a fair choice is no explanation (chi-square test with one degree of freedom).
LEAST_P = 1e-7


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed requests by their owner; `ours` says what each of ours was."""

    by_sluice: int
    by_candidate: int
    ours: Counter[str]


def count_failures(answers: Iterable[Answer], candidates: Collection[str]) -> Failures:
    """The failures among these answers; `candidates` are revisions that were not stable yet."""
    by_candidate = 0
    ours: Counter[str] = Counter()
    for answer in answers:
        if answer.is_good and answer.revision:
            continue
        if answer.revision in candidates:
            by_candidate += 1
            continue
        connection = "fresh" if answer.is_fresh else "kept"
        who = answer.revision or answer.routed or "the gateway"
        ours[f"{answer.status} by {who}, {connection}: {answer.note}"] += 1
    return Failures(ours.total(), by_candidate, ours)


@dataclass(frozen=True, slots=True)
class Share:
    """What a revision got of `n` requests while `weight` percent were to be its share."""

    weight: int
    n: int
    percent: float
    p: float  # how likely a fair choice is to be so far off, or further

    @property
    def points(self) -> float:
        """How far the share is from the weight, in percentage points."""
        return abs(self.percent - self.weight)

    @property
    def is_good(self) -> bool:
        """Whether the weight explains the share."""
        if self.n == 0:
            return False
        return (self.n >= MANY and self.points <= CLOSE_POINTS) or self.p > LEAST_P

    def dump(self) -> dict[str, object]:
        """For the report."""
        return {
            "weight": self.weight,
            "n": self.n,
            "percent": round(self.percent, 2),
            "points": round(self.points, 2),
            "p": float(f"{self.p:.2g}"),
        }


def measure_share(
    answers: Iterable[Answer], revision: str, weight: int, since: float, until: float
) -> Share:
    """The share of a revision among the answers to what was sent in this time, failures too."""
    sent = [answer for answer in answers if since <= answer.sent <= until]
    stamped = [answer.revision or answer.routed for answer in sent]
    known = [one for one in stamped if one]
    n, hits = len(known), known.count(revision)
    return Share(weight, n, 100 * hits / n if n else 0.0, find_p(hits, n, weight / 100))


def find_p(hits: int, n: int, share: float) -> float:
    """The chi-square test of `hits` of `n` against a share: the probability of such a deviation."""
    if n == 0:
        return 0.0
    if share in (0.0, 1.0):
        return 1.0 if hits == n * share else 0.0
    expected, other = n * share, n * (1 - share)
    chi = (hits - expected) ** 2 * (1 / expected + 1 / other)
    return math.erfc(math.sqrt(chi / 2))
