"""The cursor as it is stored: what is written is read back, and what is unreadable is refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.rollout.cursor import Cursor, CursorError, Goal, State, load_cursor

T0 = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
A, B, C = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"

FULL = Cursor(
    State.PAUSED,
    B,
    A,
    previous=C,
    replicas=4,
    started=T0,
    progressed=T0 + timedelta(seconds=1),
    deadline=60,
    ready=2,
    step=2,
    weight=25,
    step_started=T0 + timedelta(seconds=2),
    shifted=T0 + timedelta(seconds=3),
    floor=3,
    restarts=5,
    switched=T0 + timedelta(seconds=4),
    paused="WaitingForApproval",
    goal=Goal.FULL,
    back=True,
    held="Suspended",
    reason="ReadinessLost",
    message="0/1 pods ready",
)
STORED = {
    "state": "Paused",
    "revision": B,
    "stableRevision": A,
    "previousRevision": C,
    "stableReplicas": 4,
    "startedTime": "2026-11-21T12:00:00Z",
    "progressTime": "2026-11-21T12:00:01Z",
    "deadlineSeconds": 60,
    "progressReplicas": 2,
    "step": 3,
    "weight": 25,
    "stepStartedTime": "2026-11-21T12:00:02Z",
    "shiftedTime": "2026-11-21T12:00:03Z",
    "readyFloor": 3,
    "restarts": 5,
    "switchedTime": "2026-11-21T12:00:04Z",
    "pausedReason": "WaitingForApproval",
    "goal": "Full",
    "back": True,
    "held": "Suspended",
    "reason": "ReadinessLost",
    "message": "0/1 pods ready",
}


def test_every_field_is_stored() -> None:
    assert FULL.dump() == STORED


def test_every_field_is_read_back() -> None:
    assert load_cursor({"rollout": STORED}) == FULL


def test_what_is_empty_is_left_out() -> None:
    assert Cursor(State.COMPLETE, A, A).dump() == {
        "state": "Complete",
        "revision": A,
        "stableRevision": A,
    }
    assert Cursor(State.PROGRESSING, A).dump() == {"state": "Progressing", "revision": A}


def test_what_is_left_out_is_empty() -> None:
    stored = {"state": "Complete", "revision": A, "stableRevision": A}

    assert load_cursor({"rollout": stored}) == Cursor(State.COMPLETE, A, A)


def test_a_weight_of_nothing_is_stored_once_a_step_began() -> None:
    stored = Cursor(State.PROGRESSING, B, A, step_started=T0).dump()

    assert (stored["step"], stored["weight"]) == (1, 0)


def test_the_first_step_is_one_for_people_and_zero_here() -> None:
    stored = STORED | {"step": 1}

    assert load_cursor({"rollout": stored}) == replace(FULL, step=0)


def test_a_step_of_zero_is_the_first() -> None:
    stored = STORED | {"step": 0}

    assert load_cursor({"rollout": stored}) == replace(FULL, step=0)


def test_a_long_message_is_cut() -> None:
    stored = replace(FULL, message="x" * 100_000).dump()

    assert len(stored["message"]) < 10_000


def test_stable_may_stand_beside_it() -> None:
    """As an operator before the first canary wrote it."""
    stored = {"state": "Complete", "revision": A}

    assert load_cursor({"rollout": stored, "stable": {"revision": A}}) == Cursor(
        State.COMPLETE, A, A
    )
    beside = {"rollout": stored | {"stableRevision": B}, "stable": {"revision": A}}
    assert load_cursor(beside) == Cursor(State.COMPLETE, A, B)


@pytest.mark.parametrize("status", [{}, {"rollout": None}, {"rollout": {}}, {"phase": "Pending"}])
def test_nothing_is_stored_yet(status: dict[str, Any]) -> None:
    assert load_cursor(status) is None


NEEDED = [
    ("Progressing", "startedTime"),
    ("Progressing", "progressTime"),
    ("Failed", "startedTime"),
    ("Failed", "progressTime"),
    ("Switching", "startedTime"),
    ("Switching", "progressTime"),
    ("Switching", "stableRevision"),
    ("Analysing", "startedTime"),
    ("Analysing", "progressTime"),
    ("Analysing", "stepStartedTime"),
    ("Analysing", "shiftedTime"),
    ("Analysing", "stableRevision"),
    ("Paused", "startedTime"),
    ("Paused", "pausedReason"),
    ("Draining", "switchedTime"),
    ("Draining", "stableRevision"),
    ("Baking", "switchedTime"),
    ("Baking", "previousRevision"),
    ("Baking", "stableRevision"),
    ("Complete", "stableRevision"),
]


@pytest.mark.parametrize(("state", "key"), NEEDED)
def test_a_state_without_what_it_needs_is_refused(state: str, key: str) -> None:
    stored = STORED | {"state": state}
    assert load_cursor({"rollout": stored}) is not None
    del stored[key]

    with pytest.raises(CursorError) as refused:
        load_cursor({"rollout": stored})

    assert str(refused.value) == f"status.rollout is {state} without {key}"


@pytest.mark.parametrize("key", ["startedTime", "pausedReason"])
def test_what_is_there_but_empty_is_missing(key: str) -> None:
    with pytest.raises(CursorError, match=f"is Paused without {key}"):
        load_cursor({"rollout": STORED | {key: None}})


def test_everything_that_is_missing_is_named() -> None:
    with pytest.raises(CursorError) as refused:
        load_cursor({"rollout": {"state": "Analysing", "revision": B}})

    assert str(refused.value) == (
        "status.rollout is Analysing without startedTime, progressTime, stepStartedTime, "
        "shiftedTime, stableRevision"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "Flying"),
        ("startedTime", "noon"),
        ("progressTime", 5),
        ("stepStartedTime", "noon"),
        ("shiftedTime", "noon"),
        ("switchedTime", "noon"),
        ("goal", "Glory"),
        ("step", "two"),
        ("weight", None),
        ("stableReplicas", "x"),
        ("deadlineSeconds", "x"),
        ("progressReplicas", "x"),
        ("readyFloor", "x"),
        ("restarts", "x"),
    ],
)
def test_an_unreadable_field_is_refused(key: str, value: object) -> None:
    with pytest.raises(CursorError, match=r"^status\.rollout can't be read: "):
        load_cursor({"rollout": STORED | {key: value}})


@pytest.mark.parametrize("key", ["state", "revision"])
def test_a_cursor_without_its_essence_is_refused(key: str) -> None:
    stored = {name: value for name, value in STORED.items() if name != key}

    with pytest.raises(CursorError, match=f"^status.rollout can't be read: '{key}'$"):
        load_cursor({"rollout": stored})


def test_what_moves() -> None:
    still = {state for state in State if not Cursor(state, B, A).is_moving}

    assert still == {State.REJECTED, State.COMPLETE}


def test_what_is_promoted_has_a_predecessor() -> None:
    assert Cursor(State.BAKING, B, B, previous=A).is_promoted
    assert not Cursor(State.SWITCHING, B, A).is_promoted
