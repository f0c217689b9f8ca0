"""Bounds against exact arithmetic, the martingale they rest on, and how often they miss the truth."""

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.analysis.statistics import (
    MAX_SAMPLES,
    count_needed,
    count_within,
    is_above,
    is_below,
    log_evidence,
    proportion_bounds,
    quantile,
    quantile_bounds,
    rate_bounds,
)

ALPHA = 0.05
BOUNDS = tuple(0.001 * 1.1**step for step in range(60))

shares = st.floats(0.001, 0.999)
samples = st.integers(0, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact_evidence(bad: int, n: int, share: Fraction) -> Fraction:
    """M_n by its definition: for Jeffreys' prior the Beta functions are products of fractions."""
    mixed = Fraction(1)
    for step in range(bad):
        mixed *= Fraction(2 * step + 1, 2)
    for step in range(n - bad):
        mixed *= Fraction(2 * step + 1, 2)
    return mixed / math.factorial(n) / (share**bad * (1 - share) ** (n - bad))


@pytest.mark.parametrize(
    ("bad", "n", "share"),
    [(0, 1, "1/100"), (1, 1, "1/100"), (3, 40, "1/20"), (40, 40, "9/10"), (7, 500, "1/50")],
)
def test_the_evidence_is_the_mixture(bad: int, n: int, share: str) -> None:
    exact = exact_evidence(bad, n, Fraction(share))

    assert log_evidence(bad, n, float(Fraction(share))) == pytest.approx(
        math.log(exact.numerator) - math.log(exact.denominator), abs=1e-9
    )


@given(samples, shares)
def test_the_evidence_is_a_martingale(sample: tuple[int, int], share: float) -> None:
    bad, n = sample
    now = log_evidence(bad, n, share)
    after_bad = log_evidence(bad + 1, n + 1, share) - now
    after_good = log_evidence(bad, n + 1, share) - now

    assert share * math.exp(after_bad) + (1 - share) * math.exp(after_good) == pytest.approx(1)


@given(samples, shares, st.floats(0.0, 1.0))
def test_it_never_grows_on_average_where_answers_count_in_part(
    sample: tuple[int, int], mean: float, spread: float
) -> None:
    """Two worths with that mean, as the parts of a bucket are: a supermartingale."""
    bad, n = sample
    low, high = mean * (1 - spread), mean + (1 - mean) * spread
    weight = (mean - low) / (high - low) if high > low else 0.0
    now = log_evidence(bad, n, mean)
    growth = weight * math.exp(log_evidence(bad + high, n + 1, mean) - now) + (
        1 - weight
    ) * math.exp(log_evidence(bad + low, n + 1, mean) - now)

    assert growth <= 1 + 1e-6


@given(samples)
def test_bounds_hold_what_was_seen(sample: tuple[int, int]) -> None:
    bad, n = sample
    low, high = proportion_bounds(bad, n, ALPHA)

    assert 0 <= low <= high <= 1
    if n:
        assert low <= bad / n <= high


@given(samples, shares)
def test_asking_on_which_side_agrees_with_the_bounds(sample: tuple[int, int], share: float) -> None:
    low, high = proportion_bounds(*sample, ALPHA)

    assert is_above(*sample, share, ALPHA) == (share <= low)
    assert is_below(*sample, share, ALPHA) == (share >= high)


@given(samples)
def test_good_and_bad_are_mirrored(sample: tuple[int, int]) -> None:
    bad, n = sample
    low, high = proportion_bounds(bad, n, ALPHA)

    assert proportion_bounds(n - bad, n, ALPHA) == (
        pytest.approx(1 - high, abs=1e-9),
        pytest.approx(1 - low, abs=1e-9),
    )


@given(samples, st.floats(0.001, 0.4))
def test_a_stricter_level_is_wider(sample: tuple[int, int], alpha: float) -> None:
    low, high = proportion_bounds(*sample, alpha)
    wider = proportion_bounds(*sample, alpha / 2)

    assert wider[0] <= low
    assert wider[1] >= high


def test_no_samples_say_nothing() -> None:
    assert proportion_bounds(0, 0, ALPHA) == (0.0, 1.0)
    assert quantile_bounds((), (), 0.95, ALPHA) == (0.0, math.inf)
    assert rate_bounds(0, 0, ALPHA) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("bad", "n", "alpha"),
    [(2, 1, 0.05), (-1, 1, 0.05), (math.nan, 1, 0.05), (0, math.inf, 0.05), (0, 1, 0), (0, 1, 1)],
)
def test_counts_that_are_none(bad: float, n: float, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"no count|alpha"):
        proportion_bounds(bad, n, alpha)
    with pytest.raises(ValueError, match="no count"):
        rate_bounds(-1, 1, ALPHA)


@pytest.mark.parametrize("bad", [0, 1, 10_000_000, 999_999_999, 1_000_000_000])
def test_a_thousand_million_samples(bad: int) -> None:
    """Against 50 digits: the differences of huge logarithms keep what matters."""
    n, share = 1_000_000_000, (bad + 1) / 1_000_000_002

    def log_gamma(x: Decimal) -> Decimal:
        shift = Decimal(1)
        while x < 40:
            shift, x = shift * x, x + 1
        series = 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5) - 1 / (1680 * x**7)
        two_pi = Decimal("6.28318530717958647692528676655900576839433879875021")
        return (x - Decimal("0.5")) * x.ln() - x + two_pi.ln() / 2 + series - shift.ln()

    with localcontext() as context:
        context.prec = 50
        p, half = Decimal(share), Decimal("0.5")
        exact = log_gamma(bad + half) + log_gamma(n - bad + half) - log_gamma(Decimal(n + 1))
        exact -= (Decimal("3.14159265358979323846")).ln() + bad * p.ln() + (n - bad) * (1 - p).ln()
        assert log_evidence(bad, n, share) == pytest.approx(float(exact), abs=1e-3)
    low, high = proportion_bounds(bad, n, ALPHA)
    width = 2 * math.sqrt(max(bad * (n - bad), n) / n**3)
    assert low <= bad / n <= high
    assert high - low < 20 * width


