"""`status.rollout`, `status.history` and `status.lastHandledRequest`: what became of a rollout.

Types only. The operator alone writes them; `rollout/cursor.py` says what it reads back.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from sluice.api.base import LIST_ATOMIC, Model
from sluice.api.scalars import MAX_GENERATION, Label, SemVer, Text, Timestamp
from sluice.api.scaling import MAX_REPLICAS

_MAX_RESULTS: Final = 17
"""As many checks as spec takes, and shadow's own."""

MAX_STEPS: Final = 32
"""More than spec allows (20), as shadow and the like may count as steps."""

RevisionHash = Annotated[str, Field(max_length=63)]


class RolloutState(StrEnum):
    """Where a rollout stands."""

    PROGRESSING = "Progressing"
    FAILED = "Failed"
    SWITCHING = "Switching"
    ANALYSING = "Analysing"
    PAUSED = "Paused"
    ABORTING = "Aborting"
    DRAINING = "Draining"
    BAKING = "Baking"
    REJECTED = "Rejected"
    COMPLETE = "Complete"


class Verdict(StrEnum):
    """What a check says so far."""

    PASS = "Pass"  # noqa: S105 - no password
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"


class CheckResult(Model):
    """What one check measured in the step under way."""

    name: Label = Field(description="Name of the check, as in spec.rollout.analysis.checks.")
    verdict: Verdict = Field(
        description=(
            "Pass or Fail: the numbers leave no doubt. Inconclusive: they still do, and the step "
            "waits for more."
        )
    )
    value: Annotated[str, Field(max_length=64)] | None = Field(
        None, description='What was measured, with its unit, such as "3.1%" or "176ms".'
    )
    threshold: Annotated[str, Field(max_length=64)] | None = Field(
        None, description='What it must hold, with its unit, such as "1%" or "217ms".'
    )
    samples: int = Field(
        ge=0,
        le=MAX_GENERATION,
        description="Requests of the candidate that were counted; for Query, answers in a row.",
    )
    dry_run: bool | None = Field(None, description="true: it is shown and decides nothing.")


