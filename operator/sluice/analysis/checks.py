"""Evaluates a step's checks over one window: which are judged, at which level, in which words.

The numbers are judged in ``findings``.  Must not fetch, keep state, or decide what a verdict leads to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from sluice.analysis.findings import (
    Finding,
    Level,
    judge_agreement,
    judge_errors,
    judge_errors_like_stable,
    judge_latency,
    judge_latency_like_stable,
    judge_query,
    judge_throughput,
    judge_throughput_like_stable,
)
from sluice.analysis.statistics import MAX_SAMPLES
from sluice.analysis.tally import Window
from sluice.analysis.wording import NO_DATA, format_percent
from sluice.api.check import Check, CheckMetric, CheckType
from sluice.api.rolloutstatus import Verdict

QUANTILES: Final = {
    CheckMetric.LATENCY_P50: 0.50,
    CheckMetric.LATENCY_P95: 0.95,
    CheckMetric.LATENCY_P99: 0.99,
}
REGISTERED: Final = {
    CheckMetric.LATENCY_P50: "latencyP50Ms",
    CheckMetric.LATENCY_P95: "latencyP95Ms",
    CheckMetric.LATENCY_P99: "latencyP99Ms",
}
"""What a ModelVersion's evaluation calls them."""

_AT_LEAST: Final = frozenset({CheckMetric.THROUGHPUT, CheckMetric.AGREEMENT})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check says.

    ``value`` and ``threshold`` are for people, units included.  ``samples`` are the candidate's; a
    verdict takes about ``needed`` of them (rounds, for Query).  ``message`` is the whole in one line.
    """

    name: str
    verdict: Verdict
    value: str
    threshold: str
    samples: int
    needed: int
    dry_run: bool
    message: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the comparer has counted: of ``compared`` mirrored requests ``agreed`` were answered alike.

    It wasn't heard in the last ``silence`` of seconds.
    """

    agreed: float = 0.0
    compared: float = 0.0
    silence: float = 0.0


def evaluate(
    checks: Sequence[Check],
    window: Window,
    evaluation: Mapping[str, Decimal],
    min_samples: int,
    alpha: float = 0.05,
    agreement: Agreement | None = None,
    queries: Mapping[str, Sequence[float | None]] | None = None,
    *,
    alone: Window | None = None,
    weight: int | None = None,
    replicas: int = 1,
    patience: float = math.inf,
) -> tuple[CheckResult, ...]:
    """The results of all checks that can be measured now, in their order.

    ``window`` is what both tracks did while both were heard, ``alone`` what the candidate did while it was
    (None: the same): what says nothing of stable need not wait for it.  No Pass rests on what was heard
    more than ``patience`` seconds ago; a Fail stays one.

    ``evaluation`` holds what the candidate's version registered.  ``queries`` holds by check the answers
    of the rounds so far, the newest last.  ``weight`` is the candidate's share of the traffic in percent,
    ``replicas`` its ready pods.  ``is_measurable`` says which checks are left out.

    ``alpha`` is the probability that any check gives a wrong verdict in this window; it is shared between
    the checks that decide (Bonferroni).  Dry ones are judged at the same level and take nothing from it,
    nor do queries, which are no statistics.
    """
    measured = [
        check for check in checks if is_measurable(check, window, weight, agreement, min_samples)
    ]
    sharing = sum(not c.dry_run and c.metric is not CheckMetric.QUERY for c in measured)
    level = Level(alpha / max(1, sharing), min_samples)
    own = window if alone is None else alone
    scene = _Scene(window, own, evaluation, agreement, queries or {}, weight, replicas)
    results = []
    for check in measured:
        finding = _find(check, scene, level)
        if _find_silence(check, scene) > patience and finding.verdict is not Verdict.FAIL:
            note = finding.note or f"nothing heard for more than {patience:.0f} s"
            finding = replace(finding, verdict=Verdict.INCONCLUSIVE, note=note)
        results.append(_make_result(check, finding, min_samples))
    return tuple(results)


def is_measurable(
    check: Check,
    window: Window,
    weight: int | None,
    agreement: Agreement | None,
    min_samples: int,
) -> bool:
    """Whether there can be anything to judge the check by, at this weight (None: not known).

    - Agreement: while requests are mirrored.
    - Everything else, but for Query: while the candidate has traffic.
    - RelativeToStable: while stable has traffic as well, or the window holds ``min_samples`` of what it
      did before (the last few requests that it finishes are none to compare with); for Throughput only
      the former will do.
    """
    match check.metric:
        case CheckMetric.QUERY:
            return True
        case CheckMetric.AGREEMENT:
            return agreement is not None
    if weight == 0:
        return False
    if check.type is not CheckType.RELATIVE_TO_STABLE:
        return True
    if check.metric is CheckMetric.THROUGHPUT:
        return weight is not None and weight < 100
    return weight != 100 or window.stable.requests >= min_samples


@dataclass(frozen=True, slots=True)
class _Scene:
    """All that a check may look at."""

    window: Window
    alone: Window
    evaluation: Mapping[str, Decimal]
    agreement: Agreement | None
    queries: Mapping[str, Sequence[float | None]]
    weight: int | None
    replicas: int


def _find_silence(check: Check, scene: _Scene) -> float:
    """Seconds since that was heard last which the check is judged by."""
    if check.metric is CheckMetric.QUERY:
        return 0.0  # its rounds say by themselves when they have no answer
    if check.metric is CheckMetric.AGREEMENT:
        return scene.agreement.silence if scene.agreement else 0.0
    needs_both = (
        check.type is CheckType.RELATIVE_TO_STABLE or check.metric is CheckMetric.THROUGHPUT
    )
    return scene.window.silence if needs_both else scene.alone.silence


