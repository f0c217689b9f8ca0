"""bench-verdicts: how often an analysis is wrong, ours beside a bare threshold that is checked every round.

Simulates candidates whose true error rate or latency is known, round by round, with seeded randomness: no
cluster and no clock.  Prints a table; the last line of stdout is one JSON object; exit code 1 when wrong
verdicts are more frequent than their level allows.

Ours is `sluice.analysis.checks.evaluate` as the operator calls it, until it gives a verdict or the samples
are used up.  The bare threshold is what tools do that compare each round's own value with a number: the
first round over it fails, BARE_ROUNDS rounds without one pass.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate

from sluice.analysis.checks import evaluate
from sluice.analysis.statistics import quantile
from sluice.analysis.tally import Tally, Window
from sluice.api.check import Check
from sluice.api.rolloutstatus import Verdict

ALPHA = 0.05
MIN_SAMPLES = 300
ROUND = 300  # requests of the candidate between two looks: 20/s for 15 s, as many as minSamples
BARE_ROUNDS = 20  # a step of five minutes
LIMIT_PERCENT = 1.0
ERROR_PERCENTS = (0.5, 1.0, 2.0, 5.0)
SHIFTS = (1.0, 1.1, 1.2, 1.3, 1.5)  # the candidate's latency in stable's
INCREASE_PERCENT = 20
STABLE_PER_CANDIDATE = 3  # a weight of 25
STABLE_P95_S, SIGMA = 0.176, 0.5  # lognormal
# Geometric buckets as the server's: neighbours are about 10 % apart.
BOUNDS = tuple(0.0005 * 120_000 ** (step / 123) for step in range(124))
MAX_SAMPLES = {"errors": 20_000, "latency": 10_000}


@dataclass(frozen=True)
class Row:
    """What became of all runs of one candidate, by shares of the runs."""

    check: str
    truth: str
    is_breach: bool
    fail: float
    passed: float
    none: float
    median_samples: float | None  # to a verdict, of the runs that came to one
    bare_fail: float
    bare_median_samples: float | None

    @property
    def wrong(self) -> float:
        """The share of wrong verdicts, undecided runs being none."""
        return self.passed if self.is_breach else self.fail


Round = tuple[
    Tally, Tally, bool
]  # the candidate's, stable's, whether the bare threshold is crossed


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300, help="simulated candidates per row")
    parser.add_argument("--seed", type=int, default=20260101)
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for make_row in (*map(make_error_row, ERROR_PERCENTS), *map(make_latency_row, SHIFTS)):
        rows.append(make_row(random.Random(options.seed), options.runs))
        print(f"{rows[-1].check} {rows[-1].truth}", file=sys.stderr, flush=True)
    allowed = most_wrong(options.runs)
    for line in write_table(rows):
        print(line)
    bad = [row for row in rows if row.wrong > allowed]
    for row in bad:
        print(f"MISSED {row.check} {row.truth}: {row.wrong:.3f} wrong", file=sys.stderr)
    result = {
        "runs": options.runs,
        "seed": options.seed,
        "alpha": ALPHA,
        "false_alarms": max(row.fail for row in rows if not row.is_breach),
        "false_passes": max(row.passed for row in rows if row.is_breach),
        "bare_false_alarms": max(row.bare_fail for row in rows if not row.is_breach),
        "seconds": round(time.monotonic() - began, 1),
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(result))
    return 1 if bad else 0


def most_wrong(runs: int) -> float:
    """The share of wrong verdicts that a level of ALPHA explains: by chance more once in 1,000 times."""
    return ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def make_error_row(percent: float) -> Callable[[random.Random, int], Row]:
    """Candidates that fail `percent` of the requests, against LIMIT_PERCENT."""
    check = make_check(metric="ErrorRate", type="Absolute", maxPercent=f"{LIMIT_PERCENT:g}")

    def run(rng: random.Random, runs: int) -> Row:
        return simulate(
            check,
            f"errors {percent:g}%, limit {LIMIT_PERCENT:g}%",
            percent > LIMIT_PERCENT,
            runs,
            lambda: draw_errors(rng, percent / 100),
            MAX_SAMPLES["errors"],
        )

    return run


def make_latency_row(shift: float) -> Callable[[random.Random, int], Row]:
    """Candidates that take `shift` times as long as stable, against stable and INCREASE_PERCENT."""
    check = make_check(
        metric="LatencyP95", type="RelativeToStable", maxIncreasePercent=str(INCREASE_PERCENT)
    )

    def run(rng: random.Random, runs: int) -> Row:
        return simulate(
            check,
            f"{shift:.1f} x stable, limit +{INCREASE_PERCENT}%",
            shift > 1 + INCREASE_PERCENT / 100,
            runs,
            lambda: draw_latencies(rng, shift),
            MAX_SAMPLES["latency"],
        )

    return run


def make_check(**fields: str) -> Check:
    """A check as a user would write it."""
    return Check.model_validate({"name": "check", **fields})


def draw_errors(rng: random.Random, rate: float) -> Iterator[Round]:
    """Rounds of answers that err at `rate`, each by itself."""
    until_next = math.floor(math.log(1 - rng.random()) / math.log1p(-rate))
    while True:
        errors, left = 0, ROUND
        while until_next < left:  # the gaps between errors are geometric: exact, and quick
            errors, left = errors + 1, left - until_next - 1
            until_next = math.floor(math.log(1 - rng.random()) / math.log1p(-rate))
        until_next -= left
        yield Tally(ROUND, errors), Tally(), errors / ROUND > LIMIT_PERCENT / 100


def draw_latencies(rng: random.Random, shift: float) -> Iterator[Round]:
    """Rounds of answers with lognormal latencies, the candidate's `shift` times stable's."""
    stable, candidate = make_shares(STABLE_P95_S), make_shares(STABLE_P95_S * shift)
    while True:
        mine = draw_tally(rng, candidate, ROUND)
        theirs = draw_tally(rng, stable, ROUND * STABLE_PER_CANDIDATE)
        limit = quantile(BOUNDS, theirs.counts, 0.95) * (1 + INCREASE_PERCENT / 100)
        yield mine, theirs, quantile(BOUNDS, mine.counts, 0.95) > limit


def make_shares(p95: float) -> tuple[float, ...]:
    """The share of answers within each bound, and all."""
    normal = statistics.NormalDist(
        math.log(p95) - SIGMA * statistics.NormalDist().inv_cdf(0.95), SIGMA
    )
    return (*(normal.cdf(math.log(bound)) for bound in BOUNDS), 1.0)


def draw_tally(rng: random.Random, shares: tuple[float, ...], n: int) -> Tally:
    """`n` answers in buckets."""
    buckets = [0] * len(shares)
    for bucket in rng.choices(range(len(shares)), cum_weights=shares, k=n):
        buckets[bucket] += 1
    return Tally(n, 0, BOUNDS, tuple(accumulate(buckets)))


def simulate(
    check: Check,
    truth: str,
    is_breach: bool,
    runs: int,
    begin: Callable[[], Iterator[Round]],
    most: int,
) -> Row:
    """Judge `runs` candidates, each until a verdict or `most` samples."""
    verdicts: list[tuple[Verdict, int]] = []
    bare: list[tuple[Verdict, int]] = []
    for _ in range(runs):
        ours, theirs = judge_run(check, begin(), most)
        verdicts.append(ours)
        bare.append(theirs)
    counts = {verdict: sum(v is verdict for v, _ in verdicts) / runs for verdict in Verdict}
    decided = [n for verdict, n in verdicts if verdict is not Verdict.INCONCLUSIVE]
    crossed = [n for verdict, n in bare if verdict is Verdict.FAIL]
    return Row(
        check.metric.value,
        truth,
        is_breach,
        counts[Verdict.FAIL],
        counts[Verdict.PASS],
        counts[Verdict.INCONCLUSIVE],
        statistics.median(decided) if decided else None,
        len(crossed) / runs,
        statistics.median(crossed) if crossed else None,
    )


def judge_run(
    check: Check, rounds: Iterator[Round], most: int
) -> tuple[tuple[Verdict, int], tuple[Verdict, int]]:
    """Our verdict and the bare threshold's on one candidate, each with the samples it took."""
    window = Window()
    ours = (Verdict.INCONCLUSIVE, most)
    bare: tuple[Verdict, int] | None = None
    for number, (candidate, stable, is_crossed) in enumerate(rounds, start=1):
        n = number * ROUND
        if bare is None and (is_crossed or number == BARE_ROUNDS):
            bare = (Verdict.FAIL if is_crossed else Verdict.PASS, n)
        if ours[0] is Verdict.INCONCLUSIVE:
            window = Window(window.candidate + candidate, window.stable + stable, number * 15.0)
            (result,) = evaluate([check], window, {}, MIN_SAMPLES, ALPHA, weight=25)
            ours = (result.verdict, n)
        if bare is not None and (ours[0] is not Verdict.INCONCLUSIVE or n >= most):
            return ours, bare
    raise AssertionError("rounds never end")


def write_table(rows: list[Row]) -> Iterator[str]:
    """The rows for people."""
    yield f"{'':43}  {'---------- ours ----------':>33}  {'-- bare threshold --':>20}"
    yield (
        f"{'check':10}  {'truth':26}  {'':3}  {'Fail':>6} {'Pass':>6} {'none':>6} {'median n':>10}"
        f"  {'Fail':>9} {'median n':>10}"
    )
    for row in rows:
        yield (
            f"{row.check:10}  {row.truth:26}  {'bad' if row.is_breach else 'ok ':3}  {row.fail:6.1%} "
            f"{row.passed:6.1%} {row.none:6.1%} {write_count(row.median_samples):>10}  "
            f"{row.bare_fail:9.1%} {write_count(row.bare_median_samples):>10}"
        )


def write_count(count: float | None) -> str:
    """A number of samples, or that there is none."""
    return "-" if count is None else f"{count:.0f}"


if __name__ == "__main__":
    sys.exit(main())
