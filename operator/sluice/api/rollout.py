"""`spec.rollout`: how a new revision takes over, in which steps, and what ends it.

Types and rules only: what follows from them is decided elsewhere.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from sluice.api.analysis import Analysis, AnalysisSource, PrometheusSource, SourceType
from sluice.api.base import LIST_ATOMIC, Model, Rule
from sluice.api.check import Check, CheckMetric, CheckType
from sluice.api.prepromotion import PrePromotion, PrePromotionJob
from sluice.api.scalars import Duration, between, parse_duration, shorter
from sluice.api.steps import (
    Approval,
    BlueGreen,
    Canary,
    CanaryStep,
    HeaderMatch,
    Match,
    Shadow,
)

__all__ = [
    "Analysis",
    "AnalysisSource",
    "Approval",
    "BlueGreen",
    "Canary",
    "CanaryStep",
    "Check",
    "CheckMetric",
    "CheckType",
    "HeaderMatch",
    "Match",
    "OnFailure",
    "PrePromotion",
    "PrePromotionJob",
    "PrometheusSource",
    "Rollout",
    "RolloutStrategy",
    "Shadow",
    "SourceType",
]


class RolloutStrategy(StrEnum):
    """How a service gets from one revision to the next."""

    ROLLING_UPDATE = "RollingUpdate"
    CANARY = "Canary"
    BLUE_GREEN = "BlueGreen"


class OnFailure(StrEnum):
    """What a failed candidate leads to."""

    ROLLBACK = "Rollback"
    PAUSE = "Pause"


class Rollout(Model):
    """How a new revision takes over."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.canary) == (self.strategy == 'Canary')",
            "belongs to strategy Canary: required there, and not allowed elsewhere",
            message_expression=(
                "has(self.canary) ? 'is not allowed with strategy ' + self.strategy + "
                "': remove it, or set strategy Canary' : 'is required with strategy Canary'"
            ),
            field_path=".canary",
        ),
        Rule(
            "!has(self.blueGreen) || self.strategy == 'BlueGreen'",
            "is allowed with strategy BlueGreen only: remove it, or set strategy BlueGreen",
            field_path=".blueGreen",
        ),
        Rule(
            "!has(self.shadow) || self.strategy in ['Canary', 'BlueGreen']",
            "is allowed with strategy Canary or BlueGreen only",
            field_path=".shadow",
        ),
        Rule(
            "!has(self.match) || self.strategy == 'Canary'",
            "is allowed with strategy Canary only",
            field_path=".match",
        ),
        Rule(
            "!has(self.analysis) || has(self.shadow) || "
            "self.analysis.checks.all(c, c.metric != 'Agreement')",
            "is required by checks with metric Agreement: mirrored requests are what they count",
            field_path=".shadow",
        ),
        Rule(
            "!has(self.canary) || self.canary.steps.all(step, !has(step.hold) || "
            f"{shorter('step.hold', 'self.deadline')})",
            "every hold must be shorter than rollout.deadline",
            message_expression=(
                "'every hold must be shorter than rollout.deadline (' + self.deadline + ')'"
            ),
            field_path=".canary.steps",
        ),
        Rule(
            "!has(self.blueGreen) || !has(self.blueGreen.hold) || "
            f"{shorter('self.blueGreen.hold', 'self.deadline')}",
            "must be shorter than rollout.deadline",
            message_expression="'must be shorter than rollout.deadline (' + self.deadline + ')'",
            field_path=".blueGreen.hold",
        ),
        Rule(
            f"!has(self.shadow) || {shorter('self.shadow.hold', 'self.deadline')}",
            "must be shorter than rollout.deadline",
            message_expression="'must be shorter than rollout.deadline (' + self.deadline + ')'",
            field_path=".shadow.hold",
        ),
        Rule(
            f"!has(self.prePromotion) || {shorter('self.prePromotion.job.timeout', 'self.deadline')}",
            "must be shorter than rollout.deadline",
            message_expression="'must be shorter than rollout.deadline (' + self.deadline + ')'",
            field_path=".prePromotion.job.timeout",
        ),
    )

    strategy: RolloutStrategy = Field(
        RolloutStrategy.ROLLING_UPDATE,
        description=(
            "RollingUpdate: the candidate's pods come up beside stable's, and traffic moves once "
            "all are ready. Canary: traffic moves share by share, as canary.steps say (needs "
            "spec.traffic). BlueGreen: the candidate comes up in full, can be tried and approved, "
            "and all traffic moves at once. Default RollingUpdate."
        ),
    )
    canary: Canary | None = Field(
        None, description="The steps of strategy Canary; required there, and only there."
    )
    blue_green: BlueGreen | None = Field(
        None, description="Details of strategy BlueGreen. Absent: no approval and no hold."
    )
    shadow: Shadow | None = Field(
        None,
        description=(
            "Compare answers on mirrored requests before the candidate gets any traffic. Needs "
            "spec.traffic, and strategy Canary or BlueGreen. Absent: nothing is mirrored."
        ),
    )
    match: Annotated[tuple[Match, ...], Field(min_length=1, max_length=8)] | None = Field(
        None,
        description=(
            "Requests that go to the candidate whatever the weight, from the first step on: those "
            "that fit one of 1 to 8 entries. Strategy Canary only. Absent: none."
        ),
        json_schema_extra=LIST_ATOMIC,
    )
    pre_promotion: PrePromotion | None = Field(
        None,
        description=(
            "What the candidate must pass on its own pods before any client meets it. A first "
            "deployment, a rollback and promote-full go without. Absent: ready pods are enough."
        ),
    )
    analysis: Analysis | None = Field(
        None,
        description=(
            "What the candidate must hold while it takes over. Needs spec.traffic, or strategy "
            "BlueGreen. Absent: ready pods are enough."
        ),
    )
    bake: Annotated[Duration, between("0s", "24h")] = Field(
        "0s",
        description=(
            "How long the previous revision stays warm after the candidate has become stable, a "
            "duration such as 30m, up to 24h: to go back takes seconds. Default 0s."
        ),
    )
    deadline: Annotated[Duration, between("1s", "24h")] = Field(
        "20m",
        description=(
            "How long a rollout may go without progress, a duration such as 20m, 1s to 24h. "
            "After it the candidate is given up and stable goes on serving. Waiting for approval "
            "or for GPUs does not count, nor does bake. Default 20m."
        ),
    )
    on_failure: OnFailure = Field(
        OnFailure.ROLLBACK,
        description=(
            "What a failed check, or a deadline that has passed, leads to. Rollback: all traffic "
            "goes back to stable at once. Pause: the weight stays, and a person decides. Default "
            "Rollback."
        ),
    )
    quarantine: bool = Field(
        False,
        description=(
            "true: a version whose check fails is quarantined in this namespace, and no service "
            "there rolls it out. Default false."
        ),
    )

    @property
    def deadline_after(self) -> timedelta:
        """`deadline` as a length of time."""
        return parse_duration(self.deadline)

    @property
    def bake_after(self) -> timedelta:
        """`bake` as a length of time."""
        return parse_duration(self.bake)
