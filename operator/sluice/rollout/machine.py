"""The rollout state machine: one step at most for one look.

    Progressing -> Switching -> Analysing -> (next step) ... -> Baking -> Draining -> Complete
         |             |            |  \\-> Paused                  |
         +-------------+------------+-----> Aborting -> Rejected <-+ (a rollback is a rollout back)

`advance` is a function of cursor, sight and time.  Read it from top to bottom: each state says what may
end it.  What people ask for is in `asked`, what may end a rollout badly in `_find_failure`.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from sluice.api.rolloutstatus import Verdict
from sluice.rollout.cursor import Cursor, Goal, State
from sluice.rollout.sight import Sight

CAPACITY = "WaitingForCapacity"
SUSPENDED = "Suspended"

# Why a rollout is paused.
APPROVAL = "WaitingForApproval"
BY_REQUEST = "PausedByRequest"
FEW_SAMPLES = "InsufficientSamples"
FAILED_CHECK = "AnalysisFailed"
SPACES = "EmbeddingSpaceChanged"
NO_WAY_BACK = "RollbackFailed"

DEADLINE = "ProgressDeadlineExceeded"
READINESS = "ReadinessLost"
RESTARTED = "CandidateRestarted"
CHECK = "PrePromotionFailed"

# Progress is written down so often at most, or four times per deadline: a hundred pods becoming ready
# shall not be a hundred status writes.
PROGRESS_SECONDS = 60.0


def begin(stable: str, sight: Sight, now: datetime) -> Cursor:
    """The cursor of a rollout to the target, or of its standing rejection."""
    if sight.rejected is not None:
        reason, message = sight.rejected
        return Cursor(State.REJECTED, sight.target, stable, reason=reason, message=message)
    return _start(Cursor(State.PROGRESSING, sight.target, stable), sight, now)


def retry(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """A rejected rollout again, from the step that it failed at."""
    again = Cursor(State.PROGRESSING, cursor.revision, cursor.stable, step=cursor.step)
    return _start(again, sight, now)


def recast(cursor: Cursor, sight: Sight) -> Cursor:
    """Where the steps are others by now, what was rejected is tried again from the first of them."""
    if cursor.state is State.REJECTED and sight.is_recast and cursor.step:
        return replace(cursor, step=0)
    return cursor


def go_back(
    cursor: Cursor, to: str, reason: str, message: str, sight: Sight, now: datetime
) -> Cursor:
    """A rollout back from stable to a revision that served before, all at once."""
    back = Cursor(State.PROGRESSING, to, cursor.stable, back=True, reason=reason, message=message)
    return _start(back, sight, now)


def _start(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    return replace(
        cursor,
        started=now,
        progressed=now,
        step_started=now,
        deadline=sight.deadline,
        replicas=sight.stable_replicas,
    )


def advance(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """The next cursor; the same one when there is nothing to decide."""
    if cursor.held == SUSPENDED:
        # Nobody looked while it was suspended: the clocks start anew.
        return replace(cursor, held="", progressed=now)
    if not sight.weighs and 0 < cursor.weight < 100:
        return _restart_without_shares(cursor, now)
    match cursor.state:
        case State.COMPLETE | State.REJECTED:
            return _settled(cursor, sight, now)
        case State.PROGRESSING | State.FAILED:
            return _progressing(cursor, sight, now)
        case State.SWITCHING:
            return _switching(cursor, sight, now)
        case State.ANALYSING:
            return _analysing(cursor, sight, now)
        case State.PAUSED:
            return _paused(cursor, sight, now)
        case State.ABORTING:
            return _aborting(cursor, sight, now)
        case State.BAKING:
            return _baking(cursor, sight, now)
        case State.DRAINING:
            return _draining(cursor, sight, now)


def _restart_without_shares(cursor: Cursor, now: datetime) -> Cursor:
    """The gateway was taken away amid a rollout: the front Service gives all to one, so it begins anew."""
    return replace(_enter(cursor, 0, now), weight=0, floor=0, ready=cursor.ready)


def _enter(cursor: Cursor, step: int, now: datetime) -> Cursor:
    """At the beginning of a step; what the step before left behind is forgotten, its weight stays."""
    return replace(
        cursor,
        state=State.PROGRESSING,
        step=step,
        step_started=now,
        progressed=now,
        shifted=None,
        ready=0,
        paused="",
        reason="",
        message="",
    )


def _settled(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if not sight.settles or not sight.target:
        return cursor
    if cursor.state is State.COMPLETE and not sight.stable_exists:
        # Everything of it is gone, its record too: there is nothing left to be stable.
        return begin("", sight, now)
    if sight.target == cursor.revision:
        return cursor
    if sight.target == cursor.stable:
        return Cursor(State.COMPLETE, cursor.stable, cursor.stable)
    return begin(cursor.stable, sight, now)


def _progressing(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if _is_unwanted(cursor, sight):
        return _leave(cursor, sight, now)
    track, step = sight.candidate, sight.course.at(cursor.step)
    if sight.check_failed:
        return _go_back(cursor, sight, CHECK, sight.check_failed)
    failure = _find_failure(cursor, sight) if cursor.weight else None
    if failure and cursor.goal is not Goal.FULL:
        return _fail(cursor, sight, *failure)
    if not cursor.stable:
        # Who is told Ready asks at once: the endpoints must have followed.
        if track.ready >= track.wanted and track.reached >= track.wanted and sight.proven:
            return Cursor(State.COMPLETE, cursor.revision, cursor.revision, started=cursor.started)
    elif (
        track.ready >= sight.needs(step)
        and (sight.proven or cursor.weight)
        and not sight.unchecked
        and not sight.unmirrored
    ):
        # It may have been decided (and taken back to here by promote-full) without being so yet.
        has_weight = cursor.weight == 0 or sight.carried == cursor.weight
        if step.weight == cursor.weight and has_weight:
            return _arrive(cursor, sight, now)
        return replace(
            cursor,
            state=State.SWITCHING,
            weight=step.weight,
            restarts=cursor.restarts if cursor.weight else track.restarts,
            progressed=now,
            held="",
            ready=0,
        )
    if failure:
        return _fail(cursor, sight, *failure)
    if track.doomed_reason and cursor.stable:
        return _go_back(cursor, sight, track.doomed_reason, track.doomed_message)
    if track.unschedulable and not track.trouble:
        return replace(cursor, held=CAPACITY)
    if cursor.held:
        # What held the rollout is over: the deadline's clock starts anew.
        return replace(cursor, state=State.PROGRESSING, held="", progressed=now)
    if _has_progressed(cursor, sight, now):
        return replace(cursor, state=State.PROGRESSING, ready=track.ready, progressed=now)
    if cursor.state is State.PROGRESSING and now >= deadline_of(cursor, sight):
        message = _say_deadline(cursor, sight)
        if cursor.stable:
            return _fail(cursor, sight, DEADLINE, message)
        return replace(cursor, state=State.FAILED, reason=DEADLINE, message=message)
    return cursor


def _switching(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if sight.verdict is Verdict.FAIL:
        # What it answered with the weight that it had before.
        return _fail(cursor, sight, FAILED_CHECK, sight.finding)
    if sight.carried == cursor.weight == sight.course.at(cursor.step).weight:
        return _arrive(cursor, sight, now)
    if _is_unwanted(cursor, sight):
        return _leave(cursor, sight, now)
    before = sight.course.before(cursor.step)
    if sight.carried == before and sight.candidate.ready < sight.needs(
        sight.course.at(cursor.step)
    ):
        # Too few of its pods are ready again, and no client was moved yet.
        return replace(cursor, state=State.PROGRESSING, weight=before, progressed=now)
    if sight.candidate.ready + sight.candidate.cut_off == 0 and sight.other_ready:
        return _fail(cursor, sight, READINESS, "no pod was ready when it got its weight")
    if sight.carried is None and now >= deadline_of(cursor, sight):
        message = _say_untaken(cursor, sight)
        if not sight.mixable:
            # It says nothing, and may have done it all the same.
            return _pause(cursor, SPACES, message)
        return _fail(cursor, sight, DEADLINE, message)
    return cursor


def _arrive(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """The candidate has what its step gives."""
    step = sight.course.at(cursor.step)
    is_last = cursor.step >= len(sight.course.steps) - 1
    skips = cursor.back or cursor.goal is Goal.FULL
    if is_last and (skips or (step.is_plain and not sight.course.is_checked)):
        return _promote(cursor, sight, now)
    return replace(
        cursor,
        state=State.ANALYSING,
        shifted=now,
        progressed=now,
        floor=sight.needs(step),
        restarts=sight.candidate.restarts,
        held="",
        ready=0,
    )


def _analysing(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if _is_unwanted(cursor, sight):
        return _leave(cursor, sight, now)
    if failure := _find_failure(cursor, sight):
        return _fail(cursor, sight, *failure)
    step = sight.course.at(cursor.step)
    if now >= _since(cursor) + timedelta(seconds=step.hold) and sight.verdict is Verdict.PASS:
        if step.approval:
            return _pause(cursor, APPROVAL, "")
        return next_step(cursor, sight, now)
    if sight.verdict is Verdict.INCONCLUSIVE and now >= deadline_of(cursor, sight):
        return _pause(cursor, FEW_SAMPLES, sight.finding)
    return cursor


def next_step(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """The step at hand is over: the next one, or promotion after the last."""
    if cursor.step >= len(sight.course.steps) - 1:
        return _promote(cursor, sight, now)
    return _enter(cursor, cursor.step + 1, now)


def _promote(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    bakes = sight.course.bake > 0 and not cursor.back
    return replace(
        cursor,
        state=State.BAKING if bakes else State.DRAINING,
        stable=cursor.revision,
        previous=cursor.stable,
        # Where no step was watched, the bake is the first to be.
        shifted=cursor.shifted or (now if bakes else None),
        switched=now,
        paused="",
        goal=Goal.NONE,
        held="",
        ready=0,
    )


def _paused(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if cursor.is_promoted:
        # It has its clients: only a person knows better.
        return _turn(cursor, sight, now) if _is_wanted_back(cursor, sight) else cursor
    if cursor.back:
        is_third = sight.target not in {"", cursor.revision, cursor.stable}
        return _leave(cursor, sight, now) if is_third else cursor
    if _is_unwanted(cursor, sight):
        return _leave(cursor, sight, now)
    failure = _find_failure(cursor, sight) if cursor.weight else None
    if failure and not sight.course.pauses and cursor.paused != SPACES:
        return _fail(cursor, sight, *failure)
    return cursor


def _aborting(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if sight.carried != 0:
        return cursor
    if cursor.switched is None:
        return replace(cursor, switched=now)
    if now < cursor.switched + sight.lag or cursor.revision in sight.reachable:
        return cursor
    if cursor.goal is Goal.REJECTED:
        return _rejected(cursor, cursor.reason, cursor.message)
    return _make_room(cursor, sight, now)


def _baking(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if _is_wanted_back(cursor, sight):
        return _turn(cursor, sight, now)
    failure = _find_failure(cursor, sight)
    if failure and sight.previous_ready:
        if not sight.mixable:
            return _pause(cursor, SPACES, failure[1])
        turned = _turn(cursor, sight, now)
        return replace(turned, reason=failure[0], message=failure[1])
    if now >= _moved(cursor) + timedelta(seconds=sight.course.bake):
        return replace(cursor, state=State.DRAINING)
    return cursor


def _draining(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if (
        sight.carried == 100
        and sight.candidate.reached >= max(1, sight.candidate.ready)
        and cursor.previous not in sight.reachable
        and now >= _moved(cursor) + sight.lag
    ):
        if cursor.back and cursor.reason and sight.target != cursor.revision:
            bad = replace(cursor, revision=cursor.previous, started=None, step_started=None)
            return _rejected(bad, cursor.reason, cursor.message)
        return Cursor(State.COMPLETE, cursor.revision, cursor.revision, started=cursor.started)
    if _is_wanted_back(cursor, sight):
        return _turn(cursor, sight, now)
    if sight.candidate.ready == 0 and sight.previous_ready == 0 and not cursor.back:
        # Neither answers: who waits for the endpoints would wait for ever. Another version may help.
        return _settled(cursor, sight, now)
    if sight.candidate.ready == 0 and sight.previous_ready:
        message = "no pod was ready any more after the switch, and the previous revision still ran"
        if not sight.mixable and not cursor.back:
            return _pause(cursor, SPACES, message)
        return replace(_turn(cursor, sight, now), reason=READINESS, message=message)
    return cursor


def _turn(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """Back to the predecessor, which still runs: nothing has to be loaded for that."""
    back = Cursor(State.SWITCHING, cursor.previous, cursor.stable, weight=100, back=True)
    return _start(back, sight, now)


def _is_wanted_back(cursor: Cursor, sight: Sight) -> bool:
    if cursor.back and cursor.reason:
        return False  # it was just taken away from there
    return sight.target == cursor.previous and sight.previous_ready >= sight.candidate.wanted


def _is_unwanted(cursor: Cursor, sight: Sight) -> bool:
    """Whether spec asks for another revision by now; a way back is gone to its end."""
    return not cursor.back and sight.target not in {"", cursor.revision}


def _leave(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """Room for what spec asks for: weight to 0 first, then that."""
    if not cursor.stable and sight.candidate.ready > 0:
        # Not all that was wanted, but clients are being answered: that is what must stay.
        cursor = replace(cursor, stable=cursor.revision)
    if cursor.weight and cursor.stable != cursor.revision:
        return _abort(cursor, Goal.SUPERSEDED, "", "")
    return _make_room(cursor, sight, now)


def _make_room(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """The candidate has no client: what spec asks for by now."""
    if sight.target in {"", cursor.stable}:
        return Cursor(State.COMPLETE, cursor.stable, cursor.stable)
    return begin(cursor.stable, sight, now)


def _find_failure(cursor: Cursor, sight: Sight) -> tuple[str, str] | None:
    """Why a candidate that has clients must lose them: reason, number and threshold."""
    track = sight.candidate
    # Somebody may have lowered scaling since it got its weight.
    needed = 1 if cursor.is_promoted else max(1, min(cursor.floor, track.wanted))
    trouble = f": {track.trouble}" if track.trouble else ""
    if track.ready + track.cut_off < needed and sight.other_ready:
        # Pods that are cut off may be as well as ever: it is their nodes, or who asks after them.  Where
        # stable has no ready pod either, there is nobody to give the candidate's clients to.
        return READINESS, f"{track.ready}/{needed} pods ready{trouble}"
    if not cursor.is_promoted and track.restarts > cursor.restarts:
        count = track.restarts - cursor.restarts
        return RESTARTED, f"{count} restarts since it got its weight{trouble}"
    if sight.verdict is Verdict.FAIL:
        return FAILED_CHECK, sight.finding
    return None


def _fail(cursor: Cursor, sight: Sight, reason: str, message: str) -> Cursor:
    if cursor.back:
        return _pause(cursor, NO_WAY_BACK, message)
    has_all = sight.carried == 100 or (cursor.weight == 100 and cursor.shifted is not None)
    if has_all and not sight.mixable:
        # Rows written since are in the new space: going back by itself would make them useless.
        return _pause(cursor, SPACES, message)
    if sight.course.pauses:
        return replace(_pause(cursor, FAILED_CHECK, message), reason=reason)
    return _go_back(cursor, sight, reason, message)


def _go_back(cursor: Cursor, sight: Sight, reason: str, message: str) -> Cursor:
    if cursor.back:
        return _pause(cursor, NO_WAY_BACK, message)
    return abort(cursor, sight, reason, message)


def abort(cursor: Cursor, sight: Sight, reason: str, message: str) -> Cursor:
    """Gives the candidate up: its weight first, then the rest."""
    cursor = _fall_back(cursor, sight)
    if cursor.weight == 0:
        return _rejected(cursor, reason, message)
    return _abort(cursor, Goal.REJECTED, reason, message)


def _fall_back(cursor: Cursor, sight: Sight) -> Cursor:
    """At the last step whose weight the candidate had: from there it may be tried again, and no further."""
    course, had = sight.course, cursor.weight
    if cursor.shifted is None and had == course.at(cursor.step).weight:
        # It was being given, and may not have come.
        had = 0 if cursor.goal is Goal.FULL else course.before(cursor.step)
    until = enumerate(course.steps[: cursor.step + 1])
    first = 0 if cursor.goal is Goal.FULL else cursor.step
    step = max((at for at, step in until if step.weight == had), default=first)
    if step == cursor.step:
        return cursor
    return replace(cursor, step=step, shifted=cursor.step_started if had else None)


def _abort(cursor: Cursor, goal: Goal, reason: str, message: str) -> Cursor:
    return replace(
        cursor,
        state=State.ABORTING,
        weight=0,
        goal=goal,
        reason=reason,
        message=message,
        switched=None,
        paused="",
        held="",
    )


def _pause(cursor: Cursor, why: str, message: str) -> Cursor:
    return replace(cursor, state=State.PAUSED, paused=why, message=message, held="", ready=0)


def pause(cursor: Cursor, message: str) -> Cursor:
    """Stands still because a person said so."""
    return _pause(cursor, BY_REQUEST, message)


def resume(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """Goes on where it was paused; the clocks start anew."""
    if cursor.is_promoted:
        return replace(cursor, state=State.BAKING, paused="", message="", reason="")
    is_given = cursor.weight == sight.course.at(cursor.step).weight
    has_weight = is_given and cursor.shifted is not None
    # What was being given may have arrived by now: it is not taken back for that.
    otherwise = State.SWITCHING if is_given and cursor.weight else State.PROGRESSING
    return replace(
        cursor,
        state=State.ANALYSING if has_weight else otherwise,
        shifted=now if has_weight else None,
        step_started=cursor.step_started if has_weight else now,
        progressed=now,
        restarts=sight.candidate.restarts,
        paused="",
        reason="",
        message="",
    )


def skip_to_end(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """All clients to the candidate as soon as its pods allow it."""
    return replace(_enter(cursor, len(sight.course.steps) - 1, now), goal=Goal.FULL)


def _rejected(cursor: Cursor, reason: str, message: str) -> Cursor:
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


def _say_deadline(cursor: Cursor, sight: Sight) -> str:
    track = sight.candidate
    needed = sight.needs(sight.course.at(cursor.step)) if cursor.stable else track.wanted
    seconds = int(_deadline(cursor, sight).total_seconds())
    if track.ready >= needed and not sight.proven:
        return f"the gateway did not reach it for {seconds}s (rollout.deadline)"
    if track.ready >= needed and sight.unchecked:
        return f"{sight.unchecked}, and nothing came of it for {seconds}s (rollout.deadline)"
    if track.ready >= needed and sight.unmirrored:
        return f"nothing was compared for {seconds}s (rollout.deadline): {sight.unmirrored}"
    message = f"{track.ready}/{needed} pods ready and no progress for {seconds}s (rollout.deadline)"
    return f"{message}: {track.trouble}" if track.trouble else message


def _say_untaken(cursor: Cursor, sight: Sight) -> str:
    seconds = int(_deadline(cursor, sight).total_seconds())
    given = f"weight {cursor.weight} had not taken effect for {seconds}s (rollout.deadline)"
    return f"{given}: the gateway did not take the route over"


def _has_progressed(cursor: Cursor, sight: Sight, now: datetime) -> bool:
    assert cursor.progressed is not None, "load_cursor and begin see to it"  # noqa: S101 - narrows the type
    return sight.candidate.ready > cursor.ready and now - cursor.progressed >= _progress_pause(
        cursor, sight
    )


def _progress_pause(cursor: Cursor, sight: Sight) -> timedelta:
    return min(timedelta(seconds=PROGRESS_SECONDS), _deadline(cursor, sight) / 4)


def _since(cursor: Cursor) -> datetime:
    assert cursor.shifted is not None, "load_cursor and _arrive see to it"  # noqa: S101 - narrows the type
    return cursor.shifted


def _moved(cursor: Cursor) -> datetime:
    assert cursor.switched is not None, "load_cursor and _promote see to it"  # noqa: S101 - narrows the type
    return cursor.switched


def deadline_of(cursor: Cursor, sight: Sight) -> datetime:
    """When a rollout without further progress ends."""
    assert cursor.progressed is not None, "load_cursor and begin see to it"  # noqa: S101 - narrows the type
    return cursor.progressed + _deadline(cursor, sight)


def _deadline(cursor: Cursor, sight: Sight) -> timedelta:
    """The one that the rollout began with: an edit applies to the next rollout."""
    return timedelta(seconds=cursor.deadline or sight.course.deadline)


def wake_after(cursor: Cursor, sight: Sight, now: datetime) -> float | None:
    """Seconds until time alone may change the decision; None where only events can."""
    moments: list[datetime] = []
    match cursor.state:
        case State.PROGRESSING if not cursor.held and cursor.progressed:
            moments.append(deadline_of(cursor, sight))
            if sight.candidate.ready > cursor.ready:
                moments.append(cursor.progressed + _progress_pause(cursor, sight))
        case State.SWITCHING:
            moments.append(deadline_of(cursor, sight))
        case State.ANALYSING:
            step = sight.course.at(cursor.step)
            moments = [_since(cursor) + timedelta(seconds=step.hold), deadline_of(cursor, sight)]
            # What is past has been decided, or waits for samples, which wake by themselves.
            moments = [moment for moment in moments if moment > now]
        case State.BAKING:
            moments.append(_moved(cursor) + timedelta(seconds=sight.course.bake))
        case State.ABORTING if cursor.switched is not None:
            moments = [moment for moment in [cursor.switched + sight.lag] if moment > now]
        case State.DRAINING:
            # Past it only the endpoints are missing, and they come as an event.
            moments = [moment for moment in [_moved(cursor) + sight.lag] if moment > now]
        case _:
            return None
    if not moments:
        return None
    return max(0.0, (min(moments) - now).total_seconds())
