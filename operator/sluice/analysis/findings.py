"""Judges one check at a time: what was measured, what it must hold, and whether that is sure.

Every check on counts is a share with a limit: errors of requests, answers over a latency, requests that
went elsewhere.  Pass and Fail are each given only where the whole confidence sequence of
``statistics`` lies on one side of the limit.  Where stable sets the limit, the limit is a range as well;
the level is halved between the two, and each verdict takes the end of the range that speaks against it.
So a candidate within its limit is failed, and one beyond it passed, with probability at most alpha,
however often and however long it is looked at.

Must not know specs, names or how levels are shared: ``checks`` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.analysis.statistics import (
    MAX_SAMPLES,
    count_needed,
    count_within,
    is_above,
    is_below,
    proportion_bounds,
    quantile,
    quantile_bounds,
    rate_bounds,
)
from sluice.analysis.tally import Tally, Window
from sluice.analysis.wording import (
    NO_DATA,
    format_number,
    format_rate,
    format_seconds,
    format_share,
)
from sluice.api.rolloutstatus import Verdict

HANDFUL: Final = 5
"""Fewest bad answers that a Fail rests on.

A Fail needs no minSamples: its sequence is valid at every n, and waiting would only send more clients to
a bad candidate.  But two errors among the first two answers are proof of a rate over 1 % only as long as
answers err independently, and the first ones of a process often don't.  Five cost a real breach little:
at a limit of 1 % it takes about that many anyway.
"""

ERROR_FLOOR: Final = 0.001
"""The error rate that nobody is asked to improve on: RelativeToStable allows at least this much.

It is the service level itself (at most 0.1 % errors).  Without it a stable revision without errors would
set the limit 0, which no number of samples can prove, and which one error breaks.
"""

ROUNDS: Final = 3
"""Rounds in a row in which a query must say the same: one number has no n, so nothing else tells luck."""


SETTLING_SECONDS: Final = 30.0
"""Youngest window that Throughput fails on: before that, answers may be missing that are under way."""

_NO_SPLIT: Final = (
    "no requests that the gateway split have been seen: only those say what the candidate should "
    "answer, and old images don't count them"
)
_NO_SPLIT_HERE: Final = (
    "the candidate answers, but none that the gateway split: its image may be too old to count them"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one check. ``samples`` of ``needed`` say how far an Inconclusive one has come.

    ``note`` says why there is no verdict, where the numbers alone don't.
    """

    verdict: Verdict
    value: str
    threshold: str
    samples: int
    needed: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """What a verdict takes: the probability of a wrong one, and the fewest samples of a Pass."""

    alpha: float
    min_samples: int

    def halved(self) -> "Level":
        """For each of two sequences that a verdict rests on."""
        return Level(self.alpha / 2, self.min_samples)


def judge_errors(tally: Tally, limit: float, level: Level) -> Finding:
    """The share of requests that the server failed, against a limit between 0 and 1."""
    bad, n = tally.errors, tally.requests
    verdict, needed = _judge((bad, limit), (bad, limit), n, n, level)
    return Finding(verdict, _share(bad, n), format_share(limit), int(n), needed)


def judge_errors_like_stable(window: Window, increase: float, level: Level) -> Finding:
    """The same against stable's share times 1 + ``increase``, and at least ERROR_FLOOR."""
    level = level.halved()
    (bad, n), stable = (window.candidate.errors, window.candidate.requests), window.stable
    low, high = (
        min(1.0, max(ERROR_FLOOR, bound * (1 + increase)))
        for bound in proportion_bounds(stable.errors, stable.requests, level.alpha)
    )
    verdict, needed = _judge((bad, low), (bad, high), n, n, level)
    if stable.requests:
        seen = max(ERROR_FLOOR, stable.errors / stable.requests * (1 + increase))
        threshold = format_share(min(1.0, seen))
    else:
        threshold = NO_DATA
    return Finding(
        verdict, _share(bad, n), threshold, int(n), needed, _note_on_stable(stable.requests, level)
    )


