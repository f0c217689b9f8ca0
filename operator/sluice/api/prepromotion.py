"""`spec.rollout.prePromotion`: what must succeed on the candidate's own pods before any client meets them."""

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from sluice.api.base import LIST_ATOMIC, Model, Rule, cel_list, list_map
from sluice.api.environment import EnvVar
from sluice.api.runtime import Resources
from sluice.api.scalars import Duration, ImageReference, ObjectName, between, parse_duration

JOB_ENV = ("SLUICE_CANDIDATE_URL", "SLUICE_STABLE_URL")
"""What the operator sets in a Job beside the names that it keeps everywhere."""

Words = Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=64)]


class PrePromotionJob(Model):
    """A Job that asks the candidate's own pods, and whose exit code decides."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.image) || has(self.command) || has(self.args)",
            "must say what to run: an image, a command or args",
        ),
        Rule(
            f"!has(self.env) || self.env.all(one, !(one.name in {cel_list(JOB_ENV)}))",
            f"{' and '.join(JOB_ENV)} are set by the operator: remove them",
            field_path=".env",
        ),
    )

    image: ImageReference | None = Field(
        None,
        description=(
            "Image of the Job, which must run as another user than root. Absent: the candidate's "
            "own image, which has Python."
        ),
    )
    command: Words | None = Field(
        None,
        description="What is run instead of the image's entrypoint, at most 64 words.",
        json_schema_extra=LIST_ATOMIC,
    )
    args: Words | None = Field(
        None,
        description="Arguments of the command or entrypoint, at most 64.",
        json_schema_extra=LIST_ATOMIC,
    )
    env: Annotated[tuple[EnvVar, ...], Field(max_length=32)] = Field(
        (),
        description=(
            "Environment variables, at most 32, one per name. The operator adds "
            "SLUICE_CANDIDATE_URL, SLUICE_STABLE_URL, SLUICE_SERVICE, SLUICE_REVISION, MODEL_NAME "
            "and MODEL_VERSION."
        ),
        json_schema_extra=list_map("name"),
    )
    timeout: Annotated[Duration, between("1s", "24h")] = Field(
        "5m",
        description=(
            "How long the Job may take, its retries included, a duration such as 5m, 1s or more "
            "and shorter than rollout.deadline. Default 5m."
        ),
    )
    retries: int = Field(
        0,
        ge=0,
        le=10,
        description="How often a failed pod of the Job is tried again, 0 to 10. Default 0.",
    )
    resources: Resources | None = Field(
        None,
        description="Compute resources. Absent: requests of 100m CPU and 128Mi memory.",
    )
    service_account_name: ObjectName | None = Field(
        None,
        description=(
            "ServiceAccount of the Job's pods, whose token they get. Absent: the one of "
            "spec.runtime, without a token."
        ),
    )

    @property
    def timeout_after(self) -> timedelta:
        """`timeout` as a length of time."""
        return parse_duration(self.timeout)


class PrePromotion(Model):
    """What a candidate must pass before its first client."""

    job: PrePromotionJob = Field(
        description=(
            "Runs once the candidate's pods are ready, before shadow, preview or the first weight. "
            "Where it fails, the candidate is rejected and no client has met it."
        )
    )
