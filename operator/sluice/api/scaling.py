"""`spec.scaling`: how many replicas, and what moves their number.

It must not know the HorizontalPodAutoscaler's whole shape: only what users may ask of it.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from sluice.api.base import LIST_ATOMIC, OPTIONAL, Model, Rule, list_map

MAX_REPLICAS = 1000


class MetricType(StrEnum):
    """What the autoscaler looks at."""

    CPU = "CPU"
    MEMORY = "Memory"


class ScalingMetric(Model):
    """One target of the autoscaler."""

    type: MetricType = Field(
        description=(
            "CPU or Memory, each as a share of what the server requests. At most one entry per "
            "type; the greatest wish wins."
        )
    )
    target_percent: int = Field(
        ge=1,
        le=1000,
        description="Average use across replicas to hold, in percent of the request, 1 to 1000.",
    )


class PolicyType(StrEnum):
    """How a policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class ScalingPolicy(Model):
    """A limit on the speed of change."""

    type: PolicyType = Field(
        description="Pods: value is a count. Percent: value is a share of replicas."
    )
    value: int = Field(
        ge=1, le=10000, description="How much may change within periodSeconds, 1 or more."
    )
    period_seconds: int = Field(
        ge=1,
        le=1800,
        description="Length of the window that value applies to, in seconds, 1 to 1800.",
    )


class SelectPolicy(StrEnum):
    """Which policy counts when several apply."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class ScalingRules(Model):
    """How scaling goes in one direction."""

    stabilization_window_seconds: int | None = Field(
        None,
        ge=0,
        le=3600,
        description=(
            "How long past wishes count, in seconds, 0 to 3600, so that the number does not "
            "flap. Default 0 up, 300 down."
        ),
    )
    select_policy: SelectPolicy | None = Field(
        None,
        description=(
            "Which policy counts: Max (the greatest change), Min, or Disabled (never in this "
            "direction). Default Max."
        ),
    )
    policies: Annotated[tuple[ScalingPolicy, ...], Field(max_length=4)] = Field(
        (),
        description=(
            "Limits on the speed of change, at most 4. Absent: Kubernetes' defaults (up: 4 pods "
            "or 100 percent in 15 s; down: 100 percent in 15 s)."
        ),
        json_schema_extra=LIST_ATOMIC,
    )


class ScalingBehavior(Model):
    """How fast the number of replicas may change."""

    scale_up: ScalingRules | None = Field(None, description="When replicas are added.")
    scale_down: ScalingRules | None = Field(None, description="When replicas are taken away.")


class Scaling(Model):
    """Bounds and targets of the number of replicas."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxReplicas) || self.maxReplicas >= self.minReplicas",
            "must be greater than or equal to minReplicas",
            field_path=".maxReplicas",
        ),
        Rule(
            "(has(self.maxReplicas) && self.maxReplicas > self.minReplicas) || "
            "!has(self.metrics) || size(self.metrics) == 0",
            "has no effect unless maxReplicas is greater than minReplicas: raise maxReplicas or "
            "remove metrics",
            field_path=".metrics",
        ),
    )

    min_replicas: int = Field(
        1,
        ge=1,
        le=MAX_REPLICAS,
        description="Fewest replicas, 1 to 1000. Default 1.",
    )
    max_replicas: int = Field(
        ge=1,
        le=MAX_REPLICAS,
        description=(
            "Most replicas, minReplicas to 1000. Absent: minReplicas, and nothing scales by itself."
        ),
        json_schema_extra=OPTIONAL,
    )
    metrics: Annotated[tuple[ScalingMetric, ...], Field(max_length=2)] = Field(
        (),
        description="What moves the number between the bounds. Absent, with maxReplicas above "
        "minReplicas: CPU at 70 percent.",
        json_schema_extra=list_map("type"),
    )
    behavior: ScalingBehavior | None = Field(
        None, description="How fast the number may change. Absent: Kubernetes' defaults."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_max(cls, data: Any) -> Any:
        "Absent maxReplicas is minReplicas: no schema can say a default that depends on the"
        "object."
        if not isinstance(data, dict) or "maxReplicas" in data or "max_replicas" in data:
            return data
        low = data.get("minReplicas", data.get("min_replicas", 1))
        return {**data, "max_replicas": low}