def _find(check: Check, scene: _Scene, level: Level) -> Finding:
    window, candidate = scene.window, scene.alone.candidate
    match check.metric, check.type:
        case CheckMetric.ERROR_RATE, CheckType.RELATIVE_TO_STABLE:
            return judge_errors_like_stable(window, _bound(check.max_increase_percent) / 100, level)
        case CheckMetric.ERROR_RATE, _:
            return judge_errors(candidate, _bound(check.max_percent) / 100, level)
        case CheckMetric.THROUGHPUT, CheckType.RELATIVE_TO_STABLE:
            decrease = _bound(check.max_decrease_percent) / 100
            return judge_throughput_like_stable(window, decrease, scene.weight or 0, level)
        case CheckMetric.THROUGHPUT, _:
            minimum = _bound(check.min_per_second)
            return judge_throughput(window, minimum, scene.weight, scene.replicas, level)
        case CheckMetric.AGREEMENT, _:
            seen = scene.agreement or Agreement()
            minimum = _bound(check.min_percent) / 100
            return judge_agreement(seen.agreed, seen.compared, minimum, level)
        case CheckMetric.QUERY, _:
            answers = scene.queries.get(check.name, ())
            return judge_query(
                answers,
                None if check.min is None else float(check.min),
                None if check.max is None else float(check.max),
            )
    share = QUANTILES[check.metric]
    match check.type:
        case CheckType.ABSOLUTE:
            return judge_latency(candidate, share, _bound(check.max_milliseconds) / 1000, level)
        case CheckType.RELATIVE_TO_STABLE:
            increase = _bound(check.max_increase_percent) / 100
            return judge_latency_like_stable(window, share, increase, level)
        case CheckType.FROM_EVALUATION:
            return _judge_as_registered(check, share, scene, level)


def _judge_as_registered(check: Check, share: float, scene: _Scene, level: Level) -> Finding:
    """Against what training measured. Where nothing was registered there is no verdict to wait for."""
    name = REGISTERED[check.metric]
    registered = scene.evaluation.get(name, Decimal("NaN"))
    if not (registered.is_finite() and registered > 0):
        samples = scene.alone.candidate.counts[-1:] or (0.0,)
        note = (
            f"the ModelVersion's evaluation registers no {name} above 0: register it, or make the "
            "check Absolute"
        )
        return Finding(
            Verdict.INCONCLUSIVE, NO_DATA, NO_DATA, int(samples[0]), level.min_samples, note
        )
    limit = float(registered) / 1000 * (1 + _bound(check.max_increase_percent) / 100)
    return judge_latency(scene.alone.candidate, share, limit, level)


def _bound(value: str | int | None) -> float:
    # The API server has held that the bound is there; a check that lacks it never got this far.
    if value is None:
        raise ValueError("a check without the bound of its metric and type")
    return float(value)


def _make_result(check: Check, finding: Finding, min_samples: int) -> CheckResult:
    return CheckResult(
        name=check.name,
        verdict=finding.verdict,
        value=finding.value,
        threshold=finding.threshold + (f" ({_origin(check)})" if _origin(check) else ""),
        samples=finding.samples,
        needed=finding.needed,
        dry_run=check.dry_run,
        message=_say(check, finding, min_samples),
    )


def _origin(check: Check) -> str:
    """Where a relative limit comes from, such as "stable +20%"."""
    match check.type:
        case CheckType.ABSOLUTE:
            return ""
        case CheckType.FROM_EVALUATION:
            return f"registered +{format_percent(check.max_increase_percent or '0')}"
    if check.metric is CheckMetric.THROUGHPUT:
        return f"stable -{format_percent(check.max_decrease_percent or '0')}"
    return f"stable +{format_percent(check.max_increase_percent or '0')}"


def _say(check: Check, finding: Finding, min_samples: int) -> str:
    """The decision, the number and its threshold, such as "ErrorRate 3.10% > 1.00% (n=2207)"."""
    is_query = check.metric is CheckMetric.QUERY
    subject = f"Query {check.name}" if is_query else check.metric.value
    details = [_origin(check)] if _origin(check) else []
    details.append(_rounds(finding) if is_query else _count(finding, min_samples))
    if finding.note and finding.verdict is Verdict.INCONCLUSIVE:
        details.append(finding.note)
    relation = _relation(check, finding.verdict)
    return f"{subject} {finding.value}{relation} {finding.threshold} ({', '.join(details)})"


def _relation(check: Check, verdict: Verdict) -> str:
    if verdict is Verdict.INCONCLUSIVE:
        return ", limit"
    is_pass = verdict is Verdict.PASS
    if check.metric is CheckMetric.QUERY and check.min is not None and check.max is not None:
        return " within" if is_pass else " outside"
    if check.metric in _AT_LEAST or check.min is not None:
        return " ≥" if is_pass else " <"
    return " ≤" if is_pass else " >"


def _rounds(finding: Finding) -> str:
    return f"{finding.samples} of {finding.needed} rounds in a row"


def _count(finding: Finding, min_samples: int) -> str:
    """How many samples of how many: exact up to minSamples, a forecast with two digits beyond."""
    seen = f"n={finding.samples}"
    if finding.verdict is not Verdict.INCONCLUSIVE or finding.samples >= finding.needed:
        return seen
    if finding.needed <= min_samples:
        return f"{seen} of {finding.needed}"
    if finding.needed >= MAX_SAMPLES:
        return seen if finding.note else f"{seen}, too close to tell yet"
    unit = 10 ** max(0, math.floor(math.log10(finding.needed)) - 1)
    return f"{seen} of about {math.ceil(finding.needed / unit) * unit}"
