"""`spec.rollout.analysis`: what is measured of a candidate, and what it must hold to go on.

Types and rules only: how samples are taken and when they suffice is decided elsewhere.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from sluice.api.base import Form, Model, Rule, default_to, list_map
from sluice.api.check import Check
from sluice.api.scalars import Duration, between, parse_duration


class SourceType(StrEnum):
    """Where samples come from."""

    PODS = "Pods"
    PROMETHEUS = "Prometheus"


class PrometheusSource(Model):
    """A Prometheus server, or what speaks its query API."""

    url: Annotated[
        str,
        Field(max_length=512),
        Form(
            r"https?://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[-A-Za-z0-9._~]+)*/?",
            "must be http://host[:port][/path] or https://host[:port][/path], without "
            "credentials or a query",
        ),
    ] = Field(
        description=(
            "Address of its HTTP API, such as http://prometheus.monitoring:9090: what "
            "/api/v1/query is put behind."
        )
    )


class AnalysisSource(Model):
    """Where samples come from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.prometheus) == (self.type == 'Prometheus')",
            "belongs to type Prometheus: required there, and not allowed elsewhere",
            message_expression=(
                "has(self.prometheus) ? 'is not allowed with type ' + self.type + "
                "': remove it, or set type Prometheus' : 'is required with type Prometheus'"
            ),
            field_path=".prometheus",
        ),
    )

    type: SourceType = Field(
        SourceType.PODS,
        description=(
            "Pods: the operator reads the pods themselves, and nothing else has to be installed. "
            "Prometheus: it asks a Prometheus that scrapes them. Default Pods."
        ),
    )
    prometheus: PrometheusSource | None = Field(
        None, description="The Prometheus to ask; with type Prometheus only."
    )


class Analysis(Model):
    """What is measured while a candidate has traffic, and what it must hold."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.source.type == 'Prometheus' || self.checks.all(c, c.metric != 'Query')",
            "must be Prometheus for checks with metric Query",
            field_path=".source.type",
        ),
    )

    interval: Annotated[Duration, between("1s", "10m")] = Field(
        "15s",
        description=("Time between two samples, a duration such as 15s, 1s to 10m. Default 15s."),
    )
    source: AnalysisSource = Field(
        default_factory=lambda: AnalysisSource.model_validate({}),
        description="Where samples come from. Absent: the pods.",
        json_schema_extra=default_to("type", SourceType.PODS.value),
    )
    min_samples: int = Field(
        300,
        ge=1,
        le=1_000_000,
        description=(
            "Requests that the candidate must have answered in a step before the step can pass, "
            "1 to 1000000. A candidate that fails is given up sooner; one with too few requests "
            "at rollout.deadline is paused, never rolled back for that. Default 300."
        ),
    )
    checks: Annotated[tuple[Check, ...], Field(min_length=1, max_length=16)] = Field(
        description=(
            "What the candidate must hold in every step, 1 to 16 checks, one per name. A check "
            "passes or fails once the numbers leave no doubt. All must pass to go on; one that "
            "fails acts at once, as rollout.onFailure says. Each has exactly the bound of its "
            "metric and type: ErrorRate maxPercent or maxIncreasePercent; Latency* "
            "maxMilliseconds or maxIncreasePercent; Throughput minPerSecond or "
            "maxDecreasePercent; Agreement minPercent; Query query with max or min."
        ),
        json_schema_extra=list_map("name"),
    )

    @property
    def interval_after(self) -> timedelta:
        """`interval` as a length of time."""
        return parse_duration(self.interval)