class RolloutStatus(Model):
    """The rollout under way, or the last one."""

    state: RolloutState = Field(
        description=(
            "Progressing: the candidate's pods come up. Failed: a first deployment past its "
            "deadline, still trying. Switching: traffic is about to move. Analysing: the step's "
            "weight is in effect and its checks are counted. Paused: a person must say what next "
            "(pausedReason). Aborting: traffic goes back to stable. Draining: traffic has moved, "
            "the revision without traffic finishes its requests. Baking: the candidate is stable, "
            "the previous revision is kept warm. Rejected: the candidate was given up. Complete: "
            "nothing moves."
        )
    )
    revision: RevisionHash = Field(description="Hash of the revision that is rolled out.")
    step: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="The step under way, counted from 1. Absent: none has begun.",
    )
    steps: int | None = Field(
        None, ge=0, le=MAX_STEPS, description="How many steps the rollout has."
    )
    progress: Annotated[str, Field(max_length=16)] | None = Field(
        None, description="step and steps in one, such as 2/4, for people only."
    )
    weight: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Share of the traffic that the step gives to the candidate, in percent.",
    )
    started_time: Timestamp | None = Field(None, description="When the rollout began.")
    step_started_time: Timestamp | None = Field(None, description="When the step began.")
    shifted_time: Timestamp | None = Field(
        None,
        description="When the step's weight took effect; hold and samples count from here.",
    )
    switched_time: Timestamp | None = Field(
        None, description="When traffic moved. Absent: it has not."
    )
    progress_time: Timestamp | None = Field(
        None, description="When it last made progress; spec.rollout.deadline counts from here."
    )
    estimated_completion_time: Timestamp | None = Field(
        None,
        description=(
            "When it will be complete if every check passes in time. Absent: nothing moves, or a "
            "person has to act first."
        ),
    )
    deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=86400,
        description="spec.rollout.deadline as it was when the rollout began, in seconds.",
    )
    progress_replicas: int | None = Field(
        None,
        ge=0,
        le=MAX_REPLICAS,
        description="Ready replicas of the candidate when it last made progress.",
    )
    stable_revision: RevisionHash | None = Field(
        None,
        description="Hash of the stable revision. Absent: none has been ready yet.",
    )
    stable_replicas: int | None = Field(
        None,
        ge=0,
        le=MAX_REPLICAS,
        description="Replicas that stable had when the rollout began; it keeps as many to the end.",
    )
    ready_floor: int | None = Field(
        None,
        ge=0,
        le=MAX_REPLICAS,
        description="Ready replicas of the candidate that its weight rests on.",
    )
    restarts: int | None = Field(
        None,
        ge=0,
        le=MAX_GENERATION,
        description="Restarts of the candidate's containers when it got its weight.",
    )
    previous_revision: RevisionHash | None = Field(
        None, description="Hash of the revision that drains or is kept warm."
    )
    held: Annotated[str, Field(max_length=63)] | None = Field(
        None,
        description="Why the deadline's clock stands still: WaitingForCapacity or Suspended.",
    )
    paused_reason: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Why it is paused, as one CamelCase word. Absent: it is not."
    )
    goal: Annotated[str, Field(max_length=32)] | None = Field(
        None,
        description=(
            "Why it leaves its steps: Full (promote-full skips the rest), Rejected (it goes back for "
            "good) or Superseded (spec asks for another revision). Absent: it goes on step by step."
        ),
    )
    back: bool | None = Field(
        None, description="true: this rollout goes back to a revision that served before."
    )
    checks: Annotated[tuple[CheckResult, ...], Field(max_length=_MAX_RESULTS)] = Field(
        (),
        description="What each check of the step under way, or of the last one, has measured.",
        json_schema_extra=LIST_ATOMIC,
    )
    reason: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="Why the candidate was given up or waits, as one CamelCase word."
    )
    message: Text | None = Field(None, description="Why it was given up or waits, for people.")


class Outcome(StrEnum):
    """What became of a revision."""

    SERVING = "Serving"
    REPLACED = "Replaced"
    REJECTED = "Rejected"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"


class HistoryEntry(Model):
    """One revision that served, or was rejected."""

    version: SemVer = Field(description="The model version.")
    revision: RevisionHash = Field(
        description="The revision's hash, as in the label sluice.dev/revision."
    )
    from_: Timestamp | None = Field(
        None,
        alias="from",
        description="Since when it served; for one that never did, when its rollout began.",
    )
    to: Timestamp | None = Field(None, description="Until when. Absent: it serves.")
    weight: int | None = Field(
        None,
        ge=0,
        le=100,
        description="The greatest share of the traffic that it had, in percent.",
    )
    outcome: Outcome = Field(
        description=(
            "Serving: it is stable. Replaced: another became stable. Rejected: it was given up "
            "before it had any traffic. RolledBack: it failed with traffic, which went back to "
            "stable. Aborted: a person, or a spec set back to stable, ended it. Superseded: spec "
            "asked for another revision before it was stable."
        )
    )
    reason: Text | None = Field(None, description="Why, for people.")


class RequestOutcome(StrEnum):
    """Whether a request was followed."""

    ACCEPTED = "Accepted"
    REFUSED = "Refused"


class HandledRequest(Model):
    """A person's request, and what the operator made of it."""

    request: Annotated[str, Field(max_length=512)] = Field(
        description="The annotation sluice.dev/request as it was; the same text is handled once."
    )
    requested_by: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="Who asked: the annotation sluice.dev/requested-by."
    )
    outcome: RequestOutcome = Field(
        description="Accepted: it was followed. Refused: it was not, and message says why."
    )
    message: Text = Field(description="What was done, or why not, for people.")
    time: Timestamp = Field(description="When it was handled.")
