"""Counts what stable and candidate answered while both were watched: scrapes become tallies.

Counters restart, pods come and go, scrapes fail.  The ledger turns all that into what both tracks did in
one and the same stretch of time.  Must not fetch, judge, or know the clock.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from sluice.analysis.exposition import Scrape


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers of one track.

    ``requests`` are the answers that say something about the model: clients' own errors (4xx) are left
    out, so that a flood of bad requests hides nothing.  ``errors`` of them were the server's, or came from
    a fallback instead.  ``bounds`` (seconds) and the cumulative ``counts`` are the histogram of
    ``Scrape``; a tally without counts has seen no histogram yet.  ``split`` are those of ``requests`` that
    the gateway split by weight: of them alone the weight says how many each track should have.
    """

    requests: float = 0.0
    errors: float = 0.0
    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    split: float = 0.0

    def __add__(self, other: Self) -> "Tally":
        """Both together.

        Where their bounds differ (servers of two versions), only the common ones are kept: there the
        cumulative counts stay exact.
        """
        mine, its = _align(self, other)
        return Tally(
            self.requests + other.requests,
            self.errors + other.errors,
            mine.bounds,
            tuple(a + b for a, b in zip(mine.counts, its.counts, strict=True)),
            self.split + other.split,
        )

    def __sub__(self, other: Self) -> "Tally":
        """What came after ``other``; ValueError where that would be less than nothing."""
        mine, its = _align(self, other)
        counts = tuple(a - b for a, b in zip(mine.counts, its.counts, strict=True))
        requests, errors = self.requests - other.requests, self.errors - other.errors
        split = self.split - other.split
        if min(requests, errors, split, *counts, 0.0) < 0:
            raise ValueError("a tally can't be less than an earlier one of the same process")
        return Tally(requests, errors, mine.bounds, counts, split)


def make_tally(scrape: Scrape) -> Tally:
    """All that a process has counted. An answer of the fallback is an error of the track that was asked."""
    errors = scrape.answers["error"] + scrape.answers["fallback"]
    requests = scrape.answers["ok"] + errors
    return Tally(requests, errors, scrape.bounds, scrape.counts, scrape.split)


@dataclass(frozen=True, slots=True)
class Window:
    """What both tracks did in the same ``seconds``; nothing was heard in the last ``silence`` of seconds."""

    candidate: Tally = Tally()
    stable: Tally = Tally()
    seconds: float = 0.0
    silence: float = 0.0


Scrapes = Mapping[str, Scrape | None]
"""One track's pods by name; None for one that gave no samples this time."""


class Ledger:
    """Sums the scrapes of one step, round by round.

    - The window begins with the first round that heard both tracks. What the pods heard in it had counted
      by then is their baseline and doesn't count.
    - A pod that is first heard later counts whole if it started after the window began; otherwise that
      first scrape is its baseline, and what it did before is unknown and left out.
    - Where the start time changed or a count fell, the process is another one: its count counts whole.
      What the old one did after its last scrape is lost.
    - A pod that wasn't heard keeps its last scrape: the next one brings what it did meanwhile.
    - A round in which a track wasn't heard moves neither track: what the other one did is kept aside
      until the missing one is heard again, which then brings its own part of that time. So both always
      cover the same stretch. Stable without pods has nothing to miss, and holds nothing up.
    - A round that is no later than the last one is late, and is left out whole.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        """Unix time of the window's first round."""
        self._last = float("-inf")  # of the latest round
        self._ended = 0.0  # of the latest round that moved the window
        self._candidate = _Track()
        self._stable = _Track()

    def add(self, time: float, candidate: Scrapes, stable: Scrapes) -> bool:
        """One round at Unix time ``time``; whether it moved the window."""
        if time <= self._last:
            return False
        self._last = time
        rounds = ((self._candidate, candidate), (self._stable, stable))
        for track, scrapes in rounds:
            track.hear(scrapes, self.began)
        if not (_is_heard(candidate) and (not stable or _is_heard(stable))):
            return False
        if self.began is None:
            self.began = time
            for track, scrapes in rounds:
                track.begin(scrapes)
        for track, _ in rounds:
            track.settle()
        self._ended = time
        return True

    def window(self) -> Window:
        """What has been counted so far."""
        if self.began is None:
            return Window()
        seconds, silence = self._ended - self.began, self._last - self._ended
        return Window(self._candidate.total, self._stable.total, seconds, silence)


class _Track:
    """The pods of one revision."""

    def __init__(self) -> None:
        self._last: dict[str, Scrape] = {}
        self.pending = Tally()  # heard, but not yet matched by the other track
        self.total = Tally()

    def hear(self, scrapes: Scrapes, began: float | None) -> None:
        """Add what the pods did since they were heard last."""
        for pod, scrape in scrapes.items():
            if scrape is None:
                continue
            before = self._last.get(pod)
            self._last[pod] = scrape
            if before is None:
                # Before the window has begun there is nothing that it could count from.
                if began is not None and scrape.start_time >= began:
                    self.pending += make_tally(scrape)
            elif _is_another(before, scrape):
                self.pending += make_tally(scrape)
            else:
                self.pending += make_tally(scrape) - make_tally(before)

    def begin(self, scrapes: Scrapes) -> None:
        """The window begins with this round: who wasn't heard in it has no baseline yet."""
        self._last = {pod: scrape for pod, scrape in scrapes.items() if scrape is not None}
        self.pending = Tally()

    def settle(self) -> None:
        """The other track was heard as well: what is pending counts."""
        self.total += self.pending
        self.pending = Tally()


def _is_heard(scrapes: Scrapes) -> bool:
    return any(scrape is not None for scrape in scrapes.values())


def _is_another(before: Scrape, after: Scrape) -> bool:
    """Whether another process answers under the pod's name."""
    if before.start_time != after.start_time or before.bounds != after.bounds:
        return True
    was, now = make_tally(before), make_tally(after)
    if any(after.answers[outcome] < count for outcome, count in before.answers.items()):
        return True
    if now.split < was.split:
        return True
    # Per bucket rather than cumulative: a bucket that fell may hide behind a lower one that rose.
    return any(b < a for a, b in zip(_parts(was), _parts(now), strict=True))


def _parts(tally: Tally) -> list[float]:
    return [high - low for low, high in zip((0.0, *tally.counts), tally.counts, strict=False)]


def _align(one: Tally, other: Tally) -> tuple[Tally, Tally]:
    """Both on the bounds that they share; one without a histogram takes the other's bounds."""
    if one.bounds == other.bounds and len(one.counts) == len(other.counts):
        return one, other
    if not one.counts:
        return _zeros(one, other), other
    if not other.counts:
        return one, _zeros(other, one)
    shared = tuple(sorted(set(one.bounds) & set(other.bounds)))
    return _reduce(one, shared), _reduce(other, shared)


def _zeros(tally: Tally, like: Tally) -> Tally:
    return replace(tally, bounds=like.bounds, counts=(0.0,) * len(like.counts))


def _reduce(tally: Tally, bounds: tuple[float, ...]) -> Tally:
    counts = tuple(tally.counts[bisect_right(tally.bounds, bound) - 1] for bound in bounds)
    return replace(tally, bounds=bounds, counts=(*counts, tally.counts[-1]))
