"""RollingUpdate: the candidate becomes ready beside stable, traffic moves in one write, stable drains.

`advance` takes one step at most.  Read it from top to bottom: each state says what may end it.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sluice.rollout.cursor import Cursor, State

CAPACITY = "WaitingForCapacity"
SUSPENDED = "Suspended"

# Progress is written down so often at most, or four times per deadline: a hundred pods becoming ready
# shall not be a hundred status writes.
PROGRESS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Track:
    """What the state machine needs to know of one revision."""

    ready: int = 0
    wanted: int = 1
    reached: int = 0  # of its ready pods: how many are behind the front Service
    unschedulable: str = ""
    doomed_reason: str = ""  # a trouble that waiting can't mend
    doomed_message: str = ""
    trouble: str = ""  # the newest trouble's words, for the message of a rejection


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a service: the revision it should run, and what runs."""

    target: str  # empty: unknown for now
    candidate: Track  # of the cursor's revision
    previous_ready: int  # ready pods of the revision that drains
    rejected: tuple[str, str] | None  # reason and message, where the target was rejected before
    front: str  # the revision that the front Service selects
    reachable: frozenset[str]  # revisions with ready endpoints behind the front Service
    deadline: timedelta
    drain_lag: timedelta


def begin(stable: str, sight: Sight, now: datetime) -> Cursor:
    """The cursor of a rollout to the target, or of its standing rejection."""
    if sight.rejected is not None:
        reason, message = sight.rejected
        return Cursor(State.REJECTED, sight.target, stable, reason=reason, message=message)
    return Cursor(
        State.PROGRESSING,
        sight.target,
        stable,
        started=now,
        progressed=now,
        deadline=int(sight.deadline.total_seconds()),
    )


