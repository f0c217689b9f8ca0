"""What the fallback's benchmarks make of their figures."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from benchmarks.cold_start import measure_images, read_metric, summarise
from benchmarks.fallback import judge, report
from benchmarks.serving.load import Measured

GOOD: dict[str, Any] = {"p95_s": 0.99, "rss_mb": 1023.9, "failed": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({}, [], id="all met"),
        pytest.param({"p95_s": 1.0}, ["p95_s 1.0"], id="too slow"),
        pytest.param({"p95_s": math.nan}, ["p95_s nan"], id="nobody was answered"),
        pytest.param({"rss_mb": 1024}, ["rss_mb 1024"], id="too big"),
        pytest.param({"failed": 1}, ["1 requests failed"], id="a client saw an error"),
    ],
)
def test_a_missed_goal_is_named(change: dict[str, Any], words: list[str]) -> None:
    problems = judge({**GOOD, **change})
    assert [problem.startswith(word) for problem, word in zip(problems, words, strict=True)] == [
        True
    ] * len(words)


def test_figures_are_of_the_answers_and_failures_of_both_windows() -> None:
    closed = Measured(2.0, [0.01] * 95 + [0.5] * 5, Counter({"200": 100, "503": 2}), 0.5)
    paced = Measured(2.0, [0.02], Counter({"200": 1, "504": 1}), 0.1)
    figures = report(closed, paced, 140.04, 1.234)
    assert (figures["p95_s"], figures["images_per_s"], figures["failed"]) == (0.01, 50.0, 3)
    assert (figures["rss_mb"], figures["client_cpus"], figures["server_cpus"]) == (
        140.0,
        0.25,
        1.23,
    )
    assert figures["p95_at_60_per_s"] == 0.02


def test_sizes_are_those_of_this_trees_images() -> None:
    stored = [
        {"names": None, "size": "1 MB"},
        {"names": ["localhost/sluice-inference-cpu:old"], "size": "2 MB"},
        {"names": ["localhost/sluice-inference-cpu:new"], "size": "3 MB"},
    ]
    keys = {"inference-cpu": "new", "inference-gpu": "new"}
    assert measure_images(stored, keys) == {"inference-cpu": "3 MB", "inference-gpu": None}


def test_a_metric_is_read_by_its_whole_name() -> None:
    text = 'load_seconds_total 9\nload_seconds{model="x"} 2.5\n'
    assert read_metric(text, "load_seconds") == 2.5
    assert math.isnan(read_metric(text, "other"))


def test_of_several_starts_the_median_counts_and_the_slowest_is_said() -> None:
    runs = [{"ready_s": value} for value in (1.0, 5.0, 2.0)]
    assert summarise(runs) == {"ready_s": 2.0, "ready_max_s": 5.0}