def wilson_bounds(bad: int, n: int) -> tuple[float, float]:
    """The usual interval of 95 %, which is right once."""
    z = 1.96
    middle, half = bad + z * z / 2, z * math.sqrt(bad * (n - bad) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_sequence_seldom_misses_the_truth_however_often_one_looks(share: float) -> None:
    """Looked at after every answer. The usual interval in its place misses far more often."""
    rng, runs, most = random.Random(11), 300, 1500
    missed = missed_by_usual = 0
    for _ in range(runs):
        bad, ours, usual = 0, False, False
        for n in range(1, most + 1):
            bad += rng.random() < share
            ours = ours or log_evidence(bad, n, share) >= -math.log(ALPHA)
            if not usual:
                low, high = wilson_bounds(bad, n)
                usual = not low <= share <= high
        missed, missed_by_usual = missed + ours, missed_by_usual + usual
    # By chance more than this once in a thousand times, were the level just kept.
    assert missed / runs <= ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert missed_by_usual / runs > 0.25


def test_the_quantile_seldom_leaves_its_bounds() -> None:
    """Evenly spread in two uneven buckets and beyond, so the true quantile is known."""
    rng, runs, share = random.Random(5), 200, 0.9
    bounds, weights = (0.1, 0.2, 0.4), (0.5, 0.35, 0.1, 0.05)
    true = 0.2 + (share - 0.85) / 0.1 * 0.2
    missed = 0
    for _ in range(runs):
        buckets = [0] * 4
        for _ in range(60):
            for bucket in rng.choices(range(4), weights, k=25):
                buckets[bucket] += 1
            low, high = quantile_bounds(bounds, tuple(accumulate(buckets)), share, ALPHA)
            if not low <= true <= high:
                missed += 1
                break
    assert missed / runs <= ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_the_rate_seldom_leaves_its_bounds() -> None:
    rng, runs, rate = random.Random(3), 150, 4.0
    missed = 0
    for _ in range(runs):
        seconds = 0.0
        for count in range(1, 250):
            seconds += rng.expovariate(rate)
            low, high = rate_bounds(count, seconds, ALPHA)
            if not low <= rate <= high:
                missed += 1
                break
    assert missed / runs <= ALPHA + 3.1 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@given(st.integers(0, 10**6), st.floats(0.1, 10**5))
def test_a_rate_lies_within_its_bounds(count: int, seconds: float) -> None:
    low, high = rate_bounds(count, seconds, ALPHA)

    assert 0 <= low <= count / seconds <= high < math.inf


histograms = st.lists(st.integers(0, 50), min_size=len(BOUNDS) + 1, max_size=len(BOUNDS) + 1).map(
    lambda parts: tuple(float(count) for count in accumulate(parts))
)


@given(histograms, st.floats(0, 1), st.floats(0.0001, 2))
def test_counts_and_quantiles_undo_each_other(
    counts: tuple[float, ...], share: float, limit: float
) -> None:
    within = count_within(BOUNDS, counts, limit)
    assert 0 <= within <= counts[-1]
    if counts[-1] and share * counts[-1] <= counts[-2]:
        value = quantile(BOUNDS, counts, share)
        assert count_within(BOUNDS, counts, value) == pytest.approx(share * counts[-1], abs=1e-6)


@given(histograms, st.sampled_from([0.5, 0.95, 0.99]))
def test_quantile_bounds_hold_the_quantile(counts: tuple[float, ...], share: float) -> None:
    low, high = quantile_bounds(BOUNDS, counts, share, ALPHA)

    assert 0 <= low <= high
    if counts[-1]:
        assert low <= quantile(BOUNDS, counts, share) * (1 + 1e-12)
        assert quantile(BOUNDS, counts, share) <= high * (1 + 1e-12)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_quantile_bounds_are_where_the_evidence_ends(share: float) -> None:
    """Evenly spread from 0 to 1, so that a value is the share of answers within it."""
    n = 2000
    low, high = quantile_bounds((1.0,), (n, n), share, ALPHA)

    for edge in (low, high):
        assert log_evidence(edge * n, n, share) == pytest.approx(-math.log(ALPHA))


def test_a_latency_that_is_over_the_last_bound() -> None:
    counts = (0.0,) * len(BOUNDS) + (100.0,)

    assert quantile(BOUNDS, counts, 0.5) == math.inf
    assert quantile_bounds(BOUNDS, counts, 0.5, ALPHA) == (BOUNDS[-1], math.inf)
    assert count_within(BOUNDS, counts, 10**6) == 0
    assert math.isnan(quantile((), (), 0.5))


@pytest.mark.parametrize(("seen", "share"), [(0.0, 0.01), (0.005, 0.01), (0.05, 0.01), (1.0, 0.5)])
def test_the_samples_needed_are_just_enough(seen: float, share: float) -> None:
    n = count_needed(seen, share, ALPHA)

    def is_told(n: int) -> bool:
        return is_above(seen * n, n, share, ALPHA) or is_below(seen * n, n, share, ALPHA)

    assert is_told(n)
    assert not is_told(n - 1)


@pytest.mark.parametrize(("seen", "share"), [(0.01, 0.01), (0.01, 0.010000001), (1.5, 0.5)])
def test_what_no_number_of_samples_tells(seen: float, share: float) -> None:
    assert count_needed(seen, share, ALPHA) == MAX_SAMPLES