def judge_latency(tally: Tally, share: float, limit: float, level: Level) -> Finding:
    """That ``share`` of the answers take at most ``limit`` seconds: at most 1 - share take longer."""
    verdict, needed = _judge_over(tally, share, limit, limit, level)
    return _latency(tally, share, verdict, format_seconds(limit), needed)


def judge_latency_like_stable(
    window: Window, share: float, increase: float, level: Level
) -> Finding:
    """That the candidate's quantile is at most stable's, times 1 + ``increase``."""
    level = level.halved()
    stable, factor = window.stable, 1 + increase
    low, high = quantile_bounds(stable.bounds, stable.counts, share, level.alpha)
    verdict, needed = _judge_over(window.candidate, share, low * factor, high * factor, level)
    threshold = format_seconds(quantile(stable.bounds, stable.counts, share) * factor)
    note = _note_on_stable(_total(stable), level)
    if not note and math.isinf(high):
        note = f"stable has n={int(_total(stable))}, too few for this quantile"
    return _latency(window.candidate, share, verdict, threshold, needed, note)


def judge_throughput(
    window: Window, minimum: float, weight: int | None, replicas: int, level: Level
) -> Finding:
    """Answers per second and ready replica of the candidate, against a minimum.

    Too slow a candidate and too little to do look the same from here.  So it fails only where the requests
    that the gateway split and stable answered prove that the candidate's ``weight`` (percent) would have
    brought the minimum.  What else stable gets says nothing of the candidate's share.  To pass, all of the
    candidate's answers count, whoever sent the requests.
    """
    level, seconds, replicas = level.halved(), window.seconds, max(1, replicas)
    n = window.candidate.requests
    low, high = rate_bounds(n, seconds, level.alpha)
    offered, scarce = 0.0, "the traffic on offer may be too little for this minimum"
    if weight is not None and 0 < weight < 100:
        proven, _ = rate_bounds(window.stable.split, seconds, level.alpha)
        offered = proven * weight / (100 - weight)
        if not window.stable.split:
            scarce = _NO_SPLIT
    value = format_rate(n / seconds / replicas) if seconds else NO_DATA
    verdict, note = Verdict.INCONCLUSIVE, ""
    if high / replicas < minimum:
        if offered / replicas < minimum:
            note = scarce
        elif seconds >= SETTLING_SECONDS:
            verdict = Verdict.FAIL
    elif n >= level.min_samples and low / replicas >= minimum:
        verdict = Verdict.PASS
    needed = max(level.min_samples, int(n)) if verdict is Verdict.INCONCLUSIVE else int(n)
    return Finding(verdict, value, format_rate(minimum), int(n), needed, note)


def judge_throughput_like_stable(
    window: Window, decrease: float, weight: int, level: Level
) -> Finding:
    """That per percent of weight the candidate answers at least as much as stable, less ``decrease``.

    Only requests that the gateway split count, on both sides.  It sends each of them to the candidate with
    probability weight/100, so among their answers the candidate's share is a proportion too, whatever the
    traffic does meanwhile.  With r = (1 - decrease) weight / (100 - weight), stable's share must be at most
    1 / (1 + r).

    None at all proves nothing on stable's side, nor on the candidate's where it answers others: an older
    image doesn't count them.
    """
    n, rest = window.candidate.split, window.stable.split
    part = (1 - decrease) * weight / (100 - weight)
    limit = 1 / (1 + part)
    verdict, needed = _judge((rest, limit), (rest, limit), n + rest, n, level)
    note, is_blind = _note_on_stable(rest, level), False
    if not rest:
        note, is_blind = _NO_SPLIT, True
    elif not n and window.candidate.requests:
        note, is_blind = _NO_SPLIT_HERE, True
    is_young = verdict is Verdict.FAIL and window.seconds < SETTLING_SECONDS
    if is_blind or is_young:
        verdict, needed = Verdict.INCONCLUSIVE, max(level.min_samples, needed)
    if not window.seconds:
        value = threshold = NO_DATA
    else:
        value = format_rate(n / window.seconds)
        threshold = format_rate(rest / window.seconds * part)
    return Finding(verdict, value, threshold, int(n), needed, note)


