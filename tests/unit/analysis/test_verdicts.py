"""A sample of the simulation: wrong verdicts are as rare as their level says, and real breaches are found."""

import random

import pytest

from benchmarks.verdicts import make_error_row, make_latency_row, most_wrong, write_table

RUNS = 60


@pytest.mark.parametrize("percent", [0.5, 1.0])
def test_a_good_error_rate_is_no_alarm(percent: float) -> None:
    row = make_error_row(percent)(random.Random(7), RUNS)

    assert not row.is_breach
    assert row.fail <= most_wrong(RUNS)
    # The same candidates, by a threshold that each round is held against.
    assert row.bare_fail > 0.5


@pytest.mark.parametrize(("percent", "most"), [(2.0, 4000), (5.0, 600)])
def test_a_bad_error_rate_is_found(percent: float, most: int) -> None:
    row = make_error_row(percent)(random.Random(7), RUNS)

    assert row.is_breach
    assert row.passed <= most_wrong(RUNS)
    assert row.fail > 0.95
    assert row.median_samples is not None
    assert row.median_samples <= most


@pytest.mark.parametrize(("shift", "is_breach"), [(1.0, False), (1.2, False), (1.5, True)])
def test_latencies(shift: float, *, is_breach: bool) -> None:
    row = make_latency_row(shift)(random.Random(7), 20)

    assert row.is_breach is is_breach
    assert row.wrong <= most_wrong(20)
    if shift != 1.2:
        assert row.wrong + row.none == 0


def test_the_table_has_a_line_for_each() -> None:
    rows = [make_error_row(5.0)(random.Random(7), 2), make_latency_row(1.5)(random.Random(7), 2)]

    lines = list(write_table(rows))

    assert len(lines) == 4
    assert "errors 5%, limit 1%" in lines[2]
    assert "100.0%" in lines[3]
