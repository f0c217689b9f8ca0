"""Checks over windows: verdicts, words, and what can't be judged."""

from dataclasses import replace
from decimal import Decimal
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.analysis.checks import Agreement, CheckResult, evaluate
from sluice.analysis.findings import ERROR_FLOOR
from sluice.analysis.statistics import MAX_SAMPLES, count_needed
from sluice.analysis.tally import Ledger, Tally, Window
from sluice.api.check import Check
from sluice.api.rolloutstatus import Verdict
from tests.unit.analysis.scrapes import Process

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
BOUNDS = tuple(0.001 * 1.1**step for step in range(121))  # 1 ms to 93 s


def make_check(metric: str, type_: str = "Absolute", **fields: Any) -> Check:
    return Check.model_validate(
        {"name": fields.pop("name", "it"), "metric": metric, "type": type_, **fields}
    )


def answered(
    n: int,
    errors: int = 0,
    slow: int = 0,
    *,
    fast_s: float = 0.05,
    slow_s: float = 0.3,
    split: int | None = None,
) -> Tally:
    """`n` answers, `errors` of them errors, `slow` of them slow ones; all `split`, unless told."""
    buckets = [0.0] * (len(BOUNDS) + 1)
    for seconds, count in ((fast_s, n - slow), (slow_s, slow)):
        index = next((i for i, bound in enumerate(BOUNDS) if bound >= seconds), len(BOUNDS))
        buckets[index] += count
    return Tally(n, errors, BOUNDS, tuple(accumulate(buckets)), n if split is None else split)


def judge(check: Check, candidate: Tally, stable: Tally | None = None, **more: Any) -> CheckResult:
    window = Window(candidate, stable or answered(20_000), more.pop("seconds", 60.0))
    more.setdefault("weight", 50)
    (result,) = evaluate(
        [check], window, more.pop("evaluation", {}), more.pop("min_samples", 300), **more
    )
    return result


ERRORS = make_check("ErrorRate", maxPercent="1")
ERRORS_LIKE = make_check("ErrorRate", "RelativeToStable", maxIncreasePercent="50")
P95 = make_check("LatencyP95", maxMilliseconds=200)
P95_LIKE = make_check("LatencyP95", "RelativeToStable", maxIncreasePercent="20")
P50_REGISTERED = make_check("LatencyP50", "FromEvaluation", maxIncreasePercent="50")
RATE = make_check("Throughput", minPerSecond="10")
RATE_LIKE = make_check("Throughput", "RelativeToStable", maxDecreasePercent="20")
AGREEMENT = make_check("Agreement", minPercent="98")
QUERY = make_check("Query", name="lag", query="x", max="0.05")

NO_SPLIT = (
    "no requests that the gateway split have been seen: only those say what the candidate should answer, "
    "and old images don't count them"
)

