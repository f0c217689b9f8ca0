"""Always-valid bounds: what counts prove of a share, a quantile or a rate, however often one looks.

A bare threshold that is checked again and again is crossed by luck sooner or later.  A *confidence
sequence* is a bound for every sample size at once: with probability 1 - alpha the truth never leaves it,
so a verdict may be given at the first look that shows one, and looking costs nothing.

Method, for the share p of bad answers.  After n answers of which S were bad, average the likelihood ratio
against p over a prior on the share and invert it:

    M_n(p) = B(a + S, b + n - S) / (B(a, b) p^S (1 - p)^(n - S)),      bounds = {p : M_n(p) < 1/alpha}

Under the true p, M_n(p) is a martingale that begins at 1, so by Ville's inequality (1939) it ever reaches
1/alpha with probability at most alpha.  This is the mixture of H. Robbins, "Statistical methods related to
the law of the iterated logarithm", Annals of Mathematical Statistics 41 (1970) 1397-1409; in the general
form of S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 49 (2021) 1055-1080.  Any prior is valid; ours is Jeffreys'
a = b = 1/2, which is narrow where error rates are, near 0.

S may be a fraction.  For answers worth x in [0, 1] with mean p, E[(q/p)^x ((1-q)/(1-p))^(1-x)] <= 1, as that
is convex in x and its chord is 1 at the mean: M_n(p) is then a supermartingale, and the bounds hold too.
That is what lets a histogram be read between its bounds (see ``count_within``).

What it assumes: answers err independently, at one rate while it counts.  Bursts hold less information
than their number says, and make it too sure of itself.

Must not know what is counted, nor keep anything between two calls.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Final

MAX_SAMPLES: Final = 10**9
"""More than any window holds; also where a question about the samples needed is given up."""

_PRIOR_SECONDS: Final = 0.001
_LOG_PI: Final = math.log(math.pi)


def log_evidence(bad: float, n: float, share: float) -> float:
    """log M_n(share): how much the counts speak against ``share``. The counts aren't checked."""
    good = n - bad
    if (share <= 0.0 and bad > 0.0) or (share >= 1.0 and good > 0.0):
        return math.inf
    mixed = math.lgamma(bad + 0.5) + math.lgamma(good + 0.5) - math.lgamma(n + 1.0) - _LOG_PI
    if bad > 0.0:
        mixed -= bad * math.log(share)
    if good > 0.0:
        mixed -= good * math.log1p(-share)
    return mixed


def proportion_bounds(bad: float, n: float, alpha: float) -> tuple[float, float]:
    """The lowest and the highest share that ``bad`` of ``n`` leave possible, at every n at once.

    Of all the bounds ever made of one growing sample, any one misses the true share with probability
    at most ``alpha``.  (0, 1) for no samples.  ValueError for counts that are none.
    """
    _require(bad, n, alpha)
    seen = bad / n if n else 0.0
    limit = -math.log(alpha)

    def is_possible(share: float) -> bool:
        return log_evidence(bad, n, share) < limit

    low = 0.0 if bad == 0 else _edge(is_possible, seen, 0.0)
    high = 1.0 if bad == n else _edge(is_possible, seen, 1.0)
    return low, high


def is_above(bad: float, n: float, share: float, alpha: float) -> bool:
    """Whether the lower bound of ``proportion_bounds`` is above ``share``, without computing it."""
    _require(bad, n, alpha)
    return bad > n * share and log_evidence(bad, n, share) >= -math.log(alpha)


def is_below(bad: float, n: float, share: float, alpha: float) -> bool:
    """Whether the upper bound of ``proportion_bounds`` is at most ``share``, without computing it."""
    _require(bad, n, alpha)
    return bad < n * share and log_evidence(bad, n, share) >= -math.log(alpha)


def count_needed(seen: float, share: float, alpha: float) -> int:
    """About how many samples it takes to tell ``seen`` from ``share``, if ``seen`` stays as it is.

    MAX_SAMPLES where that many don't do, as when both are the same.
    """
    if not (0.0 <= seen <= 1.0 and 0.0 <= share <= 1.0) or seen == share:
        return MAX_SAMPLES
    limit = -math.log(alpha)

    def is_enough(n: int) -> bool:
        return log_evidence(seen * n, n, share) >= limit

    most = 1
    while not is_enough(most):
        if most >= MAX_SAMPLES:
            return MAX_SAMPLES
        most = min(2 * most, MAX_SAMPLES)
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if is_enough(middle) else (middle, most)
    return most


