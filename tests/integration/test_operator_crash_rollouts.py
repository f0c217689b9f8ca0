"""SIGKILL of the operator before and after writes of rollouts: the end is the same, and no client notices.

`make bench-crash` for a seeded sample of its moments (SLUICE_TEST_SEED sets the seed, which is printed);
the nightly run plays them all.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster
from tests.crash_play import Clean, Crasher, Moment, list_moments
from tests.crash_scenarios import SCENARIOS
from tests.operator_process import OperatorProcess
from tests.plane import Plane
from tests.seed import find_seed

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("data")]

# Some of all scenarios: each has moments that no other has.
SAMPLE = 24
AT_ONCE = 24
SHORT = ("canary", "blue-green-approval", "auto-rollback", "abort", "third-version", "bake-revert")


@pytest.fixture
def crasher(
    cluster: Cluster, plane: Plane, installed_operator: OperatorProcess, tmp_path: Path
) -> Iterator[Crasher]:
    # There is one lease: the operator of the other tests waits.
    installed_operator.stop()
    process = installed_operator.with_options(workers=4 * AT_ONCE, reconcile_timeout=600)
    yield Crasher(cluster, plane, process, tmp_path)
    process.kill()


def play(crasher: Crasher, clean: dict[str, Clean], moments: list[Moment]) -> None:
    failures = {}
    for start in range(0, len(moments), AT_ONCE):
        outcome = crasher.play(moments[start : start + AT_ONCE], clean)
        for moment, found in outcome.failures.items():
            print(
                f"{moment} at {outcome.reached.get(moment, 'its end')}: {found or 'as it should'}"
            )
            if found:
                failures[str(moment)] = found
    assert not failures


def test_killed_at_some_moments(crasher: Crasher) -> None:
    draw = random.Random(find_seed())
    clean = crasher.learn(SHORT)
    play(crasher, clean, draw.sample(list_moments(clean), SAMPLE))


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_at_every_moment(crasher: Crasher) -> None:
    clean = crasher.learn([scenario.name for scenario in SCENARIOS])
    play(crasher, clean, list_moments(clean))
