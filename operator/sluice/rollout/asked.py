"""What people ask of a rollout: each verb as a decision over cursor and sight.

Pure.  A request is handled once, and what came of it is said: followed, or refused and why.  Whether its
author may ask is decided at admission.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sluice.requests import PREVIOUS, STABLE, Request, Verb
from sluice.rollout import machine
from sluice.rollout.cursor import Cursor, State
from sluice.rollout.sight import Sight


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request, and the cursor that follows from it."""

    cursor: Cursor
    accepted: bool
    message: str


Ancestors = Callable[[str], str]
"""The revision that a rollback's target names, or an empty string."""


def answer(
    cursor: Cursor, sight: Sight, request: Request, find: Ancestors, now: datetime
) -> Answer:
    """Follows the request, or refuses it with the reason."""
    refusal = _find_refusal(cursor, sight, request)
    if refusal:
        return Answer(cursor, accepted=False, message=refusal)
    by = f" by {request.by}" if request.by else ""
    match request.verb:
        case Verb.PROMOTE:
            return _promote(cursor, sight, now)
        case Verb.PROMOTE_FULL:
            after = machine.skip_to_end(cursor, sight, now)
            return Answer(
                after, accepted=True, message="all traffic goes to it once its pods allow"
            )
        case Verb.ABORT:
            return _abort(cursor, sight, by)
        case Verb.RETRY:
            after = machine.retry(cursor, sight, now)
            return Answer(after, accepted=True, message=f"tried again from step {after.step + 1}")
        case Verb.PAUSE:
            after = machine.pause(cursor, f"paused{by}")
            return Answer(after, accepted=True, message="it stands still until resume")
        case Verb.RESUME:
            after = machine.resume(cursor, sight, now)
            return Answer(after, accepted=True, message="it goes on")
        case Verb.ROLLBACK:
            return _roll_back(cursor, sight, request, find, now)


def live_revision(cursor: Cursor) -> str:
    """The revision that a request must name: what is rolled out, else what serves or was rejected."""
    return cursor.revision or cursor.stable


def _find_refusal(cursor: Cursor, sight: Sight, request: Request) -> str:
    """Why this verb makes no sense now, and what would; an empty string where it does."""
    live = live_revision(cursor)
    if request.revision not in {live, cursor.stable if request.verb is Verb.ROLLBACK else live}:
        return f"it names revision {request.revision}, and the live one is {live}: ask for that one"
    if not cursor.stable:
        return "a first deployment has no steps and nothing to go back to"
    under_way = cursor.is_moving and not cursor.is_promoted and cursor.state is not State.ABORTING
    match request.verb:
        case Verb.PROMOTE | Verb.PROMOTE_FULL | Verb.PAUSE | Verb.ABORT if cursor.back:
            if request.verb is Verb.ABORT and not cursor.is_promoted:
                return ""
            return "a rollback is under way and goes to its end"
        case Verb.PROMOTE if cursor.state is State.BAKING or cursor.paused == machine.SPACES:
            return ""
        case Verb.PROMOTE if under_way and cursor.state not in {State.ANALYSING, State.PAUSED}:
            return (
                f"step {cursor.step + 1} waits for its pods and has nothing to skip yet: "
                "promote-full skips all steps"
            )
        case Verb.PROMOTE | Verb.PROMOTE_FULL | Verb.PAUSE if not under_way:
            return f"no rollout is under way: it is {cursor.state.value}"
        case Verb.PAUSE if cursor.state is State.PAUSED:
            return f"it is paused already: {cursor.paused}"
        case Verb.ABORT if cursor.is_promoted:
            return "it is stable already: rollback goes back"
        case Verb.ABORT if not under_way:
            return f"no rollout is under way: it is {cursor.state.value}"
        case Verb.RETRY if cursor.state is not State.REJECTED:
            return f"only what was rejected can be tried again: it is {cursor.state.value}"
        case Verb.RETRY if sight.target != cursor.revision:
            return "spec asks for another revision than the rejected one by now"
        case Verb.RESUME if cursor.state is not State.PAUSED:
            return f"it is not paused: it is {cursor.state.value}"
        case Verb.RESUME if cursor.paused == machine.APPROVAL:
            return "it waits for approval: promote"
        case _:
            return ""


def _promote(cursor: Cursor, sight: Sight, now: datetime) -> Answer:
    if cursor.is_promoted:
        after = replace(cursor, state=State.DRAINING, paused="", message="", reason="")
        return Answer(after, accepted=True, message="the bake ends, the previous revision goes")
    if cursor.weight != sight.course.at(cursor.step).weight:
        message = f"step {cursor.step + 1} has not got its weight yet: resume, or promote-full"
        return Answer(cursor, accepted=False, message=message)
    skipped = cursor.step + 1
    after = machine.next_step(cursor, sight, now)
    if after.state is State.BAKING:
        # What the person has seen and passed over is not held against it again.
        after = replace(after, shifted=now)
    return Answer(after, accepted=True, message=f"step {skipped} is over")


def _abort(cursor: Cursor, sight: Sight, by: str) -> Answer:
    if cursor.back:
        # What it was to lead away from is stable still.
        after = machine.abort(cursor, sight, "Aborted", f"rollback aborted{by}")
        return Answer(after, accepted=True, message="the rollback is given up")
    after = machine.abort(cursor, sight, "Aborted", f"aborted{by}")
    return Answer(after, accepted=True, message="all traffic goes back to stable")


def _roll_back(
    cursor: Cursor, sight: Sight, request: Request, find: Ancestors, now: datetime
) -> Answer:
    by = f" by {request.by}" if request.by else ""
    if cursor.is_moving and not cursor.is_promoted:
        if request.target in {STABLE, PREVIOUS} and cursor.state is not State.ABORTING:
            return _abort(cursor, sight, by)
        message = f"a rollout is under way ({cursor.state.value}): abort it first"
        return Answer(cursor, accepted=False, message=message)
    if request.target == STABLE:
        message = "stable has all traffic already: rollback previous, or a version"
        return Answer(cursor, accepted=False, message=message)
    if cursor.back and cursor.is_promoted:
        message = "a rollback is being finished: wait until it is"
        return Answer(cursor, accepted=False, message=message)
    to = cursor.previous if request.target == PREVIOUS and cursor.previous else find(request.target)
    if not to or to == cursor.stable:
        message = f"no recorded revision to go back to is {request.target}"
        return Answer(cursor, accepted=False, message=message)
    reason = "RolledBackByRequest"
    back = machine.go_back(cursor, to, reason, f"rollback to {request.target}{by}", sight, now)
    return Answer(back, accepted=True, message=f"going back to {request.target}")
