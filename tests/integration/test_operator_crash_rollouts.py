"""SIGKILL of the operator before and after writes of rollouts: the end is the same, and no client notices.

`make bench-crash` for a seeded share of its moments (SLUICE_TEST_SEED sets the seed, which is printed);
the nightly run plays them all.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster
from tests.crash_play import Crasher, Outcome, list_moments
from tests.crash_scenarios import SCENARIOS
from tests.operator_process import OperatorProcess
from tests.plane import Plane
from tests.seed import find_seed

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("data")]

SHARE = 0.15  # of all moments, in CI
AT_ONCE = 32


@pytest.fixture
def crasher(
    cluster: Cluster, plane: Plane, installed_operator: OperatorProcess, tmp_path: Path
) -> Iterator[Crasher]:
    # There is one lease: the operator of the other tests waits.
    installed_operator.stop()
    process = installed_operator.with_options(workers=4 * AT_ONCE, reconcile_timeout=600)
    yield Crasher(cluster, plane, process, tmp_path)
    process.kill()


def play_all(crasher: Crasher, share: float) -> dict[str, list[str]]:
    """Says of each moment of a drawn share what came of it; returns what failed."""
    clean = crasher.learn([scenario.name for scenario in SCENARIOS])
    moments = list_moments(clean)
    drawn = random.Random(find_seed()).sample(moments, round(share * len(moments)))
    print(f"{len(drawn)} of {len(moments)} moments")
    failed: dict[str, list[str]] = {}
    for start in range(0, len(drawn), AT_ONCE):
        outcome = crasher.play(drawn[start : start + AT_ONCE], clean)
        failed |= report(outcome)
    return failed


def report(outcome: Outcome) -> dict[str, list[str]]:
    """Says of each moment of a batch what came of it; returns what failed."""
    print(f"{outcome.requests} requests, {outcome.late} of them answered too late by the testbed")
    for moment, found in outcome.failures.items():
        print(f"{moment} {outcome.reached.get(moment, 'at its end')}: {found or 'as it should'}")
    return {str(moment): found for moment, found in outcome.failures.items() if found}


@pytest.mark.timeout(1800)
def test_killed_at_some_moments(crasher: Crasher) -> None:
    assert play_all(crasher, SHARE) == {}


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_at_every_moment(crasher: Crasher) -> None:
    assert play_all(crasher, 1.0) == {}
