"""Where pods may and would rather run: affinity, tolerations, spread.

The names and meanings are those of core/v1; nothing of ours is added to them here.
"""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from sluice.api.base import Model, Opaque, Rule
from sluice.api.scalars import LabelValue, QualifiedName


class Affinity(Model):
    """Where pods would rather be, as in core/v1."""

    node_affinity: Opaque | None = Field(
        None,
        description=(
            "Preferred and required nodes, exactly as in a pod's affinity.nodeAffinity. What the "
            "version's GPU requirements ask for is required on top."
        ),
    )
    pod_affinity: Opaque | None = Field(
        None, description="Pods to be near to, exactly as in a pod's affinity.podAffinity."
    )
    pod_anti_affinity: Opaque | None = Field(
        None, description="Pods to be away from, exactly as in a pod's affinity.podAntiAffinity."
    )


class TolerationOperator(StrEnum):
    """How a toleration's key and value are compared."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Model):
    """A taint that the pods put up with."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "key is required unless operator is Exists (which then tolerates every taint)",
            field_path=".key",
        ),
        Rule(
            "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            "value must be absent when operator is Exists",
            field_path=".value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds must be absent unless effect is NoExecute",
            field_path=".tolerationSeconds",
        ),
    )

    key: QualifiedName | None = Field(
        None, description="The taint's key. Absent, with operator Exists: every taint."
    )
    operator: TolerationOperator | None = Field(
        None,
        description="Exists: any value will do. Equal: the value must be the same. Default Equal.",
    )
    value: LabelValue | None = Field(None, description="The taint's value, for operator Equal.")
    effect: TaintEffect | None = Field(
        None,
        description=(
            "The taint's effect: NoSchedule, PreferNoSchedule or NoExecute. Absent: every effect."
        ),
    )
    toleration_seconds: int | None = Field(
        None,
        ge=0,
        le=31_536_000,
        description=(
            "How long a pod stays on a node after a NoExecute taint came, in seconds, up to a "
            "year. Absent: for good."
        ),
    )


class WhenUnsatisfiable(StrEnum):
    """What happens to a pod that would break the spread."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class SpreadConstraint(Model):
    """How the pods spread over nodes or zones."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            "minDomains must be absent unless whenUnsatisfiable is DoNotSchedule",
            field_path=".minDomains",
        ),
    )

    max_skew: int = Field(
        ge=1,
        le=1000,
        description="By how many pods the fullest and the emptiest domain may differ, 1 or more.",
    )
    topology_key: QualifiedName = Field(
        description="Node label whose values are the domains, such as topology.kubernetes.io/zone."
    )
    when_unsatisfiable: WhenUnsatisfiable = Field(
        description=(
            "DoNotSchedule: a pod that would break it waits. ScheduleAnyway: it is only a wish."
        )
    )
    min_domains: int | None = Field(
        None,
        ge=1,
        le=1000,
        description=(
            "Domains that must exist, for DoNotSchedule: with fewer, the least count is taken as "
            "0. Default 1."
        ),
    )
    label_selector: Opaque | None = Field(
        None,
        description=(
            "Which pods are counted, a label selector as in core/v1. Absent: the pods of the "
            "same revision of this service."
        ),
    )
