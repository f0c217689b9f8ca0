"""One check of an analysis: a metric, what it is compared with, and its bound.

Types and rules only: how a check is judged is decided elsewhere.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from sluice.api.base import Form, Model, Rule, without_default
from sluice.api.scalars import DECIMAL_PATTERN, Change, Decimal, Label, Rate, Share


class CheckMetric(StrEnum):
    """What a check measures."""

    ERROR_RATE = "ErrorRate"
    LATENCY_P50 = "LatencyP50"
    LATENCY_P95 = "LatencyP95"
    LATENCY_P99 = "LatencyP99"
    THROUGHPUT = "Throughput"
    AGREEMENT = "Agreement"
    QUERY = "Query"

    @property
    def is_latency(self) -> bool:
        """Whether it is a quantile of the time to an answer."""
        return self.value.startswith("Latency")


class CheckType(StrEnum):
    """What a check compares with."""

    ABSOLUTE = "Absolute"
    RELATIVE_TO_STABLE = "RelativeToStable"
    FROM_EVALUATION = "FromEvaluation"


_LATENCY = "self.metric.startsWith('Latency')"
_ABSOLUTE = "self.type == 'Absolute'"
_SAID = "'metric ' + self.metric + ' and type ' + self.type"


def _bound(field: str, where: str, words: str) -> Rule:
    """`field` is there where the CEL `where` holds, and nowhere else; `words` say where that is."""
    return Rule(
        f"has(self.{field}) == ({where})",
        f"belongs to {words}: required there, and not allowed elsewhere",
        message_expression=(
            f"has(self.{field}) ? {_not_allowed(words)} : 'is required with ' + {_SAID}"
        ),
        field_path=f".{field}",
    )


def _forbid(field: str, where: str, words: str) -> Rule:
    """`field` may be there where the CEL `where` holds, and nowhere else."""
    return Rule(
        f"!has(self.{field}) || {where}",
        f"belongs to {words}: not allowed elsewhere",
        message_expression=_not_allowed(words),
        field_path=f".{field}",
    )


def _not_allowed(words: str) -> str:
    return f"'is not allowed with ' + {_SAID} + ': it belongs to {words}'"


Query = Annotated[
    str,
    Field(max_length=2048),
    Form(
        r"([^{]|\{[^{]|\{\{\s*(candidate|stable|service|namespace)\s*\}\})+",
        "must be PromQL; between {{ and }} may stand candidate, stable, service or namespace only",
    ),
]
"""PromQL with variables: `analysis/prometheus.py` fills them in."""


class Check(Model):
    """One thing that a candidate must hold."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"{_ABSOLUTE} || (self.type == 'RelativeToStable' ? !(self.metric in ['Agreement', "
            f"'Query']) : {_LATENCY})",
            "must be Absolute or RelativeToStable for ErrorRate and Throughput; Absolute, "
            "RelativeToStable or FromEvaluation for LatencyP50, LatencyP95 and LatencyP99; "
            "Absolute for Agreement and Query",
            field_path=".type",
        ),
        _bound(
            "maxPercent",
            f"self.metric == 'ErrorRate' && {_ABSOLUTE}",
            "metric ErrorRate with type Absolute",
        ),
        _bound(
            "maxMilliseconds",
            f"{_LATENCY} && {_ABSOLUTE}",
            "metrics LatencyP50, LatencyP95 and LatencyP99 with type Absolute",
        ),
        _bound(
            "minPerSecond",
            f"self.metric == 'Throughput' && {_ABSOLUTE}",
            "metric Throughput with type Absolute",
        ),
        _bound("minPercent", "self.metric == 'Agreement'", "metric Agreement"),
        _bound(
            "maxIncreasePercent",
            f"(self.metric == 'ErrorRate' || {_LATENCY}) && !({_ABSOLUTE})",
            "metrics ErrorRate, LatencyP50, LatencyP95 and LatencyP99 with type RelativeToStable "
            "or FromEvaluation",
        ),
        _bound(
            "maxDecreasePercent",
            f"self.metric == 'Throughput' && !({_ABSOLUTE})",
            "metric Throughput with type RelativeToStable",
        ),
        _bound("query", "self.metric == 'Query'", "metric Query"),
        Rule(
            "has(self.max) || has(self.min) || self.metric != 'Query'",
            "metric Query needs max, min or both",
            field_path=".max",
        ),
        _forbid("max", "self.metric == 'Query'", "metric Query"),
        _forbid("min", "self.metric == 'Query'", "metric Query"),
        Rule(
            "!has(self.max) || !has(self.min) || "
            f"!self.max.matches(r'^{DECIMAL_PATTERN}$') || "
            f"!self.min.matches(r'^{DECIMAL_PATTERN}$') || double(self.min) <= double(self.max)",
            "must be less than or equal to max",
            field_path=".min",
        ),
    )

    name: Annotated[
        Label,
        Rule("self != 'shadow'", "is the check of rollout.shadow: choose another name"),
    ] = Field(
        description=(
            "Name of the check, a DNS label other than shadow; status, events and metrics name it so."
        )
    )
    metric: CheckMetric = Field(
        description=(
            "What is measured. ErrorRate: the share of requests that the server failed "
            "(5xx, overload and answers of a fallback). LatencyP50, LatencyP95, LatencyP99: the "
            "time to an answer that this share of requests stays within. Throughput: answers per "
            "second. Agreement: the share of mirrored requests that candidate "
            "and stable answer alike (needs rollout.shadow). Query: a PromQL query (needs source "
            "Prometheus)."
        )
    )
    type: CheckType = Field(
        description=(
            "What the bound is relative to. Absolute: nothing, the bound stands for itself. "
            "RelativeToStable: what stable does in the same time (ErrorRate, Latency*, "
            "Throughput). FromEvaluation: what spec.evaluation of the candidate's ModelVersion "
            "registered as latencyP50Ms, latencyP95Ms or latencyP99Ms (Latency* only)."
        )
    )
    max_percent: Share | None = Field(
        None,
        description=(
            'ErrorRate, Absolute: the greatest error rate, in percent, such as "1". Above 0, '
            "below 100."
        ),
    )
    max_milliseconds: int | None = Field(
        None,
        ge=1,
        le=60000,
        description="Latency*, Absolute: the greatest latency, in milliseconds, 1 to 60000.",
    )
    min_per_second: Rate | None = Field(
        None,
        description=(
            "Throughput, Absolute: the fewest answers per second and ready replica, such as "
            '"50". Above 0.'
        ),
    )
    min_percent: Share | None = Field(
        None,
        description=(
            'Agreement, Absolute: the least share of like answers, in percent, such as "98". '
            "Above 0, below 100."
        ),
    )
    max_increase_percent: Change | None = Field(
        None,
        description=(
            "ErrorRate or Latency*, RelativeToStable; Latency*, FromEvaluation: how far above the "
            'other value it may be, in percent of that value, such as "20". Above 0. An error rate '
            "of 0.1 percent is always allowed."
        ),
    )
    max_decrease_percent: Share | None = Field(
        None,
        description=(
            "Throughput, RelativeToStable: how far below stable's answers per second, in "
            "proportion to the weights, it may be, in percent of them, such as "
            '"20". Above 0, below 100.'
        ),
    )
    query: Query | None = Field(
        None,
        description=(
            "Query: PromQL that gives one number, at most 2048 characters, asked at every "
            "interval. {{candidate}} and {{stable}} stand for the revisions' hashes, {{service}} "
            "and {{namespace}} for the service. Several answers in a row must agree."
        ),
    )
    max: Decimal | None = Field(
        None, description='Query: the greatest value that passes, such as "0.05".'
    )
    min: Decimal | None = Field(
        None, description='Query: the least value that passes, such as "10".'
    )
    dry_run: bool = Field(
        False,
        description="true: the check is measured and shown, and decides nothing. Default false.",
        json_schema_extra=without_default,
    )
