"""The state machine state by state: one plain step first, then courses with steps, checks and bake."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sluice.api.rolloutstatus import Verdict
from sluice.rollout import machine
from sluice.rollout.course import Course, Step
from sluice.rollout.cursor import Cursor, CursorError, Goal, State, load_cursor
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
        (SWITCHING, see(ready=2), 6, 1194.0),
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

    assert advance(cursor, see(deadline=60), later).state is State.PROGRESSING
    assert wake_after(cursor, see(deadline=60), later) == 900.0


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


# A canary: 25 with a hold of 10 s, 50 with approval, 100.

CHECKS = {"checks": [{"name": "errors", "metric": "ErrorRate"}]}
CANARY = Course((Step(25, 25, hold=10), Step(50, 50, approval=True), Step(100, 100)), deadline=1200)
CHECKED = replace(CANARY, analysis=CHECKS)
STEP = replace(PROGRESSING, replicas=4, deadline=1200)
SHIFTING = replace(STEP, state=State.SWITCHING, weight=25, restarts=2)
HOLDING = replace(STEP, state=State.ANALYSING, weight=25, shifted=T0, floor=1, restarts=2)
APPROVING = replace(HOLDING, step=1, weight=50, floor=2)
LAST = replace(HOLDING, step=2, weight=100, floor=4)
PAUSED = replace(HOLDING, state=State.PAUSED, paused="PausedByRequest", message="paused by ann")
ABORTING = replace(HOLDING, state=State.ABORTING, weight=0, goal=Goal.REJECTED, reason="X")
BAKING = Cursor(
    State.BAKING, B, B, previous=A, started=T0, progressed=T0, step_started=T0, switched=T0
)
BACK = Cursor(
    State.PROGRESSING, A, B, started=T0, progressed=T0, step_started=T0, back=True, reason="Y"
)
BACK_DRAINING = replace(
    BACK, state=State.DRAINING, stable=A, previous=B, weight=100, switched=T0, message="why"
)


def at(course: Course = CANARY, **changes: object) -> Sight:
    """Four replicas wanted, all of them ready, two restarts long ago."""
    defaults: dict[str, object] = {"wanted": 4, "ready": 4, "reached": 4, "restarts": 2}
    return see(**{"course": course, "previous_ready": 4, **defaults, **changes})


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def decide(cursor: Cursor, sight: Sight, seconds: float = 5) -> Cursor:
    return advance(cursor, sight, later(seconds))


def rejected(cursor: Cursor, reason: str, message: str) -> Cursor:
    return Cursor(
        State.REJECTED,
        cursor.revision,
        cursor.stable,
        started=cursor.started,
        step=cursor.step,
        step_started=cursor.step_started,
        shifted=cursor.shifted,
        reason=reason,
        message=message,
    )


def aborting(cursor: Cursor, goal: Goal, reason: str, message: str) -> Cursor:
    return replace(
        cursor, state=State.ABORTING, weight=0, goal=goal, reason=reason, message=message, paused=""
    )


READINESS = ("ReadinessLost", "0/1 pods ready")
UNTAKEN = (
    "weight 25 had not taken effect for 1200s (rollout.deadline): "
    "the gateway did not take the route over"
)
BEGUN = Cursor(
    State.PROGRESSING,
    C,
    A,
    replicas=3,
    started=later(5),
    progressed=later(5),
    step_started=later(5),
    deadline=77,
)
MOVES: dict[str, tuple[Cursor, Sight, float, Cursor]] = {
    # Beginning
    "a rollout begins": (
        COMPLETE_A,
        at(target=C, stable_replicas=3, deadline=77),
        5,
        BEGUN,
    ),
    "what was rejected is not begun": (
        COMPLETE_A,
        at(target=C, rejected=("FileCorrupt", "bad byte")),
        5,
        Cursor(State.REJECTED, C, A, reason="FileCorrupt", message="bad byte"),
    ),
    "nothing begins before the rejection is on record": (
        REJECTED,
        at(target=C, settles=False),
        5,
        REJECTED,
    ),
    "stable is gone with everything of it": (
        COMPLETE_A,
        at(target=A, stable_exists=False, deadline=77, stable_replicas=3),
        5,
        replace(BEGUN, revision=A, stable=""),
    ),
    "a rejection does not look for its stable": (
        REJECTED,
        at(target=B, stable_exists=False),
        5,
        REJECTED,
    ),
    "suspended no more: the clock starts anew": (
        replace(HOLDING, held="Suspended"),
        at(),
        500,
        replace(HOLDING, progressed=later(500)),
    ),
    # The gateway is taken away
    "a share that nothing can give": (
        replace(PAUSED, step=1, weight=25, ready=3, reason="x", goal=Goal.FULL),
        at(weighs=False),
        5,
        replace(
            STEP,
            ready=3,
            goal=Goal.FULL,
            step_started=later(5),
            progressed=later(5),
            restarts=2,
        ),
    ),
    "the least share": (
        replace(HOLDING, weight=1),
        at(weighs=False),
        5,
        replace(STEP, step_started=later(5), progressed=later(5), restarts=2),
    ),
    "the greatest share": (
        replace(HOLDING, weight=99),
        at(weighs=False),
        5,
        replace(STEP, step_started=later(5), progressed=later(5), restarts=2),
    ),
    "no share needs no gateway": (replace(ABORTING), at(weighs=False, carried=None), 5, ABORTING),
    "all or nothing needs no gateway": (
        replace(LAST, shifted=later(1)),
        at(replace(CANARY, steps=(Step(100, 100, hold=60),)), weighs=False),
        5,
        replace(LAST, shifted=later(1)),
    ),
    # Pods
    "as many pods as the step needs": (
        STEP,
        at(ready=1),
        5,
        replace(SHIFTING, progressed=later(5)),
    ),
    "one too few for the step": (
        replace(STEP, step=1, weight=25, floor=1, restarts=2),
        at(ready=1),
        5,
        replace(STEP, step=1, weight=25, floor=1, restarts=2),
    ),
    "enough for the step": (
        replace(STEP, step=1, weight=25, floor=1, restarts=2, ready=1, held="WaitingForCapacity"),
        at(ready=2),
        5,
        replace(SHIFTING, step=1, weight=50, floor=1, progressed=later(5)),
    ),
    "not proven yet": (STEP, at(proven=False, ready=4), 5, STEP),
    "nothing is compared yet": (STEP, at(unmirrored="no comparer"), 5, STEP),
    "its Job is running": (STEP, at(unchecked="Job x is running"), 5, STEP),
    "its Job failed": (
        STEP,
        at(unchecked="Job x failed", check_failed="Job x: exit 1"),
        5,
        rejected(STEP, "PrePromotionFailed", "Job x: exit 1"),
    ),
    "its Job failed, and nobody has to decide": (
        STEP,
        at(replace(CANARY, pauses=True), check_failed="Job x: exit 1"),
        5,
        rejected(STEP, "PrePromotionFailed", "Job x: exit 1"),
    ),
    "proven once is enough": (
        replace(STEP, step=1, weight=25, restarts=2),
        at(proven=False),
        5,
        replace(SHIFTING, step=1, weight=50, progressed=later(5)),
    ),
    "a first deployment waits for the gateway": (
        FIRST,
        see(target=A, ready=2, reached=2, proven=False),
        5,
        FIRST,
    ),
    "a first deployment that fails is not taken back": (
        FIRST,
        see(target=A, doomed_reason="FileCorrupt", trouble="x"),
        5,
        FIRST,
    ),
    "first progress is written after a while": (
        STEP,
        see(course=CANARY, wanted=8, ready=1),
        60,
        replace(STEP, ready=1, progressed=later(60)),
    ),
    "and not before": (STEP, see(course=CANARY, wanted=8, ready=1), 59, STEP),
    "no more pods are no progress": (
        replace(STEP, ready=1),
        see(course=CANARY, wanted=8, ready=1),
        60,
        replace(STEP, ready=1),
    ),
    "a short deadline has a short pause": (
        replace(STEP, deadline=40),
        see(course=CANARY, wanted=8, ready=1),
        10,
        replace(STEP, deadline=40, ready=1, progressed=later(10)),
    ),
    "and no shorter one": (
        replace(STEP, deadline=40),
        see(course=CANARY, wanted=8, ready=1),
        9,
        replace(STEP, deadline=40),
    ),
    "progress after the first deadline": (
        replace(FIRST, state=State.FAILED),
        see(target=A, ready=1),
        60,
        replace(FIRST, ready=1, progressed=later(60)),
    ),
    "a failed one does not fail again": (
        replace(FIRST, state=State.FAILED),
        see(target=A),
        5000,
        replace(FIRST, state=State.FAILED),
    ),
    "waiting for room": (
        STEP,
        see(unschedulable="0/3 nodes"),
        5,
        replace(STEP, held="WaitingForCapacity"),
    ),
    "still waiting for room": (
        replace(STEP, held="WaitingForCapacity"),
        see(unschedulable="0/3 nodes"),
        5000,
        replace(STEP, held="WaitingForCapacity"),
    ),
    "trouble is no waiting for room": (STEP, see(unschedulable="x", trouble="OOM"), 5, STEP),
    "room again": (
        replace(STEP, held="WaitingForCapacity"),
        see(),
        5000,
        replace(STEP, progressed=later(5000)),
    ),
    "a candidate with a share fails while it grows": (
        replace(STEP, step=1, weight=25, floor=1),
        at(ready=0),
        5,
        aborting(replace(STEP, weight=25, floor=1, shifted=T0), Goal.REJECTED, *READINESS),
    ),
    "a check fails while it grows": (
        replace(STEP, step=1, weight=25, floor=1, restarts=2),
        at(ready=4, verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        aborting(
            replace(STEP, weight=25, floor=1, restarts=2, shifted=T0),
            Goal.REJECTED,
            "AnalysisFailed",
            "3% > 1%",
        ),
    ),
    "a restart while it grows": (
        replace(STEP, step=1, weight=25, floor=1, restarts=1),
        at(ready=4),
        5,
        aborting(
            replace(STEP, weight=25, floor=1, restarts=1, shifted=T0),
            Goal.REJECTED,
            "CandidateRestarted",
            "1 restarts since it got its weight",
        ),
    ),
    "who said promote-full has decided": (
        replace(STEP, step=2, weight=25, floor=1, restarts=1, goal=Goal.FULL),
        at(ready=4),
        5,
        replace(
            SHIFTING,
            step=2,
            weight=100,
            floor=1,
            restarts=1,
            goal=Goal.FULL,
            progressed=later(5),
        ),
    ),
    "promote-full still needs pods that answer": (
        replace(STEP, step=2, weight=25, floor=1, restarts=2, goal=Goal.FULL),
        at(ready=0),
        5,
        aborting(
            replace(STEP, weight=25, floor=1, restarts=2, shifted=T0), Goal.REJECTED, *READINESS
        ),
    ),
    "another space has all clients, and a check fails": (
        LAST,
        at(CHECKED, carried=100, mixable=False, verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        replace(LAST, state=State.PAUSED, paused="EmbeddingSpaceChanged", message="3% > 1%"),
    ),
    "another space is about to have all clients, and its pods go": (
        replace(SHIFTING, step=2, weight=100),
        at(CHECKED, carried=None, mixable=False, ready=0),
        5,
        aborting(
            replace(SHIFTING, step=1, shifted=T0),
            Goal.REJECTED,
            "ReadinessLost",
            "no pod was ready when it got its weight",
        ),
    ),
    "another space has all clients, and the gateway is asked for something else": (
        LAST,
        at(CHECKED, carried=None, mixable=False, verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        replace(LAST, state=State.PAUSED, paused="EmbeddingSpaceChanged", message="3% > 1%"),
    ),
    "another space waits for a person": (
        replace(LAST, state=State.PAUSED, paused="EmbeddingSpaceChanged", message="3% > 1%"),
        at(CHECKED, carried=100, mixable=False, verdict=Verdict.FAIL, finding="4% > 1%"),
        5,
        replace(LAST, state=State.PAUSED, paused="EmbeddingSpaceChanged", message="3% > 1%"),
    ),
    "scaling was lowered": (
        replace(HOLDING, floor=4),
        at(ready=2, wanted=2),
        5,
        replace(HOLDING, floor=4),
    ),
    "scaling was lowered, and it has not even that": (
        replace(HOLDING, floor=4),
        at(ready=1, wanted=2),
        5,
        aborting(replace(HOLDING, floor=4), Goal.REJECTED, "ReadinessLost", "1/2 pods ready"),
    ),
    "doomed with a share: the share first": (
        replace(STEP, step=1, weight=25, floor=1, restarts=2),
        at(ready=1, doomed_reason="FileCorrupt", doomed_message="bad byte"),
        5,
        aborting(
            replace(STEP, weight=25, floor=1, restarts=2, shifted=T0),
            Goal.REJECTED,
            "FileCorrupt",
            "bad byte",
        ),
    ),
    "a deadline where failures pause": (
        STEP,
        see(course=replace(CANARY, pauses=True), trouble="OOM"),
        1200,
        replace(
            STEP,
            state=State.PAUSED,
            paused="AnalysisFailed",
            reason="ProgressDeadlineExceeded",
            message="0/1 pods ready and no progress for 1200s (rollout.deadline): OOM",
        ),
    ),
    "the gateway never reached it": (
        replace(STEP, ready=4),
        at(proven=False),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "the gateway did not reach it for 1200s (rollout.deadline)",
        ),
    ),
    "nothing was ever compared": (
        replace(STEP, ready=4),
        at(unmirrored="no comparer"),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "nothing was compared for 1200s (rollout.deadline): no comparer",
        ),
    ),
    "its Job never ended": (
        replace(STEP, ready=1),
        at(unchecked="Job x is running", unmirrored="no comparer", ready=1),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "Job x is running, and nothing came of it for 1200s (rollout.deadline)",
        ),
    ),
    "without pods its Job has nobody to ask": (
        STEP,
        at(unchecked="the pre-promotion Job has not begun", ready=0),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "0/1 pods ready and no progress for 1200s (rollout.deadline)",
        ),
    ),
    "the gateway never reached as many as it needs": (
        replace(STEP, ready=1),
        at(proven=False, ready=1),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "the gateway did not reach it for 1200s (rollout.deadline)",
        ),
    ),
    "nothing was ever compared with as many as it needs": (
        replace(STEP, ready=1),
        at(unmirrored="no comparer", ready=1),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "nothing was compared for 1200s (rollout.deadline): no comparer",
        ),
    ),
    "without pods it is the pods that are missing": (
        STEP,
        at(unmirrored="no comparer", proven=False, ready=0),
        1200,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "0/1 pods ready and no progress for 1200s (rollout.deadline)",
        ),
    ),
    "a first deployment needs all of its pods": (
        FIRST,
        at(target=A, ready=0),
        1200,
        replace(
            FIRST,
            state=State.FAILED,
            reason="ProgressDeadlineExceeded",
            message="0/4 pods ready and no progress for 1200s (rollout.deadline)",
        ),
    ),
    "a first deployment past its deadline says what it needs": (
        FIRST,
        see(target=A, ready=0),
        1200,
        replace(
            FIRST,
            state=State.FAILED,
            reason="ProgressDeadlineExceeded",
            message="0/2 pods ready and no progress for 1200s (rollout.deadline)",
        ),
    ),
    "a cursor without a deadline has the course's": (
        replace(STEP, deadline=0),
        see(course=replace(CANARY, deadline=30)),
        30,
        rejected(
            STEP,
            "ProgressDeadlineExceeded",
            "0/1 pods ready and no progress for 30s (rollout.deadline)",
        ),
    ),
    "a way back past its deadline waits for a person": (
        BACK,
        see(target=B),
        1200,
        replace(
            BACK,
            state=State.PAUSED,
            paused="RollbackFailed",
            message="0/2 pods ready and no progress for 1200s (rollout.deadline)",
        ),
    ),
    "a way back that can't be": (
        BACK,
        see(target=B, doomed_reason="FileCorrupt", doomed_message="bad byte"),
        5,
        replace(BACK, state=State.PAUSED, paused="RollbackFailed", message="bad byte"),
    ),
    "a preview has nothing to switch": (
        STEP,
        at(replace(CANARY, steps=(Step(0, 100, approval=True), Step(100, 100)))),
        5,
        replace(
            STEP, state=State.ANALYSING, shifted=later(5), progressed=later(5), floor=4, restarts=2
        ),
    ),
    "a weight that is decided and not given yet is waited for": (
        replace(STEP, step=2, weight=100, goal=Goal.FULL),
        at(carried=25),
        5,
        replace(
            STEP,
            state=State.SWITCHING,
            step=2,
            weight=100,
            goal=Goal.FULL,
            progressed=later(5),
        ),
    ),
    "a weight that is given": (
        replace(STEP, weight=25, restarts=2),
        at(carried=25),
        5,
        replace(HOLDING, shifted=later(5), progressed=later(5)),
    ),
    "a preview whose route isn't taken yet": (
        STEP,
        at(replace(CANARY, steps=(Step(0, 100, approval=True), Step(100, 100))), carried=None),
        5,
        replace(
            STEP, state=State.ANALYSING, shifted=later(5), progressed=later(5), floor=4, restarts=2
        ),
    ),
    "a first deployment remembers when it began": (
        FIRST,
        see(target=A, ready=2, reached=2),
        5,
        replace(COMPLETE_A, started=T0),
    ),
    "room again after the deadline": (
        replace(FIRST, state=State.FAILED, held="WaitingForCapacity"),
        see(target=A),
        5,
        replace(FIRST, progressed=later(5)),
    ),
    # Switching
    "a third before anybody is to be moved": (
        replace(SHIFTING, weight=0),
        at(carried=None, target=C, stable_replicas=3, deadline=77),
        5,
        BEGUN,
    ),
    "the shortest bake": (
        replace(SHIFTING, step=2, weight=100, held="x"),
        at(replace(CANARY, bake=1), carried=100),
        5,
        replace(
            SHIFTING,
            step=2,
            state=State.BAKING,
            stable=B,
            previous=A,
            weight=100,
            shifted=later(5),
            switched=later(5),
        ),
    ),
    "the share is there": (
        replace(SHIFTING, ready=3, held="x"),
        at(carried=25),
        5,
        replace(HOLDING, shifted=later(5), progressed=later(5)),
    ),
    "the share is not there yet": (SHIFTING, at(carried=0), 5, SHIFTING),
    "it isn't known who has what": (SHIFTING, at(carried=None, ready=1), 5, SHIFTING),
    "too few pods before anybody was moved": (
        replace(SHIFTING, step=1, weight=50),
        at(carried=25, ready=1),
        5,
        replace(STEP, step=1, weight=25, restarts=2, progressed=later(5)),
    ),
    "pods that all went while it is moved": (
        SHIFTING,
        at(carried=None, ready=0),
        5,
        aborting(
            SHIFTING, Goal.REJECTED, "ReadinessLost", "no pod was ready when it got its weight"
        ),
    ),
    "pods that all went, and stable's too": (
        SHIFTING,
        at(carried=None, ready=0, other_ready=0),
        5,
        SHIFTING,
    ),
    "pods that are all cut off while it is moved": (
        SHIFTING,
        at(carried=None, ready=0, cut_off=4),
        5,
        SHIFTING,
    ),
    "a check fails while it is moved": (
        replace(SHIFTING, step=1, weight=50),
        at(carried=50, verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        aborting(replace(SHIFTING, shifted=T0), Goal.REJECTED, "AnalysisFailed", "3% > 1%"),
    ),
    "a gateway that never takes it": (
        SHIFTING,
        at(carried=None),
        1200,
        aborting(SHIFTING, Goal.REJECTED, "ProgressDeadlineExceeded", UNTAKEN),
    ),
    "a gateway that never takes it, where failures pause": (
        SHIFTING,
        at(replace(CANARY, pauses=True), carried=None),
        1200,
        replace(
            SHIFTING,
            state=State.PAUSED,
            paused="AnalysisFailed",
            reason="ProgressDeadlineExceeded",
            message=UNTAKEN,
        ),
    ),
    "a gateway that never takes it, between two spaces": (
        replace(SHIFTING, step=2, weight=100),
        at(carried=None, mixable=False),
        1200,
        replace(
            SHIFTING,
            step=2,
            weight=100,
            state=State.PAUSED,
            paused="EmbeddingSpaceChanged",
            message=UNTAKEN.replace("25", "100"),
        ),
    ),
    "what was decided is not written yet": (SHIFTING, at(carried=0), 1200, SHIFTING),
    "a gateway that has a second left": (SHIFTING, at(carried=None), 1199, SHIFTING),
    "a third while it is moved": (
        SHIFTING,
        at(carried=None, target=C),
        5,
        aborting(SHIFTING, Goal.SUPERSEDED, "", ""),
    ),
    "the plain last step is promotion": (
        replace(SHIFTING, step=2, weight=100, goal=Goal.NONE, ready=1),
        at(carried=100),
        5,
        replace(
            SHIFTING,
            step=2,
            state=State.DRAINING,
            stable=B,
            previous=A,
            weight=100,
            switched=later(5),
        ),
    ),
    "the last step with checks is watched": (
        replace(SHIFTING, step=2, weight=100),
        at(CHECKED, carried=100),
        5,
        replace(LAST, shifted=later(5), progressed=later(5)),
    ),
    "the last step with a hold is watched": (
        replace(SHIFTING, weight=100),
        at(replace(CANARY, steps=(Step(100, 100, hold=1),)), carried=100),
        5,
        replace(HOLDING, weight=100, floor=4, shifted=later(5), progressed=later(5)),
    ),
    "a first step without anything to wait for is no promotion": (
        SHIFTING,
        at(replace(CANARY, steps=(Step(25, 25), Step(100, 100))), carried=25),
        5,
        replace(HOLDING, shifted=later(5), progressed=later(5)),
    ),
    "promote-full watches nothing but its bake": (
        replace(SHIFTING, step=2, weight=100, goal=Goal.FULL),
        at(replace(CHECKED, bake=60), carried=100),
        5,
        replace(
            SHIFTING,
            step=2,
            state=State.BAKING,
            stable=B,
            previous=A,
            weight=100,
            shifted=later(5),
            switched=later(5),
        ),
    ),
    "a way back watches and bakes nothing": (
        replace(BACK, state=State.SWITCHING, weight=100),
        at(replace(CHECKED, steps=(Step(100, 100, hold=9),), bake=60), target=B, carried=100),
        5,
        replace(BACK, state=State.DRAINING, stable=A, previous=B, weight=100, switched=later(5)),
    ),
    # Analysing
    "the hold isn't over": (HOLDING, at(), 9.9, HOLDING),
    "the hold is over": (
        replace(HOLDING, ready=1, paused="x", reason="y", message="z"),
        at(),
        10,
        replace(
            STEP,
            step=1,
            weight=25,
            step_started=later(10),
            progressed=later(10),
            floor=1,
            restarts=2,
        ),
    ),
    "the checks aren't sure": (HOLDING, at(verdict=Verdict.INCONCLUSIVE), 1199, HOLDING),
    "the checks were never sure": (
        replace(HOLDING, held="x", ready=9),
        at(verdict=Verdict.INCONCLUSIVE, finding="12 of 300"),
        1200,
        replace(HOLDING, state=State.PAUSED, paused="InsufficientSamples", message="12 of 300"),
    ),
    "the checks were never sure, by the course's deadline": (
        replace(HOLDING, deadline=0),
        at(replace(CANARY, deadline=30), verdict=Verdict.INCONCLUSIVE, finding="12 of 300"),
        30,
        replace(
            HOLDING,
            deadline=0,
            state=State.PAUSED,
            paused="InsufficientSamples",
            message="12 of 300",
        ),
    ),
    "a check failed": (
        replace(HOLDING, held="x", switched=T0),
        at(verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        aborting(HOLDING, Goal.REJECTED, "AnalysisFailed", "3% > 1%"),
    ),
    "a check failed where failures pause": (
        HOLDING,
        at(replace(CANARY, pauses=True), verdict=Verdict.FAIL, finding="3% > 1%"),
        5,
        replace(
            HOLDING,
            state=State.PAUSED,
            paused="AnalysisFailed",
            reason="AnalysisFailed",
            message="3% > 1%",
        ),
    ),
    "a preview that fails is out at once": (
        replace(HOLDING, weight=0),
        at(ready=0),
        5,
        rejected(replace(HOLDING, weight=0), *READINESS),
    ),
    "it waits for approval": (
        APPROVING,
        at(),
        5,
        replace(APPROVING, state=State.PAUSED, paused="WaitingForApproval"),
    ),
    "fewer pods than its weight rests on": (
        APPROVING,
        at(ready=1, trouble="OOM"),
        5,
        aborting(APPROVING, Goal.REJECTED, "ReadinessLost", "1/2 pods ready: OOM"),
    ),
    "fewer than that, while nothing of stable is ready either": (
        APPROVING,
        at(ready=1, other_ready=0, verdict=Verdict.INCONCLUSIVE),
        5,
        APPROVING,
    ),
    "fewer than that, the others cut off with their nodes": (
        APPROVING,
        at(ready=0, cut_off=2, verdict=Verdict.INCONCLUSIVE),
        5,
        APPROVING,
    ),
    "fewer than that, though some are only cut off": (
        APPROVING,
        at(ready=0, cut_off=1),
        5,
        aborting(APPROVING, Goal.REJECTED, "ReadinessLost", "0/2 pods ready"),
    ),
    "just as many as its weight rests on": (
        replace(APPROVING, step=0),
        at(ready=2),
        5,
        replace(APPROVING, step=0),
    ),
    "a restart": (
        HOLDING,
        at(restarts=5, trouble="OOM"),
        5,
        aborting(
            HOLDING, Goal.REJECTED, "CandidateRestarted", "3 restarts since it got its weight: OOM"
        ),
    ),
    "a third version": (
        HOLDING,
        at(target=C, verdict=Verdict.FAIL),
        5,
        aborting(HOLDING, Goal.SUPERSEDED, "", ""),
    ),
    "no known version changes nothing": (HOLDING, at(target=""), 5, HOLDING),
    "a third version in a preview": (
        replace(HOLDING, weight=0),
        at(target=C, stable_replicas=3, deadline=77),
        5,
        BEGUN,
    ),
    "the step before the last is over": (
        replace(APPROVING, floor=2),
        at(replace(CANARY, steps=(Step(25, 25), Step(50, 50), Step(100, 100)))),
        5,
        replace(
            STEP,
            step=2,
            weight=50,
            step_started=later(5),
            progressed=later(5),
            floor=2,
            restarts=2,
        ),
    ),
    "the last step is over": (
        replace(LAST, paused="x", ready=3),
        at(),
        5,
        replace(LAST, state=State.DRAINING, stable=B, previous=A, switched=later(5)),
    ),
    # Paused
    "paused stays paused": (PAUSED, at(), 5000, PAUSED),
    "paused and failing": (
        PAUSED,
        at(ready=0),
        5,
        aborting(PAUSED, Goal.REJECTED, *READINESS),
    ),
    "paused where failures pause": (
        PAUSED,
        at(replace(CANARY, pauses=True), ready=0),
        5,
        PAUSED,
    ),
    "paused without a share": (
        replace(PAUSED, weight=0),
        at(ready=0),
        5,
        replace(PAUSED, weight=0),
    ),
    "paused and a third version": (
        PAUSED,
        at(target=C),
        5,
        aborting(PAUSED, Goal.SUPERSEDED, "", ""),
    ),
    "paused without a share and a third version": (
        replace(PAUSED, weight=0),
        at(target=C, stable_replicas=3, deadline=77),
        5,
        BEGUN,
    ),
    "a paused way back waits": (
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
        at(target=B),
        5,
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
    ),
    "a paused way back waits for its own": (
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
        at(target=A),
        5,
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
    ),
    "a paused way back waits while nothing is known": (
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
        at(target=""),
        5,
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
    ),
    "a paused way back makes room for a third": (
        replace(BACK, state=State.PAUSED, paused="RollbackFailed"),
        at(target=C, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, stable=B),
    ),
    "paused in its bake": (
        replace(BAKING, state=State.PAUSED, paused="EmbeddingSpaceChanged"),
        at(target=B),
        5,
        replace(BAKING, state=State.PAUSED, paused="EmbeddingSpaceChanged"),
    ),
    "paused in its bake and wanted back": (
        replace(BAKING, state=State.PAUSED, paused="EmbeddingSpaceChanged"),
        at(target=A, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, state=State.SWITCHING, revision=A, stable=B, weight=100, back=True),
    ),
    # Aborting
    "clients are still with it": (ABORTING, at(carried=25), 5, ABORTING),
    "nobody knows yet": (ABORTING, at(carried=None), 5, ABORTING),
    "its weight is gone": (ABORTING, at(), 5, replace(ABORTING, switched=later(5))),
    "its requests aren't over": (
        replace(ABORTING, switched=T0),
        at(),
        4.9,
        replace(ABORTING, switched=T0),
    ),
    "it is reached still": (
        replace(ABORTING, switched=T0),
        at(reachable=frozenset({B})),
        99,
        replace(ABORTING, switched=T0),
    ),
    "it is out": (
        replace(ABORTING, switched=T0, message="why"),
        at(),
        5,
        rejected(ABORTING, "X", "why"),
    ),
    "room is made for a third": (
        replace(ABORTING, switched=T0, goal=Goal.SUPERSEDED),
        at(target=C, stable_replicas=3, deadline=77),
        5,
        BEGUN,
    ),
    "room is made for stable": (
        replace(ABORTING, switched=T0, goal=Goal.SUPERSEDED),
        at(target=A),
        5,
        COMPLETE_A,
    ),
    "room is made for what isn't known": (
        replace(ABORTING, switched=T0, goal=Goal.SUPERSEDED),
        at(target=""),
        5,
        COMPLETE_A,
    ),
    # Baking
    "it bakes": (BAKING, at(replace(CANARY, bake=60)), 59, BAKING),
    "it has baked": (
        BAKING,
        at(replace(CANARY, bake=60)),
        60,
        replace(BAKING, state=State.DRAINING),
    ),
    "it fails in the bake": (
        BAKING,
        at(
            replace(CANARY, bake=60),
            verdict=Verdict.FAIL,
            finding="3% > 1%",
            stable_replicas=3,
            deadline=77,
        ),
        5,
        replace(
            BEGUN,
            state=State.SWITCHING,
            revision=A,
            stable=B,
            weight=100,
            back=True,
            reason="AnalysisFailed",
            message="3% > 1%",
        ),
    ),
    "a restart in the bake is no failure": (
        BAKING,
        at(replace(CANARY, bake=60), restarts=9),
        5,
        BAKING,
    ),
    "one pod is enough in the bake": (
        replace(BAKING, floor=4),
        at(replace(CANARY, bake=60), ready=1),
        5,
        replace(BAKING, floor=4),
    ),
    "it fails and nothing is left to go back to": (
        BAKING,
        at(replace(CANARY, bake=60), ready=0, previous_ready=0),
        5,
        BAKING,
    ),
    "it fails across spaces": (
        BAKING,
        at(replace(CANARY, bake=60), ready=0, mixable=False),
        5,
        replace(
            BAKING, state=State.PAUSED, paused="EmbeddingSpaceChanged", message="0/1 pods ready"
        ),
    ),
    "the one before is wanted back": (
        BAKING,
        at(replace(CANARY, bake=60), target=A, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, state=State.SWITCHING, revision=A, stable=B, weight=100, back=True),
    ),
    "too little of the one before is left": (
        BAKING,
        at(replace(CANARY, bake=60), target=A, previous_ready=3),
        5,
        BAKING,
    ),
    # Draining
    "the route isn't taken": (
        DRAINING,
        at(carried=None, reachable=frozenset({B})),
        99,
        DRAINING,
    ),
    "one pod is reached": (
        DRAINING,
        at(carried=100, ready=1, reached=1, reachable=frozenset({B})),
        5,
        replace(COMPLETE_B, started=T0),
    ),
    "a way back is done": (
        BACK_DRAINING,
        at(target=B, carried=100, reachable=frozenset({A})),
        5,
        Cursor(State.REJECTED, B, A, shifted=None, reason="Y", message="why"),
    ),
    "a way back that spec asks for as well": (
        BACK_DRAINING,
        at(target=A, carried=100, reachable=frozenset({A})),
        5,
        replace(COMPLETE_A, started=T0),
    ),
    "a way back that was a change of mind": (
        replace(BACK_DRAINING, reason=""),
        at(target=C, carried=100, reachable=frozenset({A})),
        5,
        replace(COMPLETE_A, started=T0),
    ),
    "what was just taken away is not given back": (
        BACK_DRAINING,
        at(target=B, carried=100, reachable=frozenset({A, B})),
        5,
        BACK_DRAINING,
    ),
    "a change of mind may change again": (
        replace(BACK_DRAINING, reason=""),
        at(target=B, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, state=State.SWITCHING, revision=B, stable=A, weight=100, back=True),
    ),
    "a reason alone keeps nobody from going back": (
        replace(DRAINING, reason="old"),
        at(target=A, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, state=State.SWITCHING, revision=A, stable=B, weight=100, back=True),
    ),
    "nobody reaches the pod that is not there": (
        DRAINING,
        at(carried=100, ready=0, reached=0, previous_ready=0, reachable=frozenset()),
        99,
        DRAINING,
    ),
    "all its pods died and the one before runs": (
        DRAINING,
        at(
            carried=100,
            ready=0,
            reached=0,
            reachable=frozenset(),
            stable_replicas=3,
            deadline=77,
        ),
        5,
        replace(
            BEGUN,
            state=State.SWITCHING,
            revision=A,
            stable=B,
            weight=100,
            back=True,
            reason="ReadinessLost",
            message="no pod was ready any more after the switch, and the previous revision still ran",
        ),
    ),
    "all its pods died, and the one before is of another space": (
        DRAINING,
        at(carried=100, ready=0, reached=0, reachable=frozenset(), mixable=False),
        5,
        replace(
            DRAINING,
            state=State.PAUSED,
            paused="EmbeddingSpaceChanged",
            message="no pod was ready any more after the switch, and the previous revision still ran",
        ),
    ),
    "neither runs after a way back": (
        BACK_DRAINING,
        at(target=C, carried=100, ready=0, reached=0, previous_ready=0, reachable=frozenset()),
        99,
        BACK_DRAINING,
    ),
    "some pods run and the one before is gone": (
        DRAINING,
        at(carried=100, ready=1, reached=0, previous_ready=0, target=C, reachable=frozenset()),
        99,
        DRAINING,
    ),
    # Leaving
    "part of a first deployment has clients": (
        replace(FIRST, weight=100),
        see(target=B, ready=1, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, revision=B),
    ),
    "a first deployment without a pod makes room": (
        FIRST,
        see(target=B, ready=0, stable_replicas=3, deadline=77),
        5,
        replace(BEGUN, revision=B, stable=""),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_one_move(name: str) -> None:
    cursor, sight, seconds, after = MOVES[name]

    assert advance(cursor, sight, later(seconds)) == after


@pytest.mark.parametrize("name", MOVES)
def test_one_move_survives_the_status(name: str) -> None:
    *_, after = MOVES[name]

    assert load_cursor({"rollout": after.dump()}) == after


NO_STEP = Sight(target=B, candidate=Track(wanted=3), course=Course((Step(100, 100),), deadline=9))


@pytest.mark.parametrize(
    ("share", "needs"), [(0, 1), (1, 1), (33, 1), (34, 2), (66, 2), (67, 3), (100, 3)]
)
def test_a_share_of_pods_is_rounded_up(share: int, needs: int) -> None:
    assert NO_STEP.needs(Step(share, share)) == needs


def test_retry_begins_at_the_step_that_failed() -> None:
    failed = rejected(replace(HOLDING, step=1), "AnalysisFailed", "3% > 1%")

    assert machine.retry(failed, at(stable_replicas=3, deadline=77), later(5)) == replace(
        BEGUN, revision=B, step=1
    )


@pytest.mark.parametrize(
    ("cursor", "is_recast", "step"),
    [
        pytest.param(rejected(APPROVING, "X", "why"), True, 0, id="rejected, and other steps"),
        pytest.param(rejected(APPROVING, "X", "why"), False, 1, id="the same steps"),
        pytest.param(APPROVING, True, 1, id="a rollout keeps the steps that it began with"),
    ],
)
def test_what_is_tried_again_along_other_steps_begins_with_the_first(
    cursor: Cursor, is_recast: bool, step: int
) -> None:
    assert machine.recast(cursor, at(is_recast=is_recast)) == replace(cursor, step=step)


PREVIEW = replace(CANARY, steps=(Step(0, 100, approval=True), Step(100, 100, hold=10)))


@pytest.mark.parametrize(
    ("cursor", "course", "step", "shifted"),
    [
        pytest.param(APPROVING, CANARY, 1, T0, id="the step that it is at"),
        pytest.param(
            replace(STEP, step=2, weight=50, floor=2),
            CANARY,
            1,
            T0,
            id="waiting for the next one's pods",
        ),
        pytest.param(
            replace(SHIFTING, step=1, weight=50), CANARY, 0, T0, id="being given its weight"
        ),
        pytest.param(SHIFTING, CANARY, 0, None, id="being given its first weight"),
        pytest.param(
            replace(SHIFTING, step=2, weight=100, goal=Goal.FULL),
            CANARY,
            0,
            None,
            id="being given all at once",
        ),
        pytest.param(
            replace(STEP, step=2, weight=25, goal=Goal.FULL), CANARY, 0, T0, id="all at once"
        ),
        pytest.param(replace(STEP, step=1), PREVIEW, 0, None, id="after its preview"),
        pytest.param(replace(STEP, step=1), CANARY, 1, None, id="tried again from there"),
    ],
)
def test_what_was_given_up_is_tried_again_from_where_it_was(
    cursor: Cursor, course: Course, step: int, shifted: datetime | None
) -> None:
    """Never from a weight that it had not had: weights rise along the steps."""
    given_up = machine.abort(cursor, at(course), "Aborted", "ann")

    assert (given_up.step, given_up.shifted) == (step, shifted)


def test_a_way_back_says_why() -> None:
    back = machine.go_back(
        COMPLETE_B, A, "ByRequest", "ann", at(stable_replicas=3, deadline=77), later(5)
    )

    assert back == replace(
        BEGUN, revision=A, stable=B, back=True, reason="ByRequest", message="ann"
    )


def test_a_rejection_remembers_its_step() -> None:
    assert machine.abort(replace(STEP, step=2), at(), "Aborted", "ann").step == 2


def test_abort_without_a_share_is_the_end() -> None:
    assert machine.abort(STEP, at(), "Aborted", "ann") == rejected(STEP, "Aborted", "ann")


def test_abort_takes_the_share_first() -> None:
    paused = replace(PAUSED, held="x", switched=T0)

    assert machine.abort(paused, at(), "Aborted", "ann") == aborting(
        HOLDING, Goal.REJECTED, "Aborted", "ann"
    )


def test_pause_by_a_person() -> None:
    running = replace(HOLDING, held="x", ready=3)

    assert machine.pause(running, "paused by ann") == PAUSED


RESUMED: dict[str, tuple[Cursor, Cursor]] = {
    "with its share": (
        replace(PAUSED, reason="x", restarts=0),
        replace(HOLDING, shifted=later(5), progressed=later(5)),
    ),
    "while it got its share": (
        replace(PAUSED, shifted=None, step=1, weight=50, restarts=0),
        replace(
            SHIFTING,
            step=1,
            weight=50,
            progressed=later(5),
            step_started=later(5),
            floor=1,
            restarts=2,
        ),
    ),
    "before a preview": (
        replace(PAUSED, shifted=None, step=1, weight=0, restarts=0),
        replace(
            STEP, step=1, weight=0, progressed=later(5), step_started=later(5), floor=1, restarts=2
        ),
    ),
    "with another share than its step's": (
        replace(PAUSED, step=1, weight=25),
        replace(
            STEP, step=1, weight=25, progressed=later(5), step_started=later(5), floor=1, restarts=2
        ),
    ),
    "in its bake": (
        replace(BAKING, state=State.PAUSED, paused="x", message="y", reason="z"),
        BAKING,
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resume(name: str) -> None:
    cursor, after = RESUMED[name]

    assert machine.resume(cursor, at(), later(5)) == after


def test_promote_full_goes_to_the_last_step() -> None:
    paused = replace(PAUSED, reason="x", ready=3)

    assert machine.skip_to_end(paused, at(), later(5)) == replace(
        STEP,
        step=2,
        weight=25,
        goal=Goal.FULL,
        step_started=later(5),
        progressed=later(5),
        floor=1,
        restarts=2,
    )


WAKES: dict[str, tuple[Cursor, Sight, float, float | None]] = {
    "the deadline": (STEP, see(course=CANARY), 100, 1100.0),
    "a deadline of its own": (replace(STEP, deadline=300), see(course=CANARY), 100, 200.0),
    "the course's deadline": (
        replace(STEP, deadline=0),
        see(course=replace(CANARY, deadline=30)),
        10,
        20.0,
    ),
    "progress to be written": (STEP, at(ready=1), 10, 50.0),
    "no progress to be written": (replace(STEP, ready=1), at(ready=1), 10, 1190.0),
    "progress with a short deadline": (replace(STEP, deadline=40), at(ready=1), 4, 6.0),
    "a deadline that is past": (STEP, see(course=CANARY), 1300, 0.0),
    "held": (replace(STEP, held="Suspended"), see(course=CANARY), 10, None),
    "failed": (replace(FIRST, state=State.FAILED), see(target=A), 10, None),
    "the hold": (HOLDING, at(), 4, 6.0),
    "the hold is over": (HOLDING, at(), 10, 1190.0),
    "the hold and the deadline are over": (HOLDING, at(), 1200, None),
    "the hold, with the course's deadline": (
        replace(HOLDING, deadline=0),
        at(replace(CANARY, deadline=30)),
        15,
        15.0,
    ),
    "the deadline before the hold": (
        replace(HOLDING, progressed=later(-1195)),
        at(),
        4,
        1.0,
    ),
    "the bake": (BAKING, at(replace(CANARY, bake=60)), 20, 40.0),
    "the bake is over": (BAKING, at(replace(CANARY, bake=60)), 70, 0.0),
    "clients of what aborts": (ABORTING, at(), 2, None),
    "requests of what aborts": (replace(ABORTING, switched=T0), at(), 2, 3.0),
    "nothing of what aborts": (replace(ABORTING, switched=T0), at(), 5, None),
    "requests of what drains": (DRAINING, at(), 4, 1.0),
    "nothing of what drains": (DRAINING, at(), 5, None),
    "a person": (PAUSED, at(), 5, None),
    "nobody": (REJECTED, at(), 5, None),
}


@pytest.mark.parametrize("name", WAKES)
def test_when_time_alone_may_change_the_decision(name: str) -> None:
    cursor, sight, seconds, want = WAKES[name]

    assert wake_after(cursor, sight, later(seconds)) == want
