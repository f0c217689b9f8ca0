"""The state machine on a course of one plain step, state by state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sluice.rollout.course import Course, Step
from sluice.rollout.cursor import Cursor, CursorError, State, load_cursor
from sluice.rollout.machine import advance, begin, wake_after
from sluice.rollout.sight import Sight, Track

T0 = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
A, B, C = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"

PROGRESSING = Cursor(State.PROGRESSING, B, A, started=T0, progressed=T0, step_started=T0)
FIRST = Cursor(State.PROGRESSING, A, "", started=T0, progressed=T0, step_started=T0)
SWITCHING = replace(PROGRESSING, state=State.SWITCHING, weight=100)
DRAINING = Cursor(State.DRAINING, B, B, previous=A, started=T0, switched=T0)
COMPLETE_A = Cursor(State.COMPLETE, A, A)
COMPLETE_B = Cursor(State.COMPLETE, B, B)
REJECTED = Cursor(State.REJECTED, B, A, reason="FileCorrupt", message="bad byte")

SIGHT = Sight(
    target=B,
    candidate=Track(ready=0, wanted=2),
    course=Course((Step(100, 100),), deadline=1200),
    reachable=frozenset({A}),
    lag=timedelta(seconds=5),
)


def see(**changes: object) -> Sight:
    track = {key: changes.pop(key) for key in list(changes) if key in Track.__dataclass_fields__}
    return replace(SIGHT, candidate=replace(SIGHT.candidate, **track), **changes)  # type: ignore[arg-type]


CASES: dict[str, tuple[Cursor, Sight, float, State, str, str]] = {
    # name: cursor, sight, seconds since T0, then state, revision, stable
    "steady stays": (COMPLETE_A, see(target=A), 9, State.COMPLETE, A, A),
    "a new target begins": (COMPLETE_A, see(), 9, State.PROGRESSING, B, A),
    "an unknown target changes nothing": (COMPLETE_A, see(target=""), 9, State.COMPLETE, A, A),
    "a rejected target is not tried again": (
        COMPLETE_A,
        see(rejected=("FileCorrupt", "bad byte")),
        9,
        State.REJECTED,
        B,
        A,
    ),
    "waiting for pods": (PROGRESSING, see(ready=1), 1, State.PROGRESSING, B, A),
    "all pods ready: switch": (PROGRESSING, see(ready=2), 1, State.SWITCHING, B, A),
    "a first deployment has nothing to switch": (
        FIRST,
        see(target=A, ready=2, reached=2),
        1,
        State.COMPLETE,
        A,
        A,
    ),
    "ready pods that the Service does not reach yet": (
        FIRST,
        see(target=A, ready=2, reached=1),
        1,
        State.PROGRESSING,
        A,
        "",
    ),
    "a doomed candidate is out at once": (
        PROGRESSING,
        see(doomed_reason="DigestMismatch", doomed_message="…"),
        1,
        State.REJECTED,
        B,
        A,
    ),
    "a doomed first deployment has nowhere to go": (
        FIRST,
        see(target=A, doomed_reason="DigestMismatch"),
        1,
        State.PROGRESSING,
        A,
        "",
    ),
    "the deadline ends it": (PROGRESSING, see(), 1200, State.REJECTED, B, A),
    "a second before, it does not": (PROGRESSING, see(), 1199, State.PROGRESSING, B, A),
    "progress moves the deadline": (PROGRESSING, see(ready=1), 1200, State.PROGRESSING, B, A),
    "a first deployment past its deadline goes on trying": (
        FIRST,
        see(target=A),
        1200,
        State.FAILED,
        A,
        "",
    ),
    "and may still succeed": (
        replace(FIRST, state=State.FAILED),
        see(target=A, ready=2, reached=2),
        5000,
        State.COMPLETE,
        A,
        A,
    ),
    "waiting for GPUs is no failure": (
        PROGRESSING,
        see(unschedulable="0/3 nodes"),
        5000,
        State.PROGRESSING,
        B,
        A,
    ),
    "back to stable in the spec ends it": (PROGRESSING, see(target=A), 1, State.COMPLETE, A, A),
    "a third version takes the place": (PROGRESSING, see(target=C), 1, State.PROGRESSING, C, A),
    "traffic has moved: drain": (SWITCHING, see(ready=2, carried=100), 1, State.DRAINING, B, B),
    "not yet moved": (SWITCHING, see(ready=2), 1, State.SWITCHING, B, A),
    "readiness lost before the switch": (SWITCHING, see(ready=1), 1, State.PROGRESSING, B, A),
    "reverted before the switch is seen": (
        SWITCHING,
        see(ready=2, target=A),
        1,
        State.ABORTING,
        B,
        A,
    ),
    "reverted after the switch: drain first": (
        SWITCHING,
        see(ready=2, target=A, carried=100),
        1,
        State.DRAINING,
        B,
        B,
    ),
    "drained": (
        DRAINING,
        see(carried=100, ready=2, reached=2, reachable=frozenset({B})),
        5,
        State.COMPLETE,
        B,
        B,
    ),
    "only some of the new pods are reached": (
        DRAINING,
        see(carried=100, ready=2, reached=1, reachable=frozenset({B})),
        99,
        State.DRAINING,
        B,
        B,
    ),
    "the lag isn't over": (
        DRAINING,
        see(carried=100, ready=2, reached=2, reachable=frozenset({B})),
        4,
        State.DRAINING,
        B,
        B,
    ),
    "the old pods are still reachable": (
        DRAINING,
        see(carried=100, ready=2, reached=2, reachable=frozenset({A, B})),
        99,
        State.DRAINING,
        B,
        B,
    ),
    "nobody reaches the new pods yet": (
        DRAINING,
        see(carried=100, ready=2, reachable=frozenset()),
        99,
        State.DRAINING,
        B,
        B,
    ),
    "the new stable died while the old one still runs": (
        DRAINING,
        see(carried=100, ready=0, previous_ready=2, reachable=frozenset()),
        2,
        State.SWITCHING,
        A,
        B,
    ),
    "wanted back while it still runs": (
        DRAINING,
        see(carried=100, target=A, ready=2, previous_ready=2, reachable=frozenset({B})),
        2,
        State.SWITCHING,
        A,
        B,
    ),
    "wanted back when too little of it is left": (
        DRAINING,
        see(carried=100, target=A, ready=2, previous_ready=1),
        2,
        State.DRAINING,
        B,
        B,
    ),
    "neither answers, and another version is named": (
        DRAINING,
        see(carried=100, target=C, reachable=frozenset()),
        99,
        State.PROGRESSING,
        C,
        B,
    ),
    "part of a first deployment answers already": (
        FIRST,
        see(target=B, ready=1),
        1,
        State.PROGRESSING,
        B,
        A,
    ),
    "rejected stays rejected": (REJECTED, see(), 99999, State.REJECTED, B, A),
    "the spec goes back to stable": (REJECTED, see(target=A), 1, State.COMPLETE, A, A),
    "another version is tried": (REJECTED, see(target=C), 1, State.PROGRESSING, C, A),
}


@pytest.mark.parametrize("name", CASES)
def test_advance(name: str) -> None:
    cursor, sight, seconds, state, revision, stable = CASES[name]

    after = advance(cursor, sight, T0 + timedelta(seconds=seconds))

    assert (after.state, after.revision, after.stable) == (state, revision, stable)


@pytest.mark.parametrize("name", CASES)
def test_what_advance_makes_survives_the_status(name: str) -> None:
    """A crash right after the write finds the same cursor again."""
    cursor, sight, seconds, *_ = CASES[name]
    after = advance(cursor, sight, T0 + timedelta(seconds=seconds))

    loaded = load_cursor({"rollout": after.dump(), "stable": {"revision": after.stable}})

    assert loaded == after


def test_the_clock_stands_still_while_waiting_for_capacity() -> None:
    held = advance(PROGRESSING, see(unschedulable="0/3 nodes"), T0 + timedelta(minutes=1))
    later = T0 + timedelta(hours=5)
    resumed = advance(held, see(), later)

    assert held.held == "WaitingForCapacity"
    assert (resumed.held, resumed.progressed) == ("", later)
    assert advance(resumed, see(), later + timedelta(minutes=19)).state is State.PROGRESSING


def test_the_rejection_says_number_and_threshold() -> None:
    after = advance(PROGRESSING, see(ready=0, trouble="server: OOMKilled"), T0 + timedelta(hours=1))

    assert after.reason == "ProgressDeadlineExceeded"
    assert after.message == (
        "0/2 pods ready and no progress for 1200s (rollout.deadline): server: OOMKilled"
    )


@pytest.mark.parametrize(
    ("cursor", "sight", "seconds", "want"),
    [
        (PROGRESSING, see(), 100, 1100.0),
        (PROGRESSING, see(ready=1), 10, 50.0),
        (replace(PROGRESSING, held="WaitingForCapacity"), see(unschedulable="x"), 10, None),
        (DRAINING, see(), 2, 3.0),
        (DRAINING, see(), 6, None),
        (COMPLETE_B, see(), 6, None),
        (SWITCHING, see(ready=2), 6, None),
    ],
)
def test_wake_after(cursor: Cursor, sight: Sight, seconds: float, want: float | None) -> None:
    assert wake_after(cursor, sight, T0 + timedelta(seconds=seconds)) == want


def test_begin_without_stable() -> None:
    cursor = begin("", see(target=A), T0)

    assert cursor == replace(FIRST, deadline=1200)


def test_an_edited_deadline_is_for_the_next_rollout() -> None:
    cursor = begin(A, see(), T0)
    later = T0 + timedelta(minutes=5)

    assert advance(cursor, see(deadline=timedelta(minutes=1)), later).state is State.PROGRESSING
    assert wake_after(cursor, see(deadline=timedelta(minutes=1)), later) == 900.0


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"state": "Flying", "revision": A}, "Flying"),
        ({"state": "Progressing"}, "revision"),
        ({"state": "Progressing", "revision": A}, "startedTime, progressTime"),
        ({"state": "Draining", "revision": A}, "switchedTime"),
        ({"state": "Draining", "revision": A, "switchedTime": "noon"}, "noon"),
    ],
)
def test_an_unreadable_cursor_is_refused(stored: dict[str, str], words: str) -> None:
    with pytest.raises(CursorError, match=words):
        load_cursor({"rollout": stored})


def test_no_cursor_yet() -> None:
    assert load_cursor({"phase": "Pending"}) is None
