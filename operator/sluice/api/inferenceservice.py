"""InferenceService: one model version behind one Service, kept running and changed safely.

Types and rules of the kind only: what its state is and what follows from it is decided elsewhere.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field

from sluice.api.base import DEFAULT_EMPTY, JSON, LIST_ATOMIC, Model, Rule, list_map
from sluice.api.conditions import Condition
from sluice.api.metadata import Resource, parse_resource
from sluice.api.runtime import Runtime
from sluice.api.scalars import (
    MAX_GENERATION,
    Duration,
    Label,
    SemVer,
    Text,
    Timestamp,
    parse_duration,
)
from sluice.api.scaling import MAX_REPLICAS, Scaling

__all__ = [
    "HistoryEntry",
    "InferenceService",
    "InferenceServiceSpec",
    "InferenceServiceStatus",
    "ModelReference",
    "Rollout",
    "RolloutState",
    "RolloutStatus",
    "RolloutStrategy",
    "Runtime",
    "Scaling",
    "Track",
]


class ModelReference(Model):
    """Which version of which model to serve."""

    name: Label = Field(description="Name of the model: spec.model of its ModelVersions.")
    version: SemVer = Field(
        description=(
            "The exact version to serve, such as 2.1.0. The ModelVersion <name>-<version> must "
            "be in the same namespace; the service waits until it is. A change rolls the new "
            "version out."
        )
    )


class RolloutStrategy(StrEnum):
    """How a service gets from one revision to the next."""

    ROLLING_UPDATE = "RollingUpdate"


class Rollout(Model):
    """How a new revision takes over."""

    strategy: RolloutStrategy = Field(
        RolloutStrategy.ROLLING_UPDATE,
        description=(
            "RollingUpdate: the candidate's pods come up beside stable's, and traffic moves once "
            "all are ready. Default RollingUpdate."
        ),
    )
    deadline: Annotated[
        Duration,
        Rule(
            "!self.matches(r'^([0-9]{1,5}(h|m|s|ms)){1,4}$') || "
            "(duration(self) >= duration('1s') && duration(self) <= duration('24h'))",
            "must be between 1s and 24h",
        ),
    ] = Field(
        "20m",
        description=(
            "How long a rollout may go without progress, a duration such as 20m, 1s to 24h. "
            "After it the candidate is given up and stable goes on serving. Default 20m."
        ),
    )

    @property
    def deadline_after(self) -> timedelta:
        """`deadline` as a length of time."""
        return parse_duration(self.deadline)


class InferenceServiceSpec(Model):
    """What to serve, how, and how to change it."""

    model: ModelReference = Field(description="The model version to serve.")
    runtime: Runtime = Field(description="How the pods run.")
    scaling: Scaling = Field(
        default_factory=lambda: Scaling.model_validate({}),
        description="How many replicas. Absent: one, and nothing scales by itself.",
        json_schema_extra=DEFAULT_EMPTY,
    )
    rollout: Rollout = Field(
        default_factory=lambda: Rollout.model_validate({}),
        description=(
            "How a new revision takes over. An edit during a rollout applies to the next one."
        ),
        json_schema_extra=DEFAULT_EMPTY,
    )
    suspend: bool = Field(
        False,
        description=(
            "true: the operator changes nothing for this service until it is false again; what "
            "runs goes on running. Default false."
        ),
    )


def _revision_field(of: str) -> str:
    return f"The {of}'s hash, as in the label sluice.dev/revision."


class Track(Model):
    """One revision, as it runs."""

    model: Label = Field(description="Name of the model that it serves.")
    version: SemVer = Field(description="The version that it serves.")
    revision: Annotated[str, Field(max_length=63)] = Field(description=_revision_field("revision"))
    digest: Annotated[str, Field(max_length=71)] | None = Field(
        None, description="Digest of the artifact that it serves."
    )
    replicas: int = Field(ge=0, le=MAX_REPLICAS, description="Replicas that are wanted.")
    ready_replicas: int = Field(ge=0, le=MAX_REPLICAS, description="Replicas that are ready.")
    weight: int = Field(
        ge=0, le=100, description="Share of the traffic that goes to it, in percent."
    )


class RolloutState(StrEnum):
    """Where a rollout stands."""

    PROGRESSING = "Progressing"
    FAILED = "Failed"
    SWITCHING = "Switching"
    DRAINING = "Draining"
    REJECTED = "Rejected"
    COMPLETE = "Complete"


class RolloutStatus(Model):
    """The rollout under way, or the last one."""

    state: RolloutState = Field(
        description=(
            "Progressing: the candidate's pods come up. Failed: a first deployment past its "
            "deadline, still trying. Switching: traffic is about to move. Draining: it has "
            "moved, the previous revision finishes its requests. Rejected: the candidate was "
            "given up. Complete: nothing moves."
        )
    )
    revision: Annotated[str, Field(max_length=63)] = Field(
        description="Hash of the revision that is rolled out."
    )
    started_time: Timestamp | None = Field(None, description="When the rollout began.")
    switched_time: Timestamp | None = Field(
        None, description="When traffic moved. Absent: it has not."
    )
    progress_time: Timestamp | None = Field(
        None, description="When it last made progress; spec.rollout.deadline counts from here."
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
    previous_revision: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Hash of the revision that drains."
    )
    held: Annotated[str, Field(max_length=63)] | None = Field(
        None,
        description="Why the deadline's clock stands still: WaitingForCapacity or Suspended.",
    )
    reason: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="Why the candidate was given up, as one CamelCase word."
    )
    message: Text | None = Field(None, description="Why it was given up, for people.")


class Outcome(StrEnum):
    """What became of a revision."""

    SERVING = "Serving"
    REPLACED = "Replaced"
    REJECTED = "Rejected"


class HistoryEntry(Model):
    """One revision that served, or was rejected."""

    version: SemVer = Field(description="The model version.")
    revision: Annotated[str, Field(max_length=63)] = Field(description=_revision_field("revision"))
    from_: Timestamp | None = Field(
        None,
        alias="from",
        description="Since when it served; for a rejected one, when its rollout began.",
    )
    to: Timestamp | None = Field(None, description="Until when. Absent: it serves.")
    outcome: Outcome = Field(
        description=(
            "Serving: it is stable. Replaced: another became stable. Rejected: it was given up."
        )
    )
    reason: Text | None = Field(None, description="Why, for people.")


class InferenceServiceStatus(Model):
    """What a service runs and where its rollout stands."""

    observed_generation: int | None = Field(
        None,
        ge=0,
        le=MAX_GENERATION,
        description="metadata.generation that this status speaks of.",
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        (),
        description=(
            "Ready: what spec asks for is what serves. Available: stable serves. Reconciling "
            "(work under way), Stalled (a person must act) and Suspended are there only while "
            "true."
        ),
        json_schema_extra=list_map("type"),
    )
    stable: Track | None = Field(
        None, description="The revision that serves. Absent: none has been ready yet."
    )
    candidate: Track | None = Field(
        None, description="The revision that is rolled out. Absent: nothing is on its way."
    )
    rollout: RolloutStatus | None = Field(
        None, description="The rollout under way, or the last one."
    )
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=10)] = Field(
        (), description="The last 10 rollouts, newest first.", json_schema_extra=LIST_ATOMIC
    )
    phase: Annotated[str, Field(max_length=32)] | None = Field(
        None,
        description="The state in one word, for people only: programs read conditions.",
    )
    message: Text | None = Field(
        None, description="The state in one sentence, for people only: programs read conditions."
    )


class InferenceService(Resource):
    """A parsed InferenceService: metadata and spec."""

    spec: InferenceServiceSpec

    @classmethod
    def parse(cls, obj: JSON) -> Self:
        """The InferenceService in `obj`; UserError(InvalidSpec) names the wrong fields by path."""
        return parse_resource(cls, obj)
