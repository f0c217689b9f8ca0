"""What people ask of a rollout, verb by verb: what follows, and what is refused with which words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sluice.requests import Request, Verb
from sluice.rollout import machine
from sluice.rollout.asked import Answer, answer, live_revision
from sluice.rollout.course import Course, Step
from sluice.rollout.cursor import Cursor, Goal, State
from sluice.rollout.sight import Sight, Track

T0 = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NOW = T0 + timedelta(seconds=5)
A, B, C, D = "aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"

SIGHT = Sight(
    target=B,
    candidate=Track(ready=4, wanted=4, restarts=2),
    course=Course((Step(25, 25), Step(50, 50), Step(100, 100)), deadline=60),
    stable_replicas=4,
    deadline=77,
)
PROGRESSING = Cursor(
    State.PROGRESSING, B, A, started=T0, progressed=T0, step_started=T0, deadline=60
)
SWITCHING = replace(PROGRESSING, state=State.SWITCHING, weight=25)
ANALYSING = replace(PROGRESSING, state=State.ANALYSING, weight=25, shifted=T0)
APPROVAL = replace(ANALYSING, state=State.PAUSED, paused=machine.APPROVAL)
PAUSED = replace(ANALYSING, state=State.PAUSED, paused=machine.BY_REQUEST)
UNSHIFTED = replace(PAUSED, shifted=None, weight=0)
ABORTING = replace(ANALYSING, state=State.ABORTING, weight=0, goal=Goal.REJECTED)
REJECTED = Cursor(State.REJECTED, B, A, reason="AnalysisFailed", message="3% > 1%", step=1)
BAKING = Cursor(State.BAKING, B, B, previous=A, started=T0, switched=T0)
SPACES = replace(BAKING, state=State.PAUSED, paused=machine.SPACES, message="m", reason="r")
DRAINING = replace(BAKING, state=State.DRAINING)
COMPLETE = Cursor(State.COMPLETE, A, A)
FIRST = Cursor(State.PROGRESSING, A, started=T0, progressed=T0)
BACK = replace(PROGRESSING, back=True)
BACK_PAUSED = replace(BACK, state=State.PAUSED, paused=machine.NO_WAY_BACK, goal=Goal.FULL)
BACK_WITH_WEIGHT = replace(BACK, state=State.SWITCHING, weight=100, goal=Goal.FULL)
BACK_DRAINING = replace(DRAINING, back=True)


def ask(
    cursor: Cursor,
    verb: Verb,
    target: str = "",
    *,
    revision: str = "",
    by: str = "ann",
    sight: Sight = SIGHT,
    ancestors: dict[str, str] | None = None,
) -> Answer:
    request = Request(verb, revision or cursor.revision, NOW, target, by, "text")
    known = {"previous": C, "1.0.0": C, "2.0.0": A} if ancestors is None else ancestors
    return answer(cursor, sight, request, lambda wanted: known.get(wanted, ""), NOW)


UNDER_WAY = "a rollback is under way and goes to its end"
REFUSED: dict[str, tuple[Cursor, Verb, str, str]] = {
    "promote before the pods": (
        PROGRESSING,
        Verb.PROMOTE,
        "",
        "step 1 waits for its pods and has nothing to skip yet: promote-full skips all steps",
    ),
    "promote at a later step": (
        replace(SWITCHING, step=1),
        Verb.PROMOTE,
        "",
        "step 2 waits for its pods and has nothing to skip yet: promote-full skips all steps",
    ),
    "promote without its weight": (
        replace(UNSHIFTED, step=1),
        Verb.PROMOTE,
        "",
        "step 2 has not got its weight yet: resume, or promote-full",
    ),
    "promote nothing": (COMPLETE, Verb.PROMOTE, "", "no rollout is under way: it is Complete"),
    "promote what aborts": (ABORTING, Verb.PROMOTE, "", "no rollout is under way: it is Aborting"),
    "promote what drains": (DRAINING, Verb.PROMOTE, "", "no rollout is under way: it is Draining"),
    "promote what was rejected": (
        REJECTED,
        Verb.PROMOTE,
        "",
        "no rollout is under way: it is Rejected",
    ),
    "promote-full nothing": (
        COMPLETE,
        Verb.PROMOTE_FULL,
        "",
        "no rollout is under way: it is Complete",
    ),
    "promote-full in the bake": (
        BAKING,
        Verb.PROMOTE_FULL,
        "",
        "no rollout is under way: it is Baking",
    ),
    "pause nothing": (COMPLETE, Verb.PAUSE, "", "no rollout is under way: it is Complete"),
    "pause the bake": (BAKING, Verb.PAUSE, "", "no rollout is under way: it is Baking"),
    "pause what is paused": (
        PAUSED,
        Verb.PAUSE,
        "",
        "it is paused already: PausedByRequest",
    ),
    "abort nothing": (COMPLETE, Verb.ABORT, "", "no rollout is under way: it is Complete"),
    "abort what aborts": (ABORTING, Verb.ABORT, "", "no rollout is under way: it is Aborting"),
    "abort what is stable": (
        BAKING,
        Verb.ABORT,
        "",
        "it is stable already: rollback goes back",
    ),
    "retry what goes on": (
        ANALYSING,
        Verb.RETRY,
        "",
        "only what was rejected can be tried again: it is Analysing",
    ),
    "resume what goes on": (ANALYSING, Verb.RESUME, "", "it is not paused: it is Analysing"),
    "resume what waits for approval": (
        APPROVAL,
        Verb.RESUME,
        "",
        "it waits for approval: promote",
    ),
    "promote a rollback": (BACK, Verb.PROMOTE, "", UNDER_WAY),
    "promote-full a rollback": (BACK, Verb.PROMOTE_FULL, "", UNDER_WAY),
    "pause a rollback": (BACK, Verb.PAUSE, "", UNDER_WAY),
    "abort a rollback that is done": (BACK_DRAINING, Verb.ABORT, "", UNDER_WAY),
    "rollback amid a rollback": (
        BACK_DRAINING,
        Verb.ROLLBACK,
        "previous",
        "a rollback is being finished: wait until it is",
    ),
    "rollback amid a rollout": (
        ANALYSING,
        Verb.ROLLBACK,
        "1.0.0",
        "a rollout is under way (Analysing): abort it first",
    ),
    "rollback of what aborts": (
        ABORTING,
        Verb.ROLLBACK,
        "previous",
        "a rollout is under way (Aborting): abort it first",
    ),
    "rollback to what is stable": (
        COMPLETE,
        Verb.ROLLBACK,
        "stable",
        "stable has all traffic already: rollback previous, or a version",
    ),
    "rollback to nothing": (
        COMPLETE,
        Verb.ROLLBACK,
        "3.0.0",
        "no recorded revision to go back to is 3.0.0",
    ),
    "rollback to the stable version": (
        COMPLETE,
        Verb.ROLLBACK,
        "2.0.0",
        "no recorded revision to go back to is 2.0.0",
    ),
    "a first deployment": (
        FIRST,
        Verb.ABORT,
        "",
        "a first deployment has no steps and nothing to go back to",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    cursor, verb, target, message = REFUSED[name]

    assert ask(cursor, verb, target) == Answer(cursor, accepted=False, message=message)


DONE: dict[str, tuple[Cursor, Verb, str, Cursor, str]] = {
    "promote ends the step": (
        ANALYSING,
        Verb.PROMOTE,
        "",
        machine.next_step(ANALYSING, SIGHT, NOW),
        "step 1 is over",
    ),
    "promote approves": (
        APPROVAL,
        Verb.PROMOTE,
        "",
        machine.next_step(APPROVAL, SIGHT, NOW),
        "step 1 is over",
    ),
    "promote at the last step": (
        replace(ANALYSING, step=2, weight=100),
        Verb.PROMOTE,
        "",
        machine.next_step(replace(ANALYSING, step=2, weight=100), SIGHT, NOW),
        "step 3 is over",
    ),
    "promote ends the bake": (
        BAKING,
        Verb.PROMOTE,
        "",
        DRAINING,
        "the bake ends, the previous revision goes",
    ),
    "promote keeps the new space": (
        SPACES,
        Verb.PROMOTE,
        "",
        DRAINING,
        "the bake ends, the previous revision goes",
    ),
    "promote-full": (
        PROGRESSING,
        Verb.PROMOTE_FULL,
        "",
        machine.skip_to_end(PROGRESSING, SIGHT, NOW),
        "all traffic goes to it once its pods allow",
    ),
    "promote-full of what is paused": (
        APPROVAL,
        Verb.PROMOTE_FULL,
        "",
        machine.skip_to_end(APPROVAL, SIGHT, NOW),
        "all traffic goes to it once its pods allow",
    ),
    "abort": (
        ANALYSING,
        Verb.ABORT,
        "",
        machine.abort(ANALYSING, SIGHT, "Aborted", "aborted by ann"),
        "all traffic goes back to stable",
    ),
    "abort before any weight": (
        PROGRESSING,
        Verb.ABORT,
        "",
        machine.abort(PROGRESSING, SIGHT, "Aborted", "aborted by ann"),
        "all traffic goes back to stable",
    ),
    "abort of what is paused": (
        PAUSED,
        Verb.ABORT,
        "",
        machine.abort(PAUSED, SIGHT, "Aborted", "aborted by ann"),
        "all traffic goes back to stable",
    ),
    "abort of a rollback": (
        BACK_WITH_WEIGHT,
        Verb.ABORT,
        "",
        machine.abort(BACK_WITH_WEIGHT, SIGHT, "Aborted", "rollback aborted by ann"),
        "the rollback is given up",
    ),
    "abort of a rollback that failed": (
        BACK_PAUSED,
        Verb.ABORT,
        "",
        machine.abort(BACK_PAUSED, SIGHT, "Aborted", "rollback aborted by ann"),
        "the rollback is given up",
    ),
    "retry": (
        REJECTED,
        Verb.RETRY,
        "",
        machine.retry(REJECTED, SIGHT, NOW),
        "tried again from step 2",
    ),
    "pause": (
        ANALYSING,
        Verb.PAUSE,
        "",
        machine.pause(ANALYSING, "paused by ann"),
        "it stands still until resume",
    ),
    "pause before any weight": (
        PROGRESSING,
        Verb.PAUSE,
        "",
        machine.pause(PROGRESSING, "paused by ann"),
        "it stands still until resume",
    ),
    "resume": (PAUSED, Verb.RESUME, "", machine.resume(PAUSED, SIGHT, NOW), "it goes on"),
    "resume of a rollback": (
        BACK_PAUSED,
        Verb.RESUME,
        "",
        machine.resume(BACK_PAUSED, SIGHT, NOW),
        "it goes on",
    ),
    "rollback to stable is an abort": (
        ANALYSING,
        Verb.ROLLBACK,
        "stable",
        machine.abort(ANALYSING, SIGHT, "Aborted", "aborted by ann"),
        "all traffic goes back to stable",
    ),
    "rollback to previous amid a rollout is an abort": (
        PAUSED,
        Verb.ROLLBACK,
        "previous",
        machine.abort(PAUSED, SIGHT, "Aborted", "aborted by ann"),
        "all traffic goes back to stable",
    ),
    "rollback to the one before": (
        COMPLETE,
        Verb.ROLLBACK,
        "previous",
        machine.go_back(
            COMPLETE, C, "RolledBackByRequest", "rollback to previous by ann", SIGHT, NOW
        ),
        "going back to previous",
    ),
    "rollback to a version": (
        REJECTED,
        Verb.ROLLBACK,
        "1.0.0",
        machine.go_back(REJECTED, C, "RolledBackByRequest", "rollback to 1.0.0 by ann", SIGHT, NOW),
        "going back to 1.0.0",
    ),
    "rollback in the bake": (
        BAKING,
        Verb.ROLLBACK,
        "previous",
        machine.go_back(
            BAKING, A, "RolledBackByRequest", "rollback to previous by ann", SIGHT, NOW
        ),
        "going back to previous",
    ),
    "rollback in the bake to another": (
        BAKING,
        Verb.ROLLBACK,
        "1.0.0",
        machine.go_back(BAKING, C, "RolledBackByRequest", "rollback to 1.0.0 by ann", SIGHT, NOW),
        "going back to 1.0.0",
    ),
}


@pytest.mark.parametrize("name", DONE)
def test_what_is_followed(name: str) -> None:
    cursor, verb, target, after, message = DONE[name]

    said = ask(cursor, verb, target)

    assert said == Answer(after, accepted=True, message=message)


@pytest.mark.parametrize(
    ("verb", "target", "cursor", "words"),
    [
        (Verb.ABORT, "", ANALYSING, "aborted"),
        (Verb.PAUSE, "", ANALYSING, "paused"),
        (Verb.ROLLBACK, "previous", COMPLETE, "rollback to previous"),
        (Verb.ROLLBACK, "stable", ANALYSING, "aborted"),
        (Verb.ABORT, "", BACK, "rollback aborted"),
    ],
)
def test_nobody_is_named_where_nobody_is_known(
    verb: Verb, target: str, cursor: Cursor, words: str
) -> None:
    assert ask(cursor, verb, target, by="").cursor.message == words


def test_another_revision_than_the_live_one() -> None:
    said = ask(ANALYSING, Verb.PROMOTE, revision=D)

    assert said == Answer(
        ANALYSING,
        accepted=False,
        message=f"it names revision {D}, and the live one is {B}: ask for that one",
    )


def test_a_rollback_may_name_stable_as_well() -> None:
    assert ask(REJECTED, Verb.ROLLBACK, "1.0.0", revision=A).accepted
    assert not ask(REJECTED, Verb.ROLLBACK, "1.0.0", revision=D).accepted
    assert not ask(REJECTED, Verb.RETRY, revision=A).accepted


def test_what_spec_does_not_ask_for_is_not_tried_again() -> None:
    said = ask(REJECTED, Verb.RETRY, sight=replace(SIGHT, target=C))

    assert said == Answer(
        REJECTED,
        accepted=False,
        message="spec asks for another revision than the rejected one by now",
    )


def test_promote_compares_with_the_step_at_hand() -> None:
    """Paused right after a step began: the weight is still that of the one before."""
    said = ask(replace(PAUSED, step=1), Verb.PROMOTE)

    assert not said.accepted
    assert "step 2 has not got its weight yet" in said.message


def test_the_live_revision() -> None:
    assert live_revision(ANALYSING) == B
    assert live_revision(replace(COMPLETE, revision="")) == A
