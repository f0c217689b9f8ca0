"""The rollout's cursor: the little that must be remembered, as it stands in `status.rollout`.

Everything else follows from the spec, the recorded course and what is observed.  A cursor that can't be
read is never guessed at: `CursorError` says what is wrong, and the service holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sluice.api.conditions import cut_text, format_time


class State(StrEnum):
    """Where a rollout stands."""

    PROGRESSING = "Progressing"  # the candidate's pods are being made ready for the step at hand
    FAILED = "Failed"  # a first deployment past its deadline: nothing to go back to, still trying
    SWITCHING = "Switching"  # the step's weight has been decided and is being given
    ANALYSING = "Analysing"  # the candidate has the step's weight: its hold and its checks run
    PAUSED = "Paused"  # a person must say how it goes on
    ABORTING = "Aborting"  # the weight is taken back, the candidate finishes its requests
    DRAINING = "Draining"  # clients reach the new stable, the previous one finishes its requests
    BAKING = "Baking"  # clients reach the new stable, the previous one is kept warm
    REJECTED = "Rejected"  # the candidate is out, stable serves
    COMPLETE = "Complete"  # one revision, nothing to do


class Goal(StrEnum):
    """Why a rollout leaves its course."""

    NONE = ""
    FULL = "Full"  # a person said promote-full: what is left of the course is skipped
    REJECTED = "Rejected"  # it goes back for good
    SUPERSEDED = "Superseded"  # it makes room for what spec asks for now


class CursorError(ValueError):
    """The stored cursor is unknown or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Revisions are hashes; `stable` is empty before the first revision has become ready."""

    state: State
    revision: str
    stable: str = ""
    previous: str = ""
    replicas: int = 0  # what stable had when it began: it keeps as many to the end
    started: datetime | None = None
    progressed: datetime | None = None
    deadline: int = 0  # seconds without progress that end it, as they were when it began
    ready: int = 0  # the candidate's ready replicas when it last progressed
    step: int = 0  # index into the course's steps
    weight: int = 0  # percent of the traffic that the candidate shall have
    step_started: datetime | None = None
    shifted: datetime | None = None  # when the step's weight took effect
    floor: int = 0  # ready pods of the candidate that its weight rests on
    restarts: int = 0  # of the candidate's containers, when it got its weight
    switched: datetime | None = None  # when traffic had moved away from what drains or bakes
    paused: str = ""  # why a person must act
    goal: Goal = Goal.NONE
    back: bool = False  # it leads back to a revision that served before
    held: str = ""  # why the deadline's clock stands still
    reason: str = ""  # of a rejection or a pause
    message: str = ""

    @property
    def is_moving(self) -> bool:
        """Whether two revisions may be running."""
        return self.state not in {State.REJECTED, State.COMPLETE}

    @property
    def is_promoted(self) -> bool:
        """Whether the revision that was rolled out is stable already, and its predecessor is there."""
        return bool(self.previous)

    def dump(self) -> dict[str, Any]:
        """As `status.rollout`."""
        fields: dict[str, Any] = {"state": self.state.value, "revision": self.revision}
        for key, moment in (
            ("startedTime", self.started),
            ("progressTime", self.progressed),
            ("stepStartedTime", self.step_started),
            ("shiftedTime", self.shifted),
            ("switchedTime", self.switched),
        ):
            if moment is not None:
                fields[key] = format_time(moment)
        texts = {
            "stableRevision": self.stable,
            "previousRevision": self.previous,
            "pausedReason": self.paused,
            "goal": self.goal.value,
            "held": self.held,
            "reason": self.reason,
            "message": cut_text(self.message),
        }
        fields |= {key: text for key, text in texts.items() if text}
        numbers = {
            "deadlineSeconds": self.deadline,
            "progressReplicas": self.ready,
            "stableReplicas": self.replicas,
            "readyFloor": self.floor,
            "restarts": self.restarts,
        }
        fields |= {key: number for key, number in numbers.items() if number}
        if self.back:
            fields["back"] = True
        if self.step_started is not None:
            # People count from one.
            fields |= {"step": self.step + 1, "weight": self.weight}
        return fields


_NEEDED: dict[State, tuple[str, ...]] = {
    State.PROGRESSING: ("startedTime", "progressTime"),
    State.FAILED: ("startedTime", "progressTime"),
    State.SWITCHING: ("startedTime", "progressTime"),
    State.ANALYSING: ("startedTime", "progressTime", "stepStartedTime", "shiftedTime"),
    State.PAUSED: ("startedTime", "pausedReason"),
    State.DRAINING: ("switchedTime",),
    State.BAKING: ("switchedTime", "previousRevision"),
}
_NEED_STABLE = {State.COMPLETE, State.DRAINING, State.BAKING, State.SWITCHING, State.ANALYSING}


def load_cursor(status: Mapping[str, Any]) -> Cursor | None:
    """The cursor in a service's status, None where there is none yet."""
    stored = status.get("rollout")
    if not stored:
        return None
    try:
        cursor = Cursor(
            state=State(stored["state"]),
            revision=stored["revision"],
            # Before it was part of the cursor it stood beside it only.
            stable=stored.get("stableRevision", status.get("stable", {}).get("revision", "")),
            replicas=int(stored.get("stableReplicas", 0)),
            previous=stored.get("previousRevision", ""),
            started=_load_time(stored.get("startedTime")),
            progressed=_load_time(stored.get("progressTime")),
            deadline=int(stored.get("deadlineSeconds", 0)),
            ready=int(stored.get("progressReplicas", 0)),
            step=max(0, int(stored.get("step", 1)) - 1),
            weight=int(stored.get("weight", 0)),
            step_started=_load_time(stored.get("stepStartedTime")),
            shifted=_load_time(stored.get("shiftedTime")),
            floor=int(stored.get("readyFloor", 0)),
            restarts=int(stored.get("restarts", 0)),
            switched=_load_time(stored.get("switchedTime")),
            paused=stored.get("pausedReason", ""),
            goal=Goal(stored.get("goal", "")),
            back=bool(stored.get("back", False)),
            held=stored.get("held", ""),
            reason=stored.get("reason", ""),
            message=stored.get("message", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CursorError(f"status.rollout can't be read: {error}") from error
    missing = [key for key in _NEEDED.get(cursor.state, ()) if not stored.get(key)]
    if cursor.state in _NEED_STABLE and not cursor.stable:
        missing.append("stableRevision")
    if missing:
        raise CursorError(f"status.rollout is {cursor.state.value} without {', '.join(missing)}")
    return cursor


def _load_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