def advance(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    """The next cursor; the same one when there is nothing to decide."""
    match cursor.state:
        case State.COMPLETE | State.REJECTED:
            return _settled(cursor, sight, now)
        case State.PROGRESSING | State.FAILED:
            return _progressing(cursor, sight, now)
        case State.SWITCHING:
            return _switching(cursor, sight, now)
        case State.DRAINING:
            return _draining(cursor, sight, now)


def _settled(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if not sight.target or sight.target == cursor.revision:
        return cursor
    if sight.target == cursor.stable:
        return Cursor(State.COMPLETE, cursor.stable, cursor.stable)
    return begin(cursor.stable, sight, now)


def _progressing(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    track = sight.candidate
    if sight.target and sight.target != cursor.revision:
        if not cursor.stable and track.ready > 0:
            # Not all that was wanted, but clients are being answered: that is what must stay.
            cursor = replace(cursor, stable=cursor.revision)
        return _settled(cursor, sight, now)
    if track.ready >= track.wanted and track.ready > 0:
        if cursor.stable:
            return replace(cursor, state=State.SWITCHING, held="")
        if track.reached >= track.wanted:
            return Cursor(State.COMPLETE, cursor.revision, cursor.revision, started=cursor.started)
        # Who is told Ready asks at once; the endpoints follow in a moment, and come as an event.
        return cursor
    if track.doomed_reason and cursor.stable:
        return _rejected(cursor, track.doomed_reason, track.doomed_message)
    if held := CAPACITY if track.unschedulable else "":
        return cursor if cursor.held == held else replace(cursor, held=held)
    if cursor.held:
        # What held the rollout is over: the deadline's clock starts anew.
        return replace(cursor, state=State.PROGRESSING, held="", progressed=now)
    if _has_progressed(cursor, sight, now):
        return replace(cursor, state=State.PROGRESSING, ready=track.ready, progressed=now)
    if cursor.state is State.PROGRESSING and now >= deadline_of(cursor, sight):
        message = (
            f"{track.ready}/{track.wanted} pods ready and no progress for "
            f"{int(_deadline(cursor, sight).total_seconds())}s (rollout.deadline)"
        )
        if track.trouble:
            message = f"{message}: {track.trouble}"
        if cursor.stable:
            return _rejected(cursor, "ProgressDeadlineExceeded", message)
        return replace(
            cursor, state=State.FAILED, reason="ProgressDeadlineExceeded", message=message
        )
    return cursor


def _switching(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    if sight.front == cursor.revision:
        return Cursor(
            State.DRAINING,
            cursor.revision,
            cursor.revision,
            previous=cursor.stable,
            started=cursor.started,
            switched=now,
        )
    if sight.target and sight.target != cursor.revision:
        return _settled(cursor, sight, now)
    if sight.candidate.ready < sight.candidate.wanted:
        return replace(cursor, state=State.PROGRESSING, progressed=now)
    return cursor


def _draining(cursor: Cursor, sight: Sight, now: datetime) -> Cursor:
    assert cursor.switched is not None, "load_cursor and _switching see to it"  # noqa: S101 - narrows the type
    if (
        sight.candidate.reached >= max(1, sight.candidate.ready)
        and cursor.previous not in sight.reachable
        and now >= cursor.switched + sight.drain_lag
    ):
        return Cursor(State.COMPLETE, cursor.revision, cursor.revision, started=cursor.started)
    if sight.target == cursor.previous and sight.previous_ready >= sight.candidate.wanted:
        # Wanted back while it still runs: nothing has to be loaded for that.
        return Cursor(
            State.SWITCHING,
            cursor.previous,
            cursor.revision,
            started=now,
            progressed=now,
            deadline=int(sight.deadline.total_seconds()),
        )
    if sight.candidate.ready == 0 and sight.previous_ready == 0:
        # Neither answers: who waits for the endpoints would wait for ever. Another version may help.
        return _settled(cursor, sight, now)
    if sight.candidate.ready == 0:
        message = (
            "no pod was ready any more after the switch, and the previous revision still served"
        )
        return _rejected(replace(cursor, stable=cursor.previous), "ReadinessLost", message)
    return cursor


def _rejected(cursor: Cursor, reason: str, message: str) -> Cursor:
    return Cursor(
        State.REJECTED,
        cursor.revision,
        cursor.stable,
        started=cursor.started,
        reason=reason,
        message=message,
    )


def _has_progressed(cursor: Cursor, sight: Sight, now: datetime) -> bool:
    assert cursor.progressed is not None, "load_cursor and begin see to it"  # noqa: S101 - narrows the type
    pause = min(PROGRESS_SECONDS, _deadline(cursor, sight).total_seconds() / 4)
    return (
        sight.candidate.ready > cursor.ready and (now - cursor.progressed).total_seconds() >= pause
    )


def deadline_of(cursor: Cursor, sight: Sight) -> datetime:
    """When a rollout without further progress ends."""
    assert cursor.progressed is not None, "load_cursor and begin see to it"  # noqa: S101 - narrows the type
    return cursor.progressed + _deadline(cursor, sight)


def _deadline(cursor: Cursor, sight: Sight) -> timedelta:
    """The one that the rollout began with: an edit applies to the next rollout."""
    return timedelta(seconds=cursor.deadline) if cursor.deadline else sight.deadline


def wake_after(cursor: Cursor, sight: Sight, now: datetime) -> float | None:
    """Seconds until time alone may change the decision; None where only events can."""
    match cursor.state:
        case State.PROGRESSING if not cursor.held:
            moment = deadline_of(cursor, sight)
            assert cursor.progressed is not None, "as deadline_of"  # noqa: S101 - narrows the type
            if sight.candidate.ready > cursor.ready:
                pause = min(PROGRESS_SECONDS, _deadline(cursor, sight).total_seconds() / 4)
                moment = min(moment, cursor.progressed + timedelta(seconds=pause))
        case State.DRAINING:
            assert cursor.switched is not None, "as _draining"  # noqa: S101 - narrows the type
            moment = cursor.switched + sight.drain_lag
            if moment <= now:
                return None  # only the endpoints are missing, and they come as an event
        case _:
            return None
    return max(0.0, (moment - now).total_seconds())
