"""SIGKILL of the operator at seeded moments of the move 1.0.0 -> 1.1.0: the end is always the same.

One service for each moment.  A moment is "so many of the move's writes, and a few milliseconds".  CI takes
a sample with a printed seed (SLUICE_TEST_SEED sets it), the nightly run takes them all.
"""

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.audit import AuditLog, Request
from tests.endstate import normalise
from tests.operator_process import OperatorProcess
from tests.plane import Obj, Plane
from tests.seed import find_seed
from tests.space import Space, say
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

MOMENTS = 20
SAMPLE = 6
# Status, events, record, Service, Deployment, HPA, PDB, front, deletions: the writes of one move.
WRITES = 18


def pick_moments(seed: int, count: int) -> list[tuple[int, float]]:
    """How many writes to wait for and how many seconds more; spread over the whole move."""
    draw = random.Random(seed)
    strata = [(WRITES * index // count, WRITES * (index + 1) // count) for index in range(count)]
    return [(draw.randint(low, max(low, high - 1)), draw.uniform(0, 0.03)) for low, high in strata]


class Mover:
    """Kills the operator at one moment of one service's move, and starts it again."""

    def __init__(self, space: Space, operator: OperatorProcess, audit: AuditLog) -> None:
        self.space = space
        self.operator = operator
        self.audit = audit

    def count(self, name: str) -> list[Request]:
        """The writes for one service: of itself, its children and its events."""
        return [
            request
            for request in self.audit.writes(self.space.name)
            if request.name == name or request.name.startswith((f"{name}-", f"{name}."))
        ]

    def play(self, name: str, writes: int, more: float) -> str:
        """Returns what had been written when the operator was killed."""
        self.operator.wait_until_working()
        begun = len(self.count(name))
        self.space.move("1.1.0", name)

        def is_reached() -> bool:
            status = self.space.status(name)
            # A move with fewer writes than asked for is killed at its end.
            over = status.get("stable", {}).get("version") == "1.1.0"
            done = len(self.count(name)) - begun
            return done >= writes or (over and status["rollout"]["state"] == "Complete")

        wait_for(is_reached, what=f"{writes} writes")
        pause = threading.Event()
        pause.wait(more)
        self.operator.kill()
        done = self.count(name)[begun:]
        self.operator.start()
        return f"{len(done)} writes, the last {done[-1] if done else 'none'}"


@pytest.fixture
def mover(space: Space, operator: OperatorProcess, audit: AuditLog) -> Iterator[Mover]:
    yield Mover(space, operator, audit)
    operator.wait_until_working()


def check_moments(mover: Mover, plane: Plane, moments: list[tuple[int, float]]) -> None:
    space = mover.space
    space.register("1.0.0", "1.1.0")
    names = ["clean", *(f"crash-{number}" for number in range(len(moments)))]
    for name in names:
        space.create(space.service(name).scales(2, 3))
    for name in names:
        space.wait_ready("1.0.0", name)
    with plane.following("InferenceService", space.name) as following:
        space.move("1.1.0", "clean")
        space.wait_ready("1.1.0", "clean")
        told = [
            f"{name} of {moment}: {mover.play(name, *moment)}"
            for name, moment in zip(names[1:], moments, strict=True)
        ]
        for name in names[1:]:
            space.wait_ready("1.1.0", name)
    print("\n".join(told))
    wait_for(
        lambda: len(space.plane.list("Deployment", space.name)) == len(names),
        what="every predecessor is gone",
    )
    want = normalise(space, "clean")
    for name in names[1:]:
        wait_for(
            lambda name=name: normalise(space, name) == want or differ(space, name, want),
            what=f"{name} ends as clean does\n" + "\n".join(told),
        )
    assert not find_backward_moves(following.seen), "traffic went back and forth"


def differ(space: Space, name: str, want: dict[str, Any]) -> bool:
    """Fails with the two end states, for the message."""
    assert normalise(space, name) == want, say(space.read(name))
    return False


def find_backward_moves(seen: list[tuple[str, Obj]]) -> list[str]:
    """Services whose stable went back from 1.1.0 to 1.0.0 on the way."""
    last: dict[str, str] = {}
    wrong = []
    for _, obj in seen:
        name, version = obj["metadata"]["name"], obj["status"].get("stable", {}).get("version", "")
        if (last.get(name), version) == ("1.1.0", "1.0.0"):
            wrong.append(name)
        last[name] = version
    return wrong


def test_killed_at_some_moments(mover: Mover, plane: Plane) -> None:
    every = pick_moments(seed := find_seed(), MOMENTS)
    draw = random.Random(seed)
    step = len(every) / SAMPLE
    sample = [every[int(step * index + draw.random() * step)] for index in range(SAMPLE)]
    check_moments(mover, plane, sample)


@pytest.mark.nightly
def test_killed_at_every_moment(mover: Mover, plane: Plane) -> None:
    check_moments(mover, plane, pick_moments(find_seed(), MOMENTS))
