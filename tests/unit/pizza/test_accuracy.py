"""The benchmark's verdict: which results meet the goals."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import judge_results


@pytest.mark.parametrize(
    ("early", "best", "served", "without", "missed"),
    [
        pytest.param(0.78, 0.94, 0.94, 0.7, [], id="all-goals-met"),
        pytest.param(0.78, 0.94, 0.939, 0.7, ["served accuracy 0.9390"], id="one-answer-off"),
        pytest.param(0.78, 0.84, 0.84, 0.7, ["goal is 0.85"], id="the-best-version-too-weak"),
        pytest.param(0.86, 0.94, 0.94, 0.7, ["stay below 0.85"], id="the-first-too-strong"),
        pytest.param(0.78, 0.94, 0.94, 0.9, ["goal is +0.1"], id="geometry-adds-too-little"),
    ],
)
def test_a_missed_goal_is_named(
    early: float, best: float, served: float, without: float, missed: list[str]
) -> None:
    problems = judge_results(
        {
            "1.0.0": {"trained": early, "served": early},
            "1.1.0": {"trained": best, "served": served},
        },
        without,
    )
    assert len(problems) == len(missed)
    for problem, words in zip(problems, missed, strict=True):
        assert words in problem