CASES: dict[str, tuple[Check, Tally, dict[str, Any], Verdict, str]] = {
    # name: check, candidate, more, then verdict and message
    "no answers": (ERRORS, Tally(), {}, INCONCLUSIVE, "ErrorRate no data, limit 1.00% (n=0 of 300)"),
    "few answers": (ERRORS, answered(37), {}, INCONCLUSIVE, "ErrorRate 0.00%, limit 1.00% (n=37 of 300)"),
    "enough for minSamples, not for the limit": (
        ERRORS, answered(300), {}, INCONCLUSIVE, "ErrorRate 0.00%, limit 1.00% (n=300 of about 680)",
    ),
    "enough": (ERRORS, answered(700), {}, PASS, "ErrorRate 0.00% ≤ 1.00% (n=700)"),
    "enough for the limit, not for minSamples": (
        ERRORS, answered(700), {"min_samples": 5000}, INCONCLUSIVE,
        "ErrorRate 0.00%, limit 1.00% (n=700 of 5000)",
    ),
    "the specification's example": (
        ERRORS, answered(2207, errors=68), {}, FAIL, "ErrorRate 3.08% > 1.00% (n=2207)",
    ),
    "fails below minSamples": (
        ERRORS, answered(40, errors=10), {}, FAIL, "ErrorRate 25.00% > 1.00% (n=40)",
    ),
    "one bad answer of one": (
        ERRORS, answered(1, errors=1), {}, INCONCLUSIVE, "ErrorRate 100.00%, limit 1.00% (n=1 of 300)",
    ),
    "a handful less one": (
        ERRORS, answered(4, errors=4), {}, INCONCLUSIVE, "ErrorRate 100.00%, limit 1.00% (n=4 of 300)",
    ),
    "a handful": (ERRORS, answered(5, errors=5), {}, FAIL, "ErrorRate 100.00% > 1.00% (n=5)"),
    "at the limit": (
        ERRORS, answered(10_000, errors=100), {}, INCONCLUSIVE,
        "ErrorRate 1.00%, limit 1.00% (n=10000, too close to tell yet)",
    ),
    "a little over the limit": (
        ERRORS, answered(1000, errors=15), {}, INCONCLUSIVE,
        "ErrorRate 1.50%, limit 1.00% (n=1000 of about 7000)",
    ),
    "errors like stable's": (
        ERRORS_LIKE, answered(20_000, errors=1000), {"stable": answered(20_000, errors=1000)}, PASS,
        "ErrorRate 5.00% ≤ 7.50% (stable +50%, n=20000)",
    ),
    "more errors than stable": (
        ERRORS_LIKE, answered(2000, errors=300), {"stable": answered(20_000, errors=1000)}, FAIL,
        "ErrorRate 15.00% > 7.50% (stable +50%, n=2000)",
    ),
    "neither has errors": (
        ERRORS_LIKE, answered(20_000), {}, PASS, "ErrorRate 0.00% ≤ 0.10% (stable +50%, n=20000)",
    ),
    "a few errors beside none are no increase": (
        ERRORS_LIKE, answered(40_000, errors=6), {}, PASS,
        "ErrorRate 0.0150% ≤ 0.10% (stable +50%, n=40000)",
    ),
    "errors without a stable to compare with": (
        ERRORS_LIKE, answered(2000, errors=300), {"stable": Tally()}, INCONCLUSIVE,
        "ErrorRate 15.00%, limit no data (stable +50%, n=2000, stable has n=0 of 300)",
    ),
    "latency within": (P95, answered(1000, slow=10), {}, PASS, "LatencyP95 55ms ≤ 200ms (n=1000)"),
    "latency over": (P95, answered(1000, slow=100), {}, FAIL, "LatencyP95 291ms > 200ms (n=1000)"),
    "latency unclear": (
        P95, answered(400, slow=17), {}, INCONCLUSIVE, "LatencyP95 55ms, limit 200ms (n=400 of about 13000)",
    ),
    "latency without answers": (
        P95, Tally(), {}, INCONCLUSIVE, "LatencyP95 no data, limit 200ms (n=0 of 300)",
    ),
    "latency over the last bucket": (
        P95, answered(1000, slow=1000, slow_s=100), {}, FAIL, "LatencyP95 over 60s > 200ms (n=1000)",
    ),
    "latency like stable's": (
        P95_LIKE, answered(2000), {}, PASS, "LatencyP95 55ms ≤ 65ms (stable +20%, n=2000)",
    ),
    "30 % slower than stable": (
        P95_LIKE, answered(2000, fast_s=0.065), {}, FAIL, "LatencyP95 66ms > 65ms (stable +20%, n=2000)",
    ),
    "latency without a stable to compare with": (
        P95_LIKE, answered(2000), {"stable": Tally()}, INCONCLUSIVE,
        "LatencyP95 55ms, limit no data (stable +20%, n=2000, stable has n=0 of 300)",
    ),
    "too few of stable for the quantile": (
        P95_LIKE, answered(2000, fast_s=0.065), {"stable": answered(50), "min_samples": 50}, INCONCLUSIVE,
        "LatencyP95 66ms, limit 65ms (stable +20%, n=2000, stable has n=50, too few for this quantile)",
    ),
    "as registered": (
        P50_REGISTERED, answered(1000), {"evaluation": {"latencyP50Ms": Decimal("40")}}, PASS,
        "LatencyP50 52ms ≤ 60ms (registered +50%, n=1000)",
    ),
    "slower than registered": (
        P50_REGISTERED, answered(1000), {"evaluation": {"latencyP50Ms": Decimal("20")}}, FAIL,
        "LatencyP50 52ms > 30ms (registered +50%, n=1000)",
    ),
    "nothing registered": (
        P50_REGISTERED, answered(1000), {"evaluation": {"latencyP95Ms": Decimal("40")}}, INCONCLUSIVE,
        "LatencyP50 no data, limit no data (registered +50%, n=1000, the ModelVersion's evaluation "
        "registers no latencyP50Ms above 0: register it, or make the check Absolute)",
    ),
    "zero registered": (
        P50_REGISTERED, Tally(), {"evaluation": {"latencyP50Ms": Decimal(0)}}, INCONCLUSIVE,
        "LatencyP50 no data, limit no data (registered +50%, n=0 of 300, the ModelVersion's evaluation "
        "registers no latencyP50Ms above 0: register it, or make the check Absolute)",
    ),
    "throughput": (
        RATE, answered(3000), {"replicas": 2}, PASS, "Throughput 25/s ≥ 10/s (n=3000)",
    ),
    "throughput, few samples": (
        RATE, answered(60), {"seconds": 2}, INCONCLUSIVE, "Throughput 30/s, limit 10/s (n=60 of 300)",
    ),
    "throughput with as many samples as it takes": (
        RATE, answered(300), {"seconds": 10}, PASS, "Throughput 30/s ≥ 10/s (n=300)",
    ),
    "throughput under a minimum that was on offer": (
        RATE, answered(350), {}, FAIL, "Throughput 5.833/s < 10/s (n=350)",
    ),
    "throughput under a minimum that wasn't on offer": (
        RATE, answered(350), {"stable": answered(350)}, INCONCLUSIVE,
        "Throughput 5.833/s, limit 10/s (n=350, the traffic on offer may be too little for this minimum)",
    ),
    "throughput at the very beginning": (
        RATE, answered(0), {"seconds": 10}, INCONCLUSIVE, "Throughput 0/s, limit 10/s (n=0 of 300)",
    ),
    "throughput that nobody asks for": (
        RATE, answered(0), {"weight": 100, "stable": Tally()}, INCONCLUSIVE,
        "Throughput 0/s, limit 10/s (n=0 of 300, the traffic on offer may be too little for this minimum)",
    ),
    "throughput by its weight": (
        RATE_LIKE, answered(5000), {"weight": 20}, PASS,
        "Throughput 83.33/s ≥ 66.67/s (stable -20%, n=5000)",
    ),
    "less throughput than its weight": (
        RATE_LIKE, answered(3000), {"weight": 20}, FAIL,
        "Throughput 50/s < 66.67/s (stable -20%, n=3000)",
    ),
    "throughput that may be less": (
        RATE_LIKE, answered(4100), {"weight": 20}, INCONCLUSIVE,
        "Throughput 68.33/s, limit 66.67/s (stable -20%, n=4100 of about 38000)",
    ),
    "a candidate that answers nothing, just long enough": (
        RATE_LIKE, Tally(), {"weight": 20, "seconds": 30}, FAIL,
        "Throughput 0/s < 133.3/s (stable -20%, n=0)",
    ),
    "a candidate that answers nothing": (
        RATE_LIKE, Tally(), {"weight": 20}, FAIL, "Throughput 0/s < 66.67/s (stable -20%, n=0)",
    ),
    "a candidate that has just begun": (
        RATE_LIKE, Tally(), {"weight": 20, "seconds": 5}, INCONCLUSIVE,
        "Throughput 0/s, limit 800/s (stable -20%, n=0 of 300)",
    ),
    "throughput that only a pin and the front Service bring": (
        RATE, answered(350), {"stable": answered(20_000, split=0)}, INCONCLUSIVE,
        f"Throughput 5.833/s, limit 10/s (n=350, {NO_SPLIT})",
    ),
    "enough throughput, whoever brings it": (
        RATE, answered(3000, split=0), {"stable": answered(20_000, split=0)}, PASS,
        "Throughput 50/s ≥ 10/s (n=3000)",
    ),
    "nothing split to compare the throughput with": (
        RATE_LIKE, answered(1000, split=0), {"stable": answered(9000, split=0)}, INCONCLUSIVE,
        f"Throughput 0/s, limit 0/s (stable -20%, n=0 of 300, {NO_SPLIT})",
    ),
    "a stable image too old to count what is split": (
        RATE_LIKE, answered(5000), {"stable": answered(5000, split=0)}, INCONCLUSIVE,
        f"Throughput 83.33/s, limit 0/s (stable -20%, n=5000, {NO_SPLIT})",
    ),
    "a candidate's image too old to count what is split": (
        RATE_LIKE, answered(5000, split=0), {"stable": answered(5000)}, INCONCLUSIVE,
        "Throughput 0/s, limit 66.67/s (stable -20%, n=0 of 300, the candidate answers, but none that the "
        "gateway split: its image may be too old to count them)",
    ),
    "agreement": (
        AGREEMENT, Tally(), {"agreement": Agreement(995, 1000)}, PASS, "Agreement 99.50% ≥ 98.00% (n=1000)",
    ),
    "disagreement": (
        AGREEMENT, Tally(), {"agreement": Agreement(450, 500)}, FAIL, "Agreement 90.00% < 98.00% (n=500)",
    ),
    "little to agree on": (
        AGREEMENT, Tally(), {"agreement": Agreement(9, 10)}, INCONCLUSIVE,
        "Agreement 90.00%, limit 98.00% (n=10 of 300)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "candidate", "more", "verdict", "message"), CASES.values(), ids=CASES
)
def test_verdicts(
    check: Check, candidate: Tally, more: dict[str, Any], verdict: Verdict, message: str
) -> None:
    result = judge(check, candidate, **more)

    assert (result.verdict, result.message) == (verdict, message)
    assert (result.verdict is INCONCLUSIVE) or result.samples == result.needed
    assert len(result.value) <= 64
    assert len(result.threshold) <= 64


# Of 10,000 requests that the gateway split at weight 10 stable got 9,000; the front Service brought it 40,000
# more, and a pin 100 to the candidate.
SHARES: dict[str, tuple[Check, int, Verdict]] = {
    # name: check, the candidate's answers to what was split, verdict
    "its share of a minimum": (make_check("Throughput", minPerSecond="50"), 1000, INCONCLUSIVE),
    "its share of stable's": (RATE_LIKE, 1000, PASS),
    "a slump under a minimum": (make_check("Throughput", minPerSecond="12"), 400, FAIL),
    "a slump under stable's": (RATE_LIKE, 400, FAIL),
}


@pytest.mark.parametrize(("check", "split", "verdict"), SHARES.values(), ids=SHARES)
def test_only_what_the_gateway_split_says_how_much_the_candidate_should_answer(
    check: Check, split: int, verdict: Verdict
) -> None:
    stable = Process().answer(n=5000)
    candidate = Process().answer(n=7)
    ledger = Ledger()
    ledger.add(0.0, {"c": candidate.scrape()}, {"s": stable.scrape()})
    stable.answer(n=9000, is_split=True).answer(n=40_000)
    candidate.answer(n=split, is_split=True).answer(n=100)
    ledger.add(60.0, {"c": candidate.scrape()}, {"s": stable.scrape()})

    (result,) = evaluate([check], ledger.window(), {}, 300, weight=10)

    assert result.verdict is verdict, result.message


QUERIES: dict[str, tuple[dict[str, str], tuple[float | None, ...], Verdict, str]] = {
    "none yet": ({"max": "1"}, (), INCONCLUSIVE, "Query lag no data, limit 1 (0 of 3 rounds in a row)"),
    "one": ({"max": "1"}, (0.5,), INCONCLUSIVE, "Query lag 0.5, limit 1 (1 of 3 rounds in a row)"),
    "three": ({"max": "1"}, (9, 0.5, 0.6, 1), PASS, "Query lag 1 ≤ 1 (3 of 3 rounds in a row)"),
    "three over": ({"max": "1"}, (0, 2, 3, 4.5), FAIL, "Query lag 4.5 > 1 (3 of 3 rounds in a row)"),
    "one over": ({"max": "1"}, (0, 0, 2), INCONCLUSIVE, "Query lag 2, limit 1 (1 of 3 rounds in a row)"),
    "a gap": ({"max": "1"}, (0, None, 0, 0), INCONCLUSIVE, "Query lag 0, limit 1 (2 of 3 rounds in a row)"),
    "a gap now": (
        {"max": "1"}, (2, 2, 2, None), INCONCLUSIVE, "Query lag no data, limit 1 (0 of 3 rounds in a row)",
    ),
    "no number": (
        {"max": "1"}, (2, 2, float("nan")), INCONCLUSIVE,
        "Query lag no data, limit 1 (0 of 3 rounds in a row)",
    ),
    "a minimum": ({"min": "10"}, (9, 9, 9), FAIL, "Query lag 9 < 10 (3 of 3 rounds in a row)"),
    "above a minimum": (
        {"min": "10"}, (19, 19, 12345), PASS, "Query lag 12345 ≥ 10 (3 of 3 rounds in a row)",
    ),
    "between": (
        {"min": "1", "max": "2"}, (1, 1.5, 2), PASS, "Query lag 2 within 1 to 2 (3 of 3 rounds in a row)",
    ),
    "not between": (
        {"min": "1", "max": "2"}, (0, 3, 0), FAIL, "Query lag 0 outside 1 to 2 (3 of 3 rounds in a row)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("bounds", "answers", "verdict", "message"), QUERIES.values(), ids=QUERIES)
def test_queries(
    bounds: dict[str, str], answers: tuple[float | None, ...], verdict: Verdict, message: str
) -> None:
    check = make_check("Query", name="lag", query="x", **bounds)
    result = judge(check, Tally(), queries={"lag": answers, "other": (0, 0, 0)})

    assert (result.verdict, result.message) == (verdict, message)


MEASURED: dict[str, tuple[dict[str, Any], list[Check]]] = {
    "a canary": ({"weight": 50}, [ERRORS, ERRORS_LIKE, P95, P95_LIKE, RATE, RATE_LIKE, QUERY]),
    "a shadow": ({"weight": 0, "agreement": Agreement()}, [AGREEMENT, QUERY]),
    "the last few of stable": (
        {"weight": 100, "stable": answered(299)}, [ERRORS, P95, RATE, QUERY],
    ),
    "all traffic": ({"weight": 100, "stable": Tally()}, [ERRORS, P95, RATE, QUERY]),
    "all traffic, and stable from before": (
        {"weight": 100}, [ERRORS, ERRORS_LIKE, P95, P95_LIKE, RATE, QUERY],
    ),
    "an unknown weight": ({"weight": None}, [ERRORS, ERRORS_LIKE, P95, P95_LIKE, RATE, QUERY]),
}  # fmt: skip


@pytest.mark.parametrize(("more", "want"), MEASURED.values(), ids=MEASURED)
def test_what_can_be_measured(more: dict[str, Any], want: list[Check]) -> None:
    everything = [ERRORS, ERRORS_LIKE, P95, P95_LIKE, RATE, RATE_LIKE, AGREEMENT, QUERY]
    named = {f"c{index}": check for index, check in enumerate(everything)}
    checks = [check.model_copy(update={"name": name}) for name, check in named.items()]
    window = Window(answered(1000), more.pop("stable", answered(1000)), 60.0)

    results = evaluate(checks, window, {}, 300, **more)

    assert [named[result.name] for result in results] == want


def test_alpha_is_shared_between_the_checks_that_decide() -> None:
    """A candidate that passes alone has to show more among others; dry ones and queries take nothing."""
    window = Window(answered(700), Tally(), 60.0)
    others = [make_check("LatencyP95", name=f"p{index}", maxMilliseconds=200) for index in range(7)]
    dry = [check.model_copy(update={"dry_run": True}) for check in others]

    assert evaluate([ERRORS], window, {}, 300)[0].verdict is PASS
    assert evaluate([ERRORS, *others], window, {}, 300)[0].verdict is INCONCLUSIVE
    alone = evaluate([ERRORS, *dry, QUERY], window, {}, 300)
    assert [result.verdict for result in alone] == [PASS] * 8 + [INCONCLUSIVE]
    assert [result.dry_run for result in alone] == [False] + [True] * 7 + [False]


def test_a_comparison_halves_alpha_between_the_two_tracks() -> None:
    n = count_needed(0.0, ERROR_FLOOR, 0.05 / 2)

    assert judge(ERRORS_LIKE, answered(n - 1)).verdict is INCONCLUSIVE
    assert judge(ERRORS_LIKE, answered(n)).verdict is PASS
    result = judge(ERRORS_LIKE, answered(1000))
    assert result.needed == n


def test_a_limit_that_stable_leaves_open_has_no_forecast() -> None:
    """Over what stable's lower bound allows, under what its upper bound does: more of stable decides."""
    result = judge(ERRORS_LIKE, answered(100_000, errors=15_000), answered(300, errors=30))

    assert (result.verdict, result.needed) == (INCONCLUSIVE, MAX_SAMPLES)
    assert (
        result.message
        == "ErrorRate 15.00%, limit 15.00% (stable +50%, n=100000, too close to tell yet)"
    )


def test_only_dry_checks() -> None:
    check = ERRORS.model_copy(update={"dry_run": True})

    assert judge(check, answered(700)).verdict is PASS


def test_no_checks_have_no_results() -> None:
    assert evaluate([], Window(), {}, 300) == ()


def test_threshold_and_value_are_for_people() -> None:
    result = judge(P95_LIKE, answered(2000))

    assert (result.value, result.threshold) == ("55ms", "65ms (stable +20%)")


@pytest.mark.parametrize("check", [ERRORS, ERRORS_LIKE, P95, P95_LIKE, RATE_LIKE])
@given(
    n=st.integers(0, 299),
    bad=st.integers(0, 299),
    slow=st.integers(0, 299),
    weight=st.integers(1, 99),
)
def test_nothing_passes_below_min_samples(
    check: Check, n: int, bad: int, slow: int, weight: int
) -> None:
    result = judge(check, answered(n, min(n, bad), min(n, slow)), weight=weight)

    assert result.verdict is not PASS
    if result.verdict is INCONCLUSIVE:
        assert 300 <= result.needed <= MAX_SAMPLES


@pytest.mark.parametrize("check", [ERRORS, ERRORS_LIKE, P95, P95_LIKE])
@given(n=st.integers(0, 2000), bad=st.integers(0, 4), slow=st.integers(0, 4))
def test_less_than_a_handful_fails_nobody(check: Check, n: int, bad: int, slow: int) -> None:
    assert judge(check, answered(n, min(n, bad), min(n, slow))).verdict is not FAIL


@given(
    candidate=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    stable=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
)
def test_a_candidate_that_does_no_worse_than_stable_never_fails(
    candidate: tuple[int, int], stable: tuple[int, int]
) -> None:
    n, bad = candidate[0], min(candidate)
    m, theirs = stable[0], min(stable)
    if m and n and bad / n <= theirs / m:
        mine, other = answered(n, bad, bad), answered(m, theirs, theirs)
        for check in (ERRORS_LIKE, P95_LIKE):
            assert judge(check, mine, other).verdict is not FAIL


@pytest.mark.parametrize(
    ("check", "silent", "verdict"),
    [
        (ERRORS, {"alone"}, INCONCLUSIVE),
        (ERRORS, {"both"}, PASS),  # what stable does says nothing of it
        (P95, {"alone"}, INCONCLUSIVE),
        (P95, {"both"}, PASS),
        (ERRORS_LIKE, {"both"}, INCONCLUSIVE),
        (P95_LIKE, {"both"}, INCONCLUSIVE),
        (RATE, {"both"}, INCONCLUSIVE),
        (RATE, set(), PASS),
    ],
)
def test_no_pass_rests_on_what_was_heard_long_ago(
    check: Check, silent: set[str], verdict: Verdict
) -> None:
    found = Window(answered(5000), answered(5000), 60.0)
    both = replace(found, silence=15.1 if "both" in silent else 15.0)
    alone = replace(found, silence=15.1 if "alone" in silent else 15.0)
    (result,) = evaluate([check], both, {}, 300, alone=alone, weight=50, patience=15.0)

    assert result.verdict is verdict
    assert ("nothing heard for more than 15 s" in result.message) == (verdict is INCONCLUSIVE)


def test_a_fail_stays_one_in_silence() -> None:
    window = Window(answered(5000, errors=500), answered(5000), 60.0, silence=1000)
    (result,) = evaluate([ERRORS], window, {}, 300, weight=50, patience=15.0)

    assert result.verdict is FAIL


def test_a_check_without_stable_counts_what_the_candidate_did_alone() -> None:
    both, alone = Window(answered(10), answered(10), 1.0), Window(answered(5000), seconds=60.0)
    results = evaluate([ERRORS, P95, ERRORS_LIKE], both, {}, 300, alone=alone, weight=50)

    assert [result.samples for result in results] == [5000, 5000, 10]
