"""The rollout's cursor: the little that must be remembered, as it stands in `status.rollout`.

Everything else follows from the spec and from what is observed.  A cursor that can't be read is never
guessed at: `CursorError` says what is wrong, and the service holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sluice.api.conditions import cut_text, format_time


class State(StrEnum):
    """Where a rollout stands."""

    PROGRESSING = "Progressing"  # the candidate's pods are being made ready
    FAILED = "Failed"  # a first deployment past its deadline: nothing to go back to, still trying
    SWITCHING = "Switching"  # the candidate is ready, the front Service is about to select it
    DRAINING = "Draining"  # clients reach the new stable, the previous one finishes its requests
    REJECTED = "Rejected"  # the candidate is out, stable serves
    COMPLETE = "Complete"  # one revision, nothing to do


class CursorError(ValueError):
    """The stored cursor is unknown or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Revisions are hashes; `stable` is empty before the first revision has become ready."""

    state: State
    revision: str
    stable: str = ""
    previous: str = ""
    started: datetime | None = None
    progressed: datetime | None = None
    deadline: int = 0  # seconds without progress that end it, as they were when it began
    ready: int = 0  # the candidate's ready replicas when it last progressed
    switched: datetime | None = None
    held: str = ""  # why the deadline's clock stands still
    reason: str = ""  # of a rejection
    message: str = ""

    @property
    def is_moving(self) -> bool:
        """Whether two revisions may be running."""
        return self.state in {State.PROGRESSING, State.SWITCHING, State.DRAINING, State.FAILED}

    def dump(self) -> dict[str, Any]:
        """As `status.rollout`; `stable` lives in `status.stable.revision`."""
        fields: dict[str, Any] = {"state": self.state.value, "revision": self.revision}
        for key, moment in (
            ("startedTime", self.started),
            ("progressTime", self.progressed),
            ("switchedTime", self.switched),
        ):
            if moment is not None:
                fields[key] = format_time(moment)
        texts = {
            "previousRevision": self.previous,
            "held": self.held,
            "reason": self.reason,
            "message": cut_text(self.message),
        }
        fields |= {key: text for key, text in texts.items() if text}
        if self.deadline:
            fields["deadlineSeconds"] = self.deadline
        if self.ready:
            fields["progressReplicas"] = self.ready
        return fields


def load_cursor(status: Mapping[str, Any]) -> Cursor | None:
    """The cursor in a service's status, None where there is none yet."""
    stored = status.get("rollout")
    if not stored:
        return None
    try:
        state = State(stored["state"])
        cursor = Cursor(
            state=state,
            revision=stored["revision"],
            stable=status.get("stable", {}).get("revision", ""),
            previous=stored.get("previousRevision", ""),
            started=_load_time(stored.get("startedTime")),
            progressed=_load_time(stored.get("progressTime")),
            deadline=int(stored.get("deadlineSeconds", 0)),
            ready=int(stored.get("progressReplicas", 0)),
            switched=_load_time(stored.get("switchedTime")),
            held=stored.get("held", ""),
            reason=stored.get("reason", ""),
            message=stored.get("message", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CursorError(f"status.rollout can't be read: {error}") from error
    missing = [
        name
        for name, wanted, value in (
            (
                "startedTime",
                state in {State.PROGRESSING, State.FAILED, State.SWITCHING},
                cursor.started,
            ),
            (
                "progressTime",
                state in {State.PROGRESSING, State.FAILED, State.SWITCHING},
                cursor.progressed,
            ),
            ("switchedTime", state is State.DRAINING, cursor.switched),
        )
        if wanted and value is None
    ]
    if missing:
        raise CursorError(f"status.rollout is {state.value} without {', '.join(missing)}")
    return cursor


def _load_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
