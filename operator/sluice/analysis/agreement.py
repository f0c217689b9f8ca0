"""What the comparer of a shadow step has counted: its text, its sum over the window, the check on it.

Which outcomes count is said in `docs/contract.md`, "The comparer".  Must not fetch, or know the clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sluice.analysis.checks import Agreement
from sluice.analysis.exposition import (
    read_samples,
    require_empty,
    take_sample,
    take_start_time,
)
from sluice.api.check import Check, CheckMetric, CheckType

CHECK_NAME: Final = "shadow"
"""How `rollout.shadow.minAgreementPercent` is called among the checks."""

PROVABLE: Final = "99.9"
"""Percent that a bound of 100 is judged by: no number of samples can prove that there is no exception."""

ANSWERS: Final = "sluice_compare_answers_total"
START_TIME: Final = "sluice_compare_start_time_seconds"
AGREED: Final = "agree"
DISAGREED: Final = ("disagree", "candidate_failed")
IGNORED: Final = ("stable_failed", "both_failed", "skipped")


@dataclass(frozen=True, slots=True)
class Counts:
    """What one comparer process has counted since it began at `start_time` (Unix time)."""

    start_time: float
    agreed: float
    disagreed: float


def parse_counts(text: str) -> Counts:
    """The counts in a comparer's `/metrics/rollout`; ScrapeError says what is wrong or missing."""
    samples = read_samples(text, frozenset({ANSWERS, START_TIME}))
    found = {
        outcome: take_sample(samples, ANSWERS, (("outcome", outcome),))
        for outcome in (AGREED, *DISAGREED, *IGNORED)
    }
    start_time = take_start_time(samples, START_TIME)
    require_empty(samples)
    return Counts(start_time, found[AGREED], sum(found[outcome] for outcome in DISAGREED))


class Comparisons:
    """Sums the counts of one step, round by round.

    - The window begins with the first round that heard the comparer; what it had counted by then (while
      the mirror was being set up) is left out.
    - A process that began later counts whole: another pod, or the same one after a restart, which its
      start time or a count that fell tells.  What the old one did after its last round is lost.
    - A pod that wasn't heard keeps its last counts: the next ones bring what it did meanwhile.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._heard = 0.0  # time of the latest round that heard any
        self._last: dict[str, Counts] = {}
        self.total = Agreement()

    def add(self, time: float, heard: Mapping[str, Counts]) -> None:
        """One round at Unix time `time`: the counts of the pods that gave any."""
        for pod, counts in heard.items():
            before = self._last.get(pod)
            self._last[pod] = counts
            if before is None and (self._began is None or counts.start_time < self._began):
                continue
            if before is None or _is_another(before, counts):
                before = Counts(counts.start_time, 0.0, 0.0)
            agreed = counts.agreed - before.agreed
            disagreed = counts.disagreed - before.disagreed
            self.total = Agreement(
                self.total.agreed + agreed, self.total.compared + agreed + disagreed
            )
        if heard:
            self._began = time if self._began is None else self._began
            self._heard = time
        if self._began is not None:
            self.total = replace(self.total, silence=time - self._heard)


def make_check(least: int) -> Check:
    """The check of `rollout.shadow`: at least so many percent agree; 0 decides nothing."""
    return Check.model_construct(
        name=CHECK_NAME,
        metric=CheckMetric.AGREEMENT,
        type=CheckType.ABSOLUTE,
        min_percent=str(least) if least < 100 else PROVABLE,
        dry_run=least == 0,
    )


def _is_another(before: Counts, after: Counts) -> bool:
    fell = after.agreed < before.agreed or after.disagreed < before.disagreed
    return fell or after.start_time != before.start_time
