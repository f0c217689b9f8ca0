"""What a candidate goes through on its way: shadow, canary steps, the blue/green switch, matches.

Types and rules of each alone; the rules between them are in `rollout.py`.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from sluice.api.base import LIST_ATOMIC, Form, Model, Rule, list_map, without_default
from sluice.api.scalars import Duration, between, parse_duration


class Approval(StrEnum):
    """Whether a person must say that it goes on."""

    REQUIRED = "Required"
    NOT_REQUIRED = "NotRequired"


class CanaryStep(Model):
    """One share of the traffic, and what must happen before the next."""

    weight: int = Field(
        ge=1,
        le=100,
        description="Share of the traffic that goes to the candidate, in percent, 1 to 100.",
    )
    hold: Duration | None = Field(
        None,
        description=(
            "How long the step lasts at least, a duration such as 5m, shorter than "
            "rollout.deadline. Absent: until the checks pass."
        ),
    )
    approval: Approval = Field(
        Approval.NOT_REQUIRED,
        description=(
            "Required: after hold and checks the rollout waits until a person promotes it. Default "
            "NotRequired."
        ),
        json_schema_extra=without_default,
    )

    @property
    def hold_after(self) -> timedelta:
        """`hold` as a length of time, zero where it is absent."""
        return _length(self.hold)


class Canary(Model):
    """Traffic moves to the candidate share by share."""

    steps: Annotated[
        tuple[CanaryStep, ...],
        Field(min_length=1, max_length=20),
        Rule(
            "self.map(step, step.weight).isSorted() && "
            "self.all(a, self.exists_one(b, a.weight == b.weight))",
            "weights must rise from step to step",
        ),
        Rule(
            "self.exists(step, step.weight == 100)",
            "the last step must have weight 100",
        ),
    ] = Field(
        description=(
            "The shares of the traffic, 1 to 20, in this order. Weights rise and end with 100."
        ),
        json_schema_extra=LIST_ATOMIC,
    )


class BlueGreen(Model):
    """All traffic moves to the candidate in one write."""

    approval: Approval = Field(
        Approval.NOT_REQUIRED,
        description=(
            "Required: the candidate is up, without traffic, until a person promotes it. Default "
            "NotRequired."
        ),
    )
    hold: Duration | None = Field(
        None,
        description=(
            "How long after the switch the previous revision is kept and the checks go on, a "
            "duration such as 5m, shorter than rollout.deadline. Absent: until the checks pass."
        ),
    )

    @property
    def hold_after(self) -> timedelta:
        """`hold` as a length of time, zero where it is absent."""
        return _length(self.hold)


class Shadow(Model):
    """Before any weight, a share of the requests is answered twice and the answers compared."""

    percent: int = Field(
        ge=1,
        le=100,
        description=(
            "Share of the requests that the gateway mirrors, in percent, 1 to 100. Clients get "
            "stable's answer only."
        ),
    )
    hold: Annotated[Duration, between("1s", "24h")] = Field(
        description=(
            "How long requests are mirrored before the first weight, a duration such as 5m, 1s "
            "or more and shorter than rollout.deadline."
        )
    )
    min_agreement_percent: int = Field(
        ge=0,
        le=100,
        description=(
            "Share of the mirrored requests that candidate and stable must answer alike, in "
            "percent, 0 to 100. 0: compared and shown, never a reason to stop. 100 is judged as "
            "99.9, since no number of requests could prove it."
        ),
    )

    @property
    def hold_after(self) -> timedelta:
        """`hold` as a length of time."""
        return parse_duration(self.hold)


class HeaderMatch(Model):
    """A header that a request must carry."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.name.startsWith('sluice-')",
            "headers that begin with sluice- belong to the operator: choose another name",
            field_path=".name",
        ),
    )

    name: Annotated[
        str,
        Field(max_length=128),
        Form(
            r"[-a-z0-9!#$%&*+.^_|~]+",
            "must be the name of a header in lower case, such as x-cohort (requests may write it "
            "in any case)",
        ),
    ] = Field(
        description="Name of the header, in lower case, such as x-cohort; requests may write it "
        "in any case."
    )
    value: Annotated[
        str,
        Field(max_length=256),
        Form(
            r"[!-~]([ -~]*[!-~])?",
            "must be visible ASCII characters, with spaces only between them",
        ),
    ] = Field(description="The exact value, in the same case.")


class Match(Model):
    """Requests that are the candidate's, by their headers."""

    headers: Annotated[tuple[HeaderMatch, ...], Field(min_length=1, max_length=8)] = Field(
        description="Headers that a request must carry, all of them, 1 to 8, one per name.",
        json_schema_extra=list_map("name"),
    )


def _length(duration: str | None) -> timedelta:
    return timedelta() if duration is None else parse_duration(duration)
