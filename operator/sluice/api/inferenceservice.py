"""InferenceService: one model version behind one Service, kept running and changed safely.

Types and rules of the kind only: what its state is and what follows from it is decided elsewhere.
"""

from typing import Annotated, ClassVar, Self

from pydantic import Field

from sluice.api.base import DEFAULT_EMPTY, JSON, LIST_ATOMIC, Model, Rule, default_to, list_map
from sluice.api.conditions import Condition
from sluice.api.metadata import Resource, parse_resource
from sluice.api.rollout import Rollout, RolloutStrategy
from sluice.api.rolloutstatus import (
    HandledRequest,
    HistoryEntry,
    RevisionHash,
    RolloutState,
    RolloutStatus,
)
from sluice.api.runtime import Runtime
from sluice.api.scalars import MAX_GENERATION, Label, SemVer, Text
from sluice.api.scaling import MAX_REPLICAS, Scaling
from sluice.api.traffic import Traffic

__all__ = [
    "HandledRequest",
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
    "Traffic",
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


class InferenceServiceSpec(Model):
    """What to serve, how, and how to change it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.traffic) || self.rollout.strategy != 'Canary'",
            "Canary needs spec.traffic, as only a gateway can split requests by weight: set "
            "spec.traffic, or use BlueGreen or RollingUpdate",
            field_path=".rollout.strategy",
        ),
        Rule(
            "has(self.traffic) || !has(self.rollout.shadow)",
            "needs spec.traffic, as only a gateway can mirror requests: set spec.traffic, or "
            "remove shadow",
            field_path=".rollout.shadow",
        ),
        Rule(
            "has(self.traffic) || !has(self.rollout.analysis) || "
            "self.rollout.strategy == 'BlueGreen'",
            "needs spec.traffic or strategy BlueGreen: set one of them, or remove analysis",
            field_path=".rollout.analysis",
        ),
    )

    model: ModelReference = Field(description="The model version to serve.")
    runtime: Runtime = Field(description="How the pods run.")
    scaling: Scaling = Field(
        default_factory=lambda: Scaling.model_validate({}),
        description="How many replicas. Absent: one, and nothing scales by itself.",
        json_schema_extra=DEFAULT_EMPTY,
    )
    traffic: Traffic | None = Field(
        None,
        description=(
            "The gateway that clients come through. Absent: no gateway, and clients use the "
            "Service of the service's name."
        ),
    )
    rollout: Rollout = Field(
        default_factory=lambda: Rollout.model_validate({}),
        description=(
            "How a new revision takes over. An edit during a rollout applies to the next one."
        ),
        json_schema_extra=default_to("strategy", RolloutStrategy.ROLLING_UPDATE.value),
    )
    suspend: bool = Field(
        False,
        description=(
            "true: the operator changes nothing for this service until it is false again; what "
            "runs goes on running. Default false."
        ),
    )


class Track(Model):
    """One revision, as it runs."""

    model: Label = Field(description="Name of the model that it serves.")
    version: SemVer = Field(description="The version that it serves.")
    revision: RevisionHash = Field(
        description="The revision's hash, as in the label sluice.dev/revision."
    )
    digest: Annotated[str, Field(max_length=71)] | None = Field(
        None, description="Digest of the artifact that it serves."
    )
    space: Label | None = Field(
        None, description="Embedding space of its answers. Absent: the version has none."
    )
    replicas: int = Field(ge=0, le=MAX_REPLICAS, description="Replicas that are wanted.")
    ready_replicas: int = Field(ge=0, le=MAX_REPLICAS, description="Replicas that are ready.")
    weight: int = Field(
        ge=0, le=100, description="Share of the traffic that goes to it, in percent."
    )


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
    last_handled_request: HandledRequest | None = Field(
        None,
        description=(
            "The last request of a person (annotation sluice.dev/request) and what became of it."
        ),
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
