"""SIGKILL of the operator before and after writes of rollouts: the end is the same, and no client notices.

`make bench-crash` for a seeded sample of its moments (SLUICE_TEST_SEED sets the seed, which is printed);
the nightly run plays them all.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster
from tests.crash_play import Crasher, Moment, Outcome, list_moments
from tests.crash_scenarios import SCENARIOS
from tests.operator_process import OperatorProcess
from tests.plane import Plane
from tests.seed import find_seed

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("data")]

SAMPLE = 24
AT_ONCE = 32
# Scenarios of the sample, and their writes without a crash, more or less: a moment that is never reached is
# one at the end.
WRITES = {
    "canary": 28,
    "blue-green-approval": 20,
    "auto-rollback": 21,
    "abort": 20,
    "third-version": 45,
    "bake-revert": 28,
}


@pytest.fixture
def crasher(
    cluster: Cluster, plane: Plane, installed_operator: OperatorProcess, tmp_path: Path
) -> Iterator[Crasher]:
    # There is one lease: the operator of the other tests waits.
    installed_operator.stop()
    process = installed_operator.with_options(workers=4 * AT_ONCE, reconcile_timeout=600)
    yield Crasher(cluster, plane, process, tmp_path)
    process.kill()


def report(outcome: Outcome) -> dict[str, list[str]]:
    """Says of each moment what came of it; returns what failed."""
    print(f"{outcome.requests} requests, {outcome.late} of them answered too late by the testbed")
    for moment, found in outcome.failures.items():
        print(f"{moment} {outcome.reached.get(moment, 'at its end')}: {found or 'as it should'}")
    return {str(moment): found for moment, found in outcome.failures.items() if found}


def test_killed_at_some_moments(crasher: Crasher) -> None:
    draw = random.Random(find_seed())
    moments = [
        Moment(name, number, when)
        for name, writes in WRITES.items()
        for number in range(1, writes + 1)
        for when in ("before", "after")
    ]
    outcome = crasher.play(draw.sample(moments, SAMPLE), {})
    assert report(outcome) == {}
    assert len(outcome.reached) > SAMPLE * 3 // 4, "the table of writes is old"


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_at_every_moment(crasher: Crasher) -> None:
    clean = crasher.learn([scenario.name for scenario in SCENARIOS])
    moments = list_moments(clean)
    failed: dict[str, list[str]] = {}
    for start in range(0, len(moments), AT_ONCE):
        failed |= report(crasher.play(moments[start : start + AT_ONCE], clean))
    assert failed == {}