def judge_agreement(agreed: float, compared: float, minimum: float, level: Level) -> Finding:
    """The share of mirrored requests that both answered alike, against a minimum between 0 and 1."""
    bad, limit = compared - agreed, 1 - minimum
    verdict, needed = _judge((bad, limit), (bad, limit), compared, compared, level)
    value = _share(agreed, compared)
    return Finding(verdict, value, format_share(minimum), int(compared), needed)


def judge_query(answers: Sequence[float | None], low: float | None, high: float | None) -> Finding:
    """A plain number against its bounds: a verdict once ROUNDS answers in a row agree.

    ``answers`` are those of the rounds so far, the newest last; None (or no number) for a round without
    one, which breaks the row.
    """
    judged = [_is_within(answer, low, high) for answer in answers]
    newest = judged[-1] if judged else None
    row = 0
    while newest is not None and row < len(judged) and judged[-1 - row] == newest:
        row += 1
    verdict = Verdict.INCONCLUSIVE
    if row >= ROUNDS:
        verdict = Verdict.PASS if newest else Verdict.FAIL
    latest = answers[-1] if answers else None
    value = NO_DATA if latest is None else format_number(latest)
    if low is not None and high is not None:
        threshold = f"{format_number(low)} to {format_number(high)}"
    else:
        threshold = format_number(next(b for b in (low, high, math.nan) if b is not None))
    return Finding(verdict, value, threshold, min(row, ROUNDS), ROUNDS)


def _judge(
    passing: tuple[float, float],
    failing: tuple[float, float],
    n: float,
    samples: float,
    level: Level,
) -> tuple[Verdict, int]:
    """The verdict on bad answers of ``n`` against a limit, and the samples that it takes.

    ``passing`` and ``failing`` are bad answers and limit as a Pass and a Fail must see them, equal where
    the limit is exact.  ``samples`` of ``n`` are the candidate's.
    """
    bad, limit = failing
    if bad >= HANDFUL and is_above(bad, n, limit, level.alpha):
        return Verdict.FAIL, int(samples)
    bad, limit = passing
    if samples < level.min_samples:
        return Verdict.INCONCLUSIVE, level.min_samples
    if is_below(bad, n, limit, level.alpha):
        return Verdict.PASS, int(samples)
    if bad > n * limit:
        bad, limit = failing
        if bad < n * limit:  # between the two: more of stable's samples must narrow the limit first
            return Verdict.INCONCLUSIVE, MAX_SAMPLES
    needed = count_needed(bad / n, limit, level.alpha) * (samples / n)
    return Verdict.INCONCLUSIVE, min(MAX_SAMPLES, max(math.ceil(needed), int(samples) + 1))


def _judge_over(
    tally: Tally, share: float, low: float, high: float, level: Level
) -> tuple[Verdict, int]:
    """``_judge`` for answers that took longer than a limit known to lie between two values."""
    n, bounds = _total(tally), tally.bounds
    passing = n - count_within(bounds, tally.counts, low) if n else 0.0
    # Beyond the last bound nobody knows how long an answer took, so it may have kept to the limit.
    is_known = bool(bounds) and high <= bounds[-1]
    failing = n - count_within(bounds, tally.counts, high) if n and is_known else 0.0
    limit = 1 - share
    return _judge((min(n, max(0.0, passing)), limit), (max(0.0, failing), limit), n, n, level)


def _latency(
    tally: Tally, share: float, verdict: Verdict, threshold: str, needed: int, note: str = ""
) -> Finding:
    n = _total(tally)
    value = format_seconds(quantile(tally.bounds, tally.counts, share))
    return Finding(verdict, value, threshold, int(n), needed, note)


def _note_on_stable(n: float, level: Level) -> str:
    return "" if n >= level.min_samples else f"stable has n={int(n)} of {level.min_samples}"


def _total(tally: Tally) -> float:
    return tally.counts[-1] if tally.counts else 0.0


def _share(part: float, n: float) -> str:
    return format_share(part / n) if n else NO_DATA


def _is_within(answer: float | None, low: float | None, high: float | None) -> bool | None:
    if answer is None or not math.isfinite(answer):
        return None
    return (low is None or answer >= low) and (high is None or answer <= high)
