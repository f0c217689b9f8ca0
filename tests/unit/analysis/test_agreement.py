"""What the comparer counts, from its text to a verdict."""

from __future__ import annotations

from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

from sluice.analysis.agreement import Comparisons, Counts, make_check, parse_counts
from sluice.analysis.checks import Agreement, evaluate
from sluice.analysis.exposition import ScrapeError
from sluice.analysis.prometheus import Subject
from sluice.analysis.sampler import Sampler, Scene
from sluice.analysis.tally import Window
from sluice.api.rolloutstatus import Verdict
from sluice_inference.compare.agreement import Comparison, Outcome
from sluice_inference.compare.counts import Counts as Counting
from tests.unit.analysis.conftest import Serve

START = 1_700_000_000.0
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def write(agree: int, disagree: int = 0, failed: int = 0, start: float = START) -> str:
    found = {"agree": agree, "disagree": disagree, "candidate_failed": failed}
    found |= {"stable_failed": 7, "both_failed": 8, "skipped": 9}
    lines = [
        f'sluice_compare_answers_total{{outcome="{key}"}} {value}.0' for key, value in found.items()
    ]
    return "\n".join(
        [*lines, 'sluice_compare_cosine_bucket{le="-1.0"} 0.0', f"{START_NAME} {start}", ""]
    )


START_NAME = "sluice_compare_start_time_seconds"


def test_what_the_comparer_writes_is_read() -> None:
    counting = Counting()
    for outcome, count in zip(Outcome, range(1, 7), strict=True):
        for _ in range(count):
            counting.count(Comparison(outcome, "refused" if outcome is Outcome.SKIPPED else ""))

    counts = parse_counts(counting.render_rollout().decode())

    agreed = list(Outcome).index(Outcome.AGREE) + 1
    bad = [Outcome.DISAGREE, Outcome.CANDIDATE_FAILED]
    assert counts.agreed == agreed
    assert counts.disagreed == sum(list(Outcome).index(outcome) + 1 for outcome in bad)
    assert counts.start_time > START


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (write(1)[:-1], "cut off"),
        (write(1).replace('outcome="agree"', 'outcome="agreed"'), 'outcome="agree"} is missing'),
        (write(1) + 'sluice_compare_answers_total{outcome="new"} 1\n', "is not known"),
        (write(1, start=0.0), "no Unix time"),
        (write(1).replace(" 7.0", " NaN"), "not a number"),
        ("<html>\n", "no sample"),
    ],
)
def test_what_it_does_not_write_is_refused(text: str, words: str) -> None:
    with pytest.raises(ScrapeError, match=words):
        parse_counts(text)


def add(comparisons: Comparisons, time: float, **pods: Counts) -> Agreement:
    comparisons.add(time, pods)
    return comparisons.total


def test_what_came_before_the_window_is_left_out() -> None:
    comparisons = Comparisons()
    assert add(comparisons, 100.0) == Agreement()
    assert add(comparisons, 101.0, a=Counts(50.0, 10.0, 5.0)) == Agreement()
    assert add(comparisons, 102.0, a=Counts(50.0, 14.0, 6.0)) == Agreement(4.0, 5.0)
    assert add(comparisons, 103.0) == Agreement(4.0, 5.0, silence=1.0)
    assert add(comparisons, 104.0, a=Counts(50.0, 20.0, 6.0)) == Agreement(10.0, 11.0)


@pytest.mark.parametrize(
    "after", [Counts(60.0, 12.0, 3.0), Counts(50.0, 9.0, 3.0), Counts(50.0, 12.0, 1.0)]
)
def test_a_restart_counts_whole(after: Counts) -> None:
    comparisons = Comparisons()
    add(comparisons, 101.0, a=Counts(50.0, 10.0, 2.0))

    assert add(comparisons, 102.0, a=after) == Agreement(
        after.agreed, after.agreed + after.disagreed
    )


def test_another_pod_counts_from_when_it_began_or_from_when_it_was_heard() -> None:
    comparisons = Comparisons()
    add(comparisons, 101.0, a=Counts(50.0, 10.0, 2.0))

    assert add(comparisons, 110.0, b=Counts(105.0, 3.0, 1.0)) == Agreement(3.0, 4.0)
    assert add(comparisons, 111.0, c=Counts(90.0, 100.0, 100.0)) == Agreement(3.0, 4.0)
    assert add(comparisons, 112.0, c=Counts(90.0, 101.0, 100.0)) == Agreement(4.0, 5.0)


@pytest.mark.parametrize(
    ("least", "agreed", "compared", "verdict", "threshold"),
    [
        (98, 1990.0, 2000.0, Verdict.PASS, "98.00%"),
        (98, 1800.0, 2000.0, Verdict.FAIL, "98.00%"),
        (98, 0.0, 0.0, Verdict.INCONCLUSIVE, "98.00%"),
        (0, 1.0, 1000.0, Verdict.PASS, "0.00%"),
        (0, 0.0, 0.0, Verdict.INCONCLUSIVE, "0.00%"),
        (100, 20000.0, 20000.0, Verdict.PASS, "99.90%"),
        (100, 980.0, 1000.0, Verdict.FAIL, "99.90%"),
    ],
)
def test_every_bound_can_be_proven_and_broken(
    least: int, agreed: float, compared: float, verdict: Verdict, threshold: str
) -> None:
    check = make_check(least)
    (result,) = evaluate(
        [check], Window(), {}, 300, agreement=Agreement(agreed, compared), weight=0
    )

    assert (result.name, result.verdict, result.threshold) == ("shadow", verdict, threshold)
    assert result.dry_run == (least == 0)


async def test_a_sampler_without_an_analysis_asks_the_comparer_alone(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    texts = [write(100), write(100 + 590, disagree=2), "<html>\n", write(100 + 980, 10, 10)]
    said: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        said.append(request.path)
        return web.Response(text=texts[min(len(said), len(texts)) - 1])

    port = await serve(answer)
    sampler = Sampler(None, NOW, session, agreement=98)
    servers = {"server": "127.0.0.2"}
    scene = Scene(
        Subject("vision", "pizza", "a", "b"), 0, servers, servers, port, {}, {"c": "127.0.0.1"}
    )

    seen = [await sampler.look(NOW.replace(second=second), scene) for second in range(4)]

    assert said == ["/metrics/rollout"] * 4
    assert sampler.interval == 15.0
    assert [
        [(result.name, result.value, result.samples) for result in round_] for round_ in seen
    ] == [
        [("shadow", "no data", 0)],
        [("shadow", "99.66%", 592)],
        [("shadow", "99.66%", 592)],  # nothing heard, nothing lost
        [("shadow", "98.00%", 1000)],
    ]