def rate_bounds(count: float, seconds: float, alpha: float) -> tuple[float, float]:
    """The lowest and the highest rate per second that ``count`` in ``seconds`` leave possible.

    Robbins' mixture again, for a Poisson process and a Gamma(1/2, 1 ms) prior on its rate:
    M(r) = b^a G(a + N) / (G(a) (b + t)^(a + N)) r^-N e^(r t).  (0, inf) for no time.
    """
    if not (0.0 <= count < math.inf and 0.0 <= seconds < math.inf and 0.0 < alpha < 1.0):
        raise ValueError(f"no count, time or level: {count}, {seconds} s, {alpha}")
    if seconds == 0:
        return 0.0, math.inf
    a, b = 0.5, _PRIOR_SECONDS
    limit = -math.log(alpha)
    constant = (
        a * math.log(b)
        + math.lgamma(a + count)
        - math.lgamma(a)
        - (a + count) * math.log(b + seconds)
    )

    def is_possible(rate: float) -> bool:
        weight = count * math.log(rate) if count else 0.0
        return constant - weight + rate * seconds < limit

    seen = count / seconds
    beyond = 2 * seen + 1 / seconds
    while is_possible(beyond):
        beyond *= 2
    low = _edge(is_possible, seen, 0.0) if count else 0.0
    return low, _edge(is_possible, seen, beyond)


def count_within(bounds: Sequence[float], counts: Sequence[float], limit: float) -> float:
    """How many answers of a histogram took at most ``limit``.

    ``counts`` are cumulative, one per bound and the last one for all.  Between two bounds answers are
    taken as spread evenly, as Prometheus' histogram_quantile does; with bounds 10 % apart that moves a
    quantile by a few percent at most.  Above the last bound nothing is known: all of them are over.
    """
    index = bisect_right(bounds, limit)
    before = counts[index - 1] if index else 0.0
    if index == len(bounds):
        return before
    start = bounds[index - 1] if index else 0.0
    part = max(0.0, limit - start) / (bounds[index] - start)
    return before + part * (counts[index] - before)


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    """What ``share`` of a histogram's answers stayed within; inf above its last bound, nan without any."""
    if not counts or counts[-1] <= 0:
        return math.nan
    return _reach(bounds, counts, share * counts[-1])


def quantile_bounds(
    bounds: Sequence[float], counts: Sequence[float], share: float, alpha: float
) -> tuple[float, float]:
    """The lowest and the highest value that the true quantile at ``share`` may have, at every n at once.

    At the true quantile the share of answers within it is known: it is ``share``.  So the counts that the
    sequence above allows for a proportion of ``share`` are the counts that may stand there; see S. R.
    Howard and A. Ramdas, "Sequential estimation of quantiles with applications to A/B testing and
    best-arm identification", Bernoulli 28 (2022) 1704-1728.  (0, inf) without answers.
    """
    n = counts[-1] if counts else 0.0
    _require(0.0, n, alpha)
    if n == 0:
        return 0.0, math.inf
    limit = -math.log(alpha)

    def is_possible(count: float) -> bool:
        return log_evidence(count, n, share) < limit

    # The counts that are possible are one range around share * n: the mixture is convex in the count.
    least = 0.0 if is_possible(0.0) else _edge(is_possible, share * n, 0.0)
    most = n if is_possible(n) else _edge(is_possible, share * n, n)
    low = min(_reach(bounds, counts, least), bounds[-1] if bounds else 0.0)
    return low, _leave(bounds, counts, most)


def _edge(is_possible: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where possible ends between the two, by bisection; the outer neighbour, so never too narrow."""
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if is_possible(middle):
            inside = middle
        else:
            outside = middle


def _reach(bounds: Sequence[float], counts: Sequence[float], count: float) -> float:
    """The least value that ``count`` answers stayed within; inf above the last bound."""
    index = bisect_left(counts, count)
    if index >= len(bounds):
        return math.inf
    return _between(bounds, counts, index, count)


def _leave(bounds: Sequence[float], counts: Sequence[float], count: float) -> float:
    """The greatest value that no more than ``count`` answers stayed within; inf above the last bound."""
    index = bisect_right(counts, count)
    if index >= len(bounds):
        return math.inf
    return _between(bounds, counts, index, count)


def _between(bounds: Sequence[float], counts: Sequence[float], index: int, count: float) -> float:
    start, before = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    inside = counts[index] - before
    part = (count - before) / inside if inside > 0 else 0.0
    return start + min(1.0, max(0.0, part)) * (bounds[index] - start)


def _require(bad: float, n: float, alpha: float) -> None:
    if not 0.0 <= bad <= n < math.inf:
        raise ValueError(f"{bad} of {n} is no count")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
