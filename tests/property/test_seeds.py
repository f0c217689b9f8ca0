"""The exploration finds what it is there for: each defect put in on purpose breaks a rule.

A search that finds nothing proves nothing unless it would have found something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice import actions, reconcilers
from sluice import plan as planner
from sluice.api.rolloutstatus import Verdict
from sluice.requests import Verb
from sluice.resources.route import Split
from sluice.rollout import machine
from sluice.rollout.cursor import Cursor, State
from sluice.rollout.sight import Sight
from sluice.world import World
from tests.property.exploration import CounterexampleError, Setting, explore
from tests.property.test_exploration import CHECK, STEPS, plain, service

LIMIT = 30_000

CANARY = Setting("canary", lambda: service().canary(*STEPS, bake="10s").analysis(), flaps=1)
APPROVED = Setting(
    "approval", lambda: service().canary({"weight": 50, "approval": "Required"}, 100)
)
ROLLING = Setting("rolling update", plain, flaps=1)
CRASHING = Setting("crashes", lambda: service().canary(*STEPS), crashes=1)
EDITED = Setting("edits", lambda: service().canary(*STEPS), edits=1)
ASKED = Setting("requests", lambda: service().canary(*STEPS), requests=1, verbs=(Verb.ABORT,))
LONG = Setting("three steps", lambda: service().canary({"weight": 25, "hold": "5s"}, 75, 100))
PREVIEW = Setting("blue/green", lambda: plain().blue_green("10s", bake="10s"), edits=1)

CHECKED = Setting("a Job", lambda: service().canary(*STEPS, prePromotion=CHECK), flaps=1)

Patch = pytest.MonkeyPatch
Seed = Callable[[Patch], None]


def see(patch: Patch, change: Callable[[Sight], Sight]) -> None:
    """The machine sees what is not so."""
    look = planner.look
    patch.setattr(planner, "look", lambda *args: change(look(*args)))


def skip_the_proof(patch: Patch) -> None:
    see(patch, lambda sight: replace(sight, proven=True))


def skip_the_job(patch: Patch) -> None:
    see(patch, lambda sight: replace(sight, unchecked=""))


def wait_for_no_lag(patch: Patch) -> None:
    see(patch, lambda sight: replace(sight, lag=timedelta()))


def delete_what_clients_reach(patch: Patch) -> None:
    see(patch, lambda sight: replace(sight, lag=timedelta(), reachable=frozenset()))
    patch.setattr(actions, "front_revision", lambda front: "")


def forget_the_weight_on_abort(patch: Patch) -> None:
    split = actions._split

    def kept(cursor: Cursor, *rest: Any) -> Split:
        if cursor.state is State.ABORTING:
            cursor = replace(cursor, state=State.ANALYSING, weight=50)
        return split(cursor, *rest)

    patch.setattr(actions, "_split", kept)


def promote_without_samples(patch: Patch) -> None:
    read = planner._read_evidence

    def trusting(*args: Any) -> tuple[Verdict, str]:
        verdict, finding = read(*args)
        return Verdict.PASS if verdict is Verdict.INCONCLUSIVE else verdict, finding

    patch.setattr(planner, "_read_evidence", trusting)


def raise_the_weight_of_what_is_not_ready(patch: Patch) -> None:
    patch.setattr(Sight, "needs", lambda sight, step: 0)


def lose_the_cursor(patch: Patch) -> None:
    moved = reconcilers.is_moved

    def forgetful(world: World, decided: planner.Plan) -> bool:
        is_switch = decided.cursor is not None and decided.cursor.state is State.SWITCHING
        return moved(world, decided) and not is_switch

    patch.setattr(reconcilers, "is_moved", forgetful)


def skip_the_hold(patch: Patch) -> None:
    patch.setattr(machine, "_since", lambda cursor: datetime(2020, 1, 1, tzinfo=UTC))


def skip_the_approval(patch: Patch) -> None:
    patch.setattr(machine, "_pause", lambda cursor, why, message: machine.replace(cursor, step=1))


def reject_at_once(patch: Patch) -> None:
    patch.setattr(
        machine,
        "_abort",
        lambda cursor, goal, reason, message: machine._rejected(cursor, reason, message),
    )


def begin_late(patch: Patch) -> None:
    start = machine._start
    patch.setattr(machine, "_start", lambda *args: replace(start(*args), step=1))


def jump_over_a_step(patch: Patch) -> None:
    following = machine.next_step

    def jump(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
        after = following(cursor, sight, now)
        return after if after.is_promoted else replace(after, step=2)

    patch.setattr(machine, "next_step", jump)


def believe_an_unsettled_route(patch: Patch) -> None:
    def carried(world: World, revision: str) -> int | None:
        return world.route.weights.get(revision, 0) if world.route else 100

    patch.setattr(planner, "_find_carried", carried)


def go_back_to_the_first_lane(patch: Patch) -> None:
    take = actions._take_lanes

    def forget(lanes: tuple[str, ...], main: str, other: str) -> tuple[str, str]:
        return take(lanes, main, other) if other else (main, other)

    patch.setattr(actions, "_take_lanes", forget)


def wait_for_ever(patch: Patch) -> None:
    see(patch, lambda sight: replace(sight, carried=None))


def shrink_what_aborts(patch: Patch) -> None:
    size = actions._size

    def small(world: World, cursor: Cursor, *rest: Any) -> tuple[int, int]:
        if cursor.state is State.ABORTING:
            return 1, 1
        return size(world, cursor, *rest)

    patch.setattr(actions, "_size", small)


def ask_at_once(patch: Patch) -> None:
    wake = machine.wake_after

    def busy(cursor: Cursor, *rest: Any) -> float | None:
        return 0.0 if cursor.stable and cursor.is_moving else wake(cursor, *rest)

    patch.setattr(machine, "wake_after", busy)


def leave_the_old_one_running(patch: Patch) -> None:
    patch.setattr(actions, "_plan_removals", lambda *args: iter(()))


SEEDS: Mapping[str, tuple[Seed, Setting, str]] = {
    "a weight before the proof": (skip_the_proof, CANARY, "before an answer came through"),
    "a weight before its Job": (skip_the_job, CHECKED, "before its pre-promotion Job had passed"),
    "no lag at the end": (wait_for_no_lag, CANARY, "while clients may reach it"),
    "pods go while the Service reaches them": (
        delete_what_clients_reach,
        ROLLING,
        "while clients may reach it",
    ),
    "an abort that leaves the weight": (
        forget_the_weight_on_abort,
        ASKED,
        "the course says|stands",
    ),
    "promotion without samples": (promote_without_samples, CANARY, "with its checks at"),
    "a weight without pods": (
        raise_the_weight_of_what_is_not_ready,
        ROLLING,
        "ready pods, it takes",
    ),
    "effects without a cursor": (lose_the_cursor, CANARY, "the cursor on record says"),
    "a hold of no time": (skip_the_hold, CANARY, "before its hold"),
    "a step without its approval": (skip_the_approval, APPROVED, "without the approval"),
    "rejected with clients": (reject_at_once, ASKED, "rejected while clients"),
    "the first step is left out": (begin_late, EDITED, "begins at step 1"),
    "a step is jumped over": (jump_over_a_step, LONG, "from step 0 to step 2"),
    "a route that no gateway took": (believe_an_unsettled_route, CRASHING, "before it has all"),
    "what is promoted changes its lane": (
        go_back_to_the_first_lane,
        CRASHING,
        "gets the clients and goes from",
    ),
    "a switch that is never seen": (wait_for_ever, PREVIEW, "stands still for ever"),
    "what gives its clients back is scaled down": (shrink_what_aborts, ASKED, "is scaled to"),
    "a busy loop": (ask_at_once, ROLLING, "called again at once"),
    "nothing is tidied up": (leave_the_old_one_running, ROLLING, "run at the end"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_seeded_defect_is_found(name: str, monkeypatch: Patch) -> None:
    sow, setting, words = SEEDS[name]
    sow(monkeypatch)

    with pytest.raises(CounterexampleError, match=words) as found:
        explore(setting, LIMIT)

    assert "  1 pass" in str(found.value), "without the way there it helps nobody"


@pytest.mark.parametrize(
    "setting", dict.fromkeys(setting for _, setting, _ in SEEDS.values()), ids=lambda one: one.name
)
def test_without_a_seed_there_is_none(setting: Setting) -> None:
    assert explore(setting, LIMIT // 3).resting
