"""Conditions: their type names, their schema, and the one way to set or remove one.

Pure: the time comes in as an argument. What a situation means is decided elsewhere.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from sluice.api.base import Form, Model
from sluice.api.scalars import MAX_GENERATION, TEXT_LIMIT, Text, Timestamp

READY: Final = "Ready"
AVAILABLE: Final = "Available"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"
SUSPENDED: Final = "Suspended"
ARTIFACT_VERIFIED: Final = "ArtifactVerified"
QUARANTINED: Final = "Quarantined"
ROLLOUT_PAUSED: Final = "RolloutPaused"
BAKING: Final = "Baking"

ConditionDict = dict[str, Any]
EPOCH: Final = "1970-01-01T00:00:00Z"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One observation about the object, in the form of metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="What is observed, such as Ready. At most one entry per type."
    )
    status: ConditionStatus = Field(description="Whether it holds: True, False or Unknown.")
    observed_generation: int | None = Field(
        None,
        ge=0,
        le=MAX_GENERATION,
        description=(
            "metadata.generation this was decided for. Older than the object's: out of date."
        ),
    )
    last_transition_time: Timestamp = Field(
        description="When status last changed its value (not reason or message)."
    )
    reason: Annotated[
        str, Field(min_length=1, max_length=128), Form("[A-Za-z][A-Za-z0-9]*", "must be CamelCase")
    ] = Field(description="Why, as one CamelCase word for programs.")
    message: Text = Field(
        description="Why, for people: the decision, the number and its threshold, what to do next."
    )


def set_condition(
    conditions: Sequence[ConditionDict],
    type_: str,
    status: Literal["True", "False", "Unknown"],
    *,
    reason: str,
    message: str,
    observed_generation: int,
    now: datetime,
) -> list[ConditionDict]:
    """The conditions with this one set; lastTransitionTime moves only when status changes.

    `now` is timezone-aware. A message beyond the schema's bound is cut, so that a long cause
    (a webhook's page of HTML) cannot make the whole status unwritable.
    """
    old = find_condition(conditions, type_)
    flipped = old is None or old.get("status") != status
    new: ConditionDict = {
        "type": type_,
        "status": status,
        "observedGeneration": observed_generation,
        "lastTransitionTime": format_time(now)
        if flipped or old is None
        else old["lastTransitionTime"],
        "reason": reason,
        "message": cut_text(message),
    }
    if old is None:
        return [*conditions, new]
    return [new if item.get("type") == type_ else item for item in conditions]


def absent(conditions: Sequence[ConditionDict], *types: str) -> list[ConditionDict]:
    """The conditions without these types: Reconciling and Stalled are removed, never set False."""
    return [item for item in conditions if item.get("type") not in types]


def find_condition(conditions: Sequence[ConditionDict], type_: str) -> ConditionDict | None:
    """The condition of this type, or None."""
    return next((item for item in conditions if item.get("type") == type_), None)


def is_true(conditions: Sequence[ConditionDict], type_: str) -> bool:
    """Whether the condition is there and True."""
    found = find_condition(conditions, type_)
    return found is not None and found.get("status") == "True"


def cut_text(text: str) -> str:
    """The text, cut to what the schema takes for one sentence to people (`Text`)."""
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def format_time(now: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time; ValueError for a naive time."""
    if now.tzinfo is None:
        raise ValueError("now must be timezone-aware")
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


PENDING_CONDITIONS: Final[list[ConditionDict]] = [
    {
        "type": READY,
        "status": "Unknown",
        "reason": "Pending",
        "message": "Waiting for the operator",
        "lastTransitionTime": EPOCH,
    },
    {
        "type": RECONCILING,
        "status": "True",
        "reason": "Pending",
        "message": "Waiting for the operator",
        "lastTransitionTime": EPOCH,
    },
]
"""The schema's default: an object that no operator has seen is in progress, not done (kstatus)."""
