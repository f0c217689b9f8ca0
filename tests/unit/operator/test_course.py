"""The course of a rollout: its steps from the spec, its record, and what reads it."""

from dataclasses import replace

import pytest

from sluice.api.inferenceservice import InferenceService
from sluice.rollout.course import (
    Course,
    CourseError,
    Step,
    dump_course,
    load_course,
    make_course,
    make_way_back,
    without_gateway,
)
from tests.builders import ERRORS, ServiceBuilder, inference_service

MATCH = [{"headers": [{"name": "x-cohort", "value": "beta"}]}]
SHADOW = {"percent": 10, "hold": "5m", "minAgreementPercent": 98}
DRY = ERRORS | {"name": "dry", "dryRun": True}


def course_of(service: ServiceBuilder) -> Course:
    return make_course(InferenceService.parse(service.obj()).spec)


def service() -> ServiceBuilder:
    return inference_service().traffic()


STEPS: dict[str, tuple[ServiceBuilder, tuple[Step, ...]]] = {
    "nothing said": (inference_service(), (Step(100, 100),)),
    "a canary": (
        service().canary({"weight": 5, "hold": "2m"}, {"weight": 50, "approval": "Required"}, 100),
        (Step(5, 5, 120), Step(50, 50, approval=True), Step(100, 100)),
    ),
    "blue/green": (inference_service().blue_green(), (Step(100, 100),)),
    "blue/green without details": (
        inference_service().rollout(strategy="BlueGreen"),
        (Step(100, 100),),
    ),
    "blue/green with a hold": (inference_service().blue_green("90s"), (Step(100, 100, 90),)),
    "blue/green with approval": (
        inference_service().blue_green(approval=True),
        (Step(0, 100, approval=True), Step(100, 100)),
    ),
    "shadow before a canary": (
        service().canary(50, 100, shadow=SHADOW),
        (Step(0, 10, 300, shadow=10, agreement=98), Step(50, 50), Step(100, 100)),
    ),
    "shadow before blue/green": (
        service().blue_green("90s", approval=True, shadow=SHADOW),
        (
            Step(0, 10, 300, shadow=10, agreement=98),
            Step(0, 100, approval=True),
            Step(100, 100, 90),
        ),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_of_a_spec(name: str) -> None:
    service, steps = STEPS[name]

    assert course_of(service).steps == steps


def test_the_limits_of_a_spec() -> None:
    found = course_of(
        service()
        .canary(100, match=MATCH, bake="10m", deadline="7m", onFailure="Pause", quarantine=True)
        .analysis()
    )

    assert found.deadline == 420
    assert found.strategy == "Canary"
    assert found.bake == 600
    assert found.pauses
    assert found.quarantine
    assert found.analysis is not None
    assert found.analysis["checks"][0]["metric"] == "ErrorRate"
    assert [dict(match) for match in found.match] == MATCH


def test_the_limits_where_nothing_is_said() -> None:
    assert course_of(inference_service()) == Course(
        steps=(Step(100, 100),), deadline=1200, strategy="RollingUpdate"
    )


@pytest.mark.parametrize(
    ("step", "is_plain"),
    [
        (Step(100, 100), True),
        (Step(100, 100, hold=1), False),
        (Step(0, 100, approval=True), False),
        (Step(0, 10, shadow=10), False),
    ],
)
def test_a_plain_step_waits_for_nothing(step: Step, is_plain: bool) -> None:
    assert step.is_plain is is_plain


@pytest.mark.parametrize(
    ("checks", "is_checked"), [([], False), ([ERRORS], True), ([DRY], False), ([DRY, ERRORS], True)]
)
def test_a_dry_check_stops_nothing(checks: list[dict[str, object]], is_checked: bool) -> None:
    analysis = {"checks": checks} if checks else None
    course = Course((Step(100, 100),), 60, analysis=analysis)

    assert course.is_checked is is_checked
    assert course.is_checked_at(0) is is_checked
    assert course.is_measured_at(0) is bool(checks)


def test_an_analysis_without_checks_stops_nothing() -> None:
    assert not Course((Step(100, 100),), 60, analysis={}).is_checked


def test_shadow_is_checked_and_measured_at_its_own_step() -> None:
    shadow = Step(0, 10, 300, shadow=10, agreement=98)
    course = Course((shadow, Step(100, 100)), 60)
    shown = replace(course, steps=(replace(shadow, agreement=0), Step(100, 100)))
    least = replace(course, steps=(replace(shadow, shadow=1, agreement=1), Step(100, 100)))

    assert (course.is_checked_at(0), course.is_checked_at(1)) == (True, False)
    assert (course.is_measured_at(0), course.is_measured_at(1)) == (True, False)
    assert (shown.is_checked_at(0), shown.is_measured_at(0)) == (False, True)
    assert (least.is_checked_at(0), least.is_measured_at(0)) == (True, True)


@pytest.mark.parametrize(
    ("weights", "match", "mixes"),
    [
        ((100,), (), False),
        ((0, 100), (), False),
        ((1, 100), (), True),
        ((99, 100), (), True),
        ((100,), (MATCH[0],), True),
    ],
)
def test_what_mixes_revisions(
    weights: tuple[int, ...], match: tuple[dict[str, object], ...], mixes: bool
) -> None:
    course = Course(tuple(Step(weight, weight) for weight in weights), 60, match=match)

    assert course.mixes is mixes


def test_steps_by_index() -> None:
    course = Course((Step(5, 5), Step(50, 50), Step(100, 100)), 60)

    assert [course.at(index).weight for index in range(5)] == [5, 50, 100, 100, 100]
    assert [course.before(index) for index in range(5)] == [0, 5, 50, 100, 100]


def test_the_way_back_is_all_at_once() -> None:
    course = Course(
        (Step(5, 5, 60), Step(100, 100)), 77, "Canary", bake=9, pauses=True, analysis={"checks": []}
    )

    assert make_way_back(course) == Course((Step(100, 100),), 77, "Canary")


def test_without_a_gateway_there_are_no_shares() -> None:
    shadow = Step(0, 10, 300, shadow=10)
    preview = Step(0, 100, approval=True)
    course = Course(
        (shadow, preview, Step(1, 1), Step(99, 99), Step(100, 100, 60)),
        77,
        bake=9,
        match=(MATCH[0],),
    )

    assert without_gateway(course) == Course((preview, Step(100, 100, 60)), 77, bake=9)


def test_a_record_is_read_back() -> None:
    course = course_of(
        service().canary({"weight": 5, "hold": "2m"}, 100, match=MATCH, bake="10m").analysis()
    )
    text = dump_course(course)

    assert "\n" not in text
    assert load_course(text) == course
    assert dump_course(load_course(text)) == text
    assert isinstance(load_course(text).match, tuple)


def test_a_recorded_job_is_read_as_it_was() -> None:
    job = {"args": ["check"], "retries": 2}
    course = course_of(service().rollout(prePromotion={"job": job}))
    stored = load_course(dump_course(course))

    assert stored == course
    assert stored.job == job


def test_an_old_record_without_match_and_job_is_read_and_stays_as_it_is() -> None:
    text = '{"steps": [{"weight": 100, "share": 100}], "deadline": 60}'

    assert load_course(text) == Course((Step(100, 100),), 60)
    assert '"job"' not in dump_course(load_course(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the recorded course can't be read: "),
        ("[]", "the recorded course can't be read: "),
        ("{}", "the recorded course can't be read: 'steps'"),
        ('{"steps": [{"size": 1}], "deadline": 60}', "the recorded course can't be read: .*size"),
        ('{"steps": 5, "deadline": 60}', "the recorded course can't be read: .*int"),
        ('{"steps": [], "deadline": 60}', "^the recorded course doesn't end at weight 100$"),
        (
            '{"steps": [{"weight": 99, "share": 99}], "deadline": 60}',
            "^the recorded course doesn't end at weight 100$",
        ),
        (
            '{"steps": [{"weight": 100, "share": 1}, {"weight": 5, "share": 5}], "deadline": 60}',
            "^the recorded course doesn't end at weight 100$",
        ),
    ],
)
def test_an_unreadable_record_is_refused(text: str, words: str) -> None:
    with pytest.raises(CourseError, match=words):
        load_course(text)
