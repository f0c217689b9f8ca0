"""The course of a rollout: its steps and limits, as they were when it began.

Every strategy is the same machine over other steps: RollingUpdate is one step of 100, BlueGreen a preview
and then 100 with a hold, Canary the steps that the user wrote.  A course is frozen with its revision, so
that an edit of `spec.rollout` applies to the next rollout (product.md).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

from sluice.api.check import CheckType
from sluice.api.inferenceservice import InferenceServiceSpec
from sluice.api.rollout import Approval, OnFailure, Rollout, RolloutStrategy
from sluice.names import canonical_json


class CourseError(ValueError):
    """The stored course can't be read."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what the candidate gets, and what must be so before and after."""

    weight: int  # percent of clients' requests
    share: int  # percent of stable's replicas that the candidate must have ready before
    hold: int = 0  # seconds at this weight before the next step
    approval: bool = False  # whether a person must say promote
    shadow: int = 0  # percent of stable's requests that are mirrored and compared
    agreement: int = 0  # percent of those that must be answered alike; 0: shown only

    @property
    def is_plain(self) -> bool:
        """Whether nothing is waited for at its weight."""
        return not (self.hold or self.approval or self.shadow)


@dataclass(frozen=True, slots=True)
class Course:
    """All steps of one rollout, and what ends it."""

    steps: tuple[Step, ...]
    deadline: int  # seconds without progress
    strategy: str = RolloutStrategy.ROLLING_UPDATE.value
    bake: int = 0  # seconds that the predecessor stays warm after 100 %
    pauses: bool = False  # onFailure: Pause
    quarantine: bool = False
    analysis: Mapping[str, Any] | None = None  # spec.rollout.analysis, as written
    match: tuple[Mapping[str, Any], ...] = field(default=())  # spec.rollout.match, as written
    job: Mapping[str, Any] | None = None  # spec.rollout.prePromotion.job, as written

    @property
    def is_checked(self) -> bool:
        """Whether any check of `analysis` may stop it."""
        return bool(self._deciding)

    @property
    def compares(self) -> bool:
        """Whether any check that may stop it compares the candidate with stable."""
        return any(check.get("type") == CheckType.RELATIVE_TO_STABLE for check in self._deciding)

    @property
    def _deciding(self) -> list[Mapping[str, Any]]:
        checks = (self.analysis or {}).get("checks", ())
        return [check for check in checks if not check.get("dryRun", False)]

    def is_checked_at(self, index: int) -> bool:
        """Whether any check may stop it at the step of this index."""
        return self.is_checked or self.at(index).agreement > 0

    def is_measured_at(self, index: int) -> bool:
        """Whether there is anything to measure at the step of this index, if only to be shown."""
        return self.analysis is not None or self.at(index).shadow > 0

    @property
    def mixes(self) -> bool:
        """Whether clients are answered by both revisions for a while, each request by either."""
        return any(0 < step.weight < 100 for step in self.steps) or bool(self.match)

    def at(self, index: int) -> Step:
        """The step of this index, the last one for an index beyond it."""
        return self.steps[min(index, len(self.steps) - 1)]

    def before(self, index: int) -> int:
        """The weight that the candidate has while it gets ready for the step of this index."""
        return self.at(index - 1).weight if index > 0 else 0


def make_course(spec: InferenceServiceSpec) -> Course:
    """The course that the spec asks for now."""
    rollout = spec.rollout
    return Course(
        steps=tuple(_make_steps(rollout)),
        deadline=int(rollout.deadline_after.total_seconds()),
        strategy=rollout.strategy.value,
        bake=int(rollout.bake_after.total_seconds()),
        pauses=rollout.on_failure is OnFailure.PAUSE,
        quarantine=rollout.quarantine,
        analysis=rollout.analysis.to_dict() if rollout.analysis else None,
        match=tuple(match.to_dict() for match in rollout.match or ()),
        job=rollout.pre_promotion.job.to_dict() if rollout.pre_promotion else None,
    )


def _make_steps(rollout: Rollout) -> list[Step]:
    steps: list[Step] = []
    if rollout.shadow is not None:
        percent = rollout.shadow.percent
        hold = int(rollout.shadow.hold_after.total_seconds())
        least = rollout.shadow.min_agreement_percent
        steps.append(Step(0, percent, hold, shadow=percent, agreement=least))
    match rollout.strategy:
        case RolloutStrategy.CANARY if rollout.canary is not None:
            steps += [
                Step(
                    step.weight,
                    step.weight,
                    int(step.hold_after.total_seconds()),
                    step.approval is Approval.REQUIRED,
                )
                for step in rollout.canary.steps
            ]
        case RolloutStrategy.BLUE_GREEN:
            # A preview is the candidate with all its pods and no client: its own Service and the pinned
            # rule of the route reach it.
            if rollout.blue_green and rollout.blue_green.approval is Approval.REQUIRED:
                steps.append(Step(0, 100, approval=True))
            after = rollout.blue_green.hold_after if rollout.blue_green else timedelta()
            steps.append(Step(100, 100, int(after.total_seconds())))
        case _:
            steps.append(Step(100, 100))
    return steps


def make_way_back(course: Course) -> Course:
    """The course of a rollback: all at once, without holds and checks."""
    return Course((Step(100, 100),), course.deadline, course.strategy)


def without_gateway(course: Course) -> Course:
    """What is left of a course where nothing can give clients by share, or copy their requests."""
    steps = [step for step in course.steps if step.weight in {0, 100} and not step.shadow]
    return replace(course, steps=tuple(steps), match=())


def dump_course(course: Course) -> str:
    """As one line of JSON, the same for the same course, and as it was before there were Jobs."""
    stored = asdict(course)
    if course.job is None:
        del stored["job"]
    return canonical_json(stored)


def load_course(text: str) -> Course:
    """What `dump_course` wrote; CourseError otherwise."""
    try:
        stored = json.loads(text)
        steps = tuple(Step(**step) for step in stored.pop("steps"))
        course = Course(steps=steps, **stored | {"match": tuple(stored.get("match", ()))})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CourseError(f"the recorded course can't be read: {error}") from error
    if not steps or steps[-1].weight != 100:
        raise CourseError("the recorded course doesn't end at weight 100")
    return course
