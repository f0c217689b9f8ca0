"""No order of writes, crashes and events breaks a rule; and the search finds what would.

CI looks at 10^5 states, the nightly run at 10^6.
"""

from __future__ import annotations

import pytest

from sluice.requests import Verb
from tests.builders import ServiceBuilder, inference_service
from tests.property.exploration import Report, Setting, explore

CI_STATES = 112_500  # 10^5 and some, so that each setting comes to rest
NIGHTLY_STATES = 1_000_000
STEPS = ({"weight": 50, "hold": "10s"}, 100)

CHECK = {"job": {"args": ["check"], "timeout": "10s"}}


def service() -> ServiceBuilder:
    """Two replicas behind a gateway; every limit a few ticks."""
    return inference_service().scales(2).traffic().deadline("20s")


def plain() -> ServiceBuilder:
    """Two replicas and no gateway."""
    return inference_service().scales(2).deadline("20s")


ANOTHER_SPACE = ("pizza-1", "pizza-2", "pizza-1")

SETTINGS = (
    Setting(
        "the first deployment through a gateway",
        lambda: service().canary(*STEPS),
        flaps=1,
        crashes=1,
        edits=1,
        starts_empty=True,
    ),
    Setting(
        "a canary with checks and a bake",
        lambda: service().canary(*STEPS, bake="10s").analysis(),
        edits=1,
        flaps=1,
        crashes=1,
    ),
    Setting(
        "a canary with approval, asked by people",
        lambda: service().canary({"weight": 50, "approval": "Required"}, 100),
        requests=2,
        crashes=1,
    ),
    Setting(
        "a canary that pauses on failure",
        lambda: service().canary(*STEPS, onFailure="Pause").analysis(),
        requests=1,
        flaps=1,
        verbs=(Verb.PROMOTE, Verb.RESUME, Verb.ABORT),
    ),
    Setting(
        "blue/green with approval, hold and bake, without a gateway",
        lambda: plain().blue_green("10s", approval=True, bake="10s"),
        edits=1,
        flaps=1,
        requests=1,
    ),
    Setting(
        "blue/green across spaces through a gateway",
        lambda: service().blue_green(bake="10s"),
        spaces=ANOTHER_SPACE,
        edits=1,
        flaps=1,
        requests=1,
        verbs=(Verb.ROLLBACK, Verb.PROMOTE),
    ),
    Setting(
        "a canary with a Job before it",
        lambda: service().canary(*STEPS, prePromotion=CHECK),
        edits=1,
        flaps=1,
        crashes=1,
        requests=1,
        verbs=(Verb.RETRY, Verb.PROMOTE_FULL, Verb.ABORT),
    ),
    Setting("a rolling update", plain, edits=2, flaps=1, crashes=1),
    Setting(
        "a rolling update through a gateway, suspended",
        service,
        suspends=2,
        edits=1,
        crashes=1,
    ),
)


def explore_all(limit: int) -> list[Report]:
    return [explore(setting, limit // len(SETTINGS)) for setting in SETTINGS]


def test_no_order_of_events_breaks_a_rule() -> None:
    reports = explore_all(CI_STATES)

    assert sum(report.states for report in reports) >= CI_STATES * 0.9
    for report in reports:
        assert report.resting, f"{report.setting}: nothing came to rest"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_order_of_events_breaks_a_rule_in_depth() -> None:
    reports = explore_all(NIGHTLY_STATES)

    assert sum(report.states for report in reports) > CI_STATES
