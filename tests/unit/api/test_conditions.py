"""Setting and removing conditions."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sluice.api.conditions import (
    PENDING_CONDITIONS,
    Condition,
    absent,
    find_condition,
    format_time,
    is_true,
    set_condition,
)
from sluice.api.scalars import TEXT_LIMIT

THEN = "2026-11-01T00:00:00Z"
NOW = datetime(2026, 11, 2, 3, 4, 5, tzinfo=UTC)


def condition(type_: str, status: str, reason: str = "Old") -> dict[str, object]:
    return {
        "type": type_,
        "status": status,
        "observedGeneration": 1,
        "lastTransitionTime": THEN,
        "reason": reason,
        "message": "was",
    }


@pytest.mark.parametrize(
    ("before", "want_time"),
    [
        pytest.param([], "2026-11-02T03:04:05Z", id="a new condition begins now"),
        pytest.param([condition("Ready", "True")], THEN, id="same status keeps its time"),
        pytest.param(
            [condition("Ready", "Unknown")], "2026-11-02T03:04:05Z", id="a flipped status is new"
        ),
    ],
)
def test_transition_time_moves_only_with_status(
    before: list[dict[str, object]], want_time: str
) -> None:
    after = set_condition(
        before, "Ready", "True", reason="Serving", message="2/2", observed_generation=7, now=NOW
    )
    assert after == [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 7,
            "lastTransitionTime": want_time,
            "reason": "Serving",
            "message": "2/2",
        }
    ]


def test_others_and_the_order_stay_and_the_argument_is_not_changed() -> None:
    before = [condition("Ready", "True"), condition("Available", "True")]
    after = set_condition(
        before, "Ready", "False", reason="Gone", message="", observed_generation=2, now=NOW
    )
    assert [item["type"] for item in after] == ["Ready", "Available"]
    assert after[1] == condition("Available", "True")
    assert before[0] == condition("Ready", "True")


def test_a_message_too_long_for_the_schema_is_cut() -> None:
    (after,) = set_condition(
        [], "Ready", "False", reason="Long", message="x" * 9999, observed_generation=1, now=NOW
    )
    assert len(after["message"]) == TEXT_LIMIT
    assert after["message"].endswith("…")
    Condition.model_validate(after)


def test_absent_removes_what_is_named() -> None:
    before = [
        condition("Ready", "True"),
        condition("Stalled", "True"),
        condition("Reconciling", "True"),
    ]
    assert absent(before, "Stalled", "Reconciling") == [condition("Ready", "True")]
    assert absent(before, "Unheard") == before


def test_asking() -> None:
    conditions = [condition("Ready", "Unknown"), condition("Available", "True")]
    assert find_condition(conditions, "Stalled") is None
    assert is_true(conditions, "Available")
    assert not is_true(conditions, "Ready")
    assert not is_true(conditions, "Stalled")


def test_time_is_utc_and_a_naive_time_is_refused() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5)))
    assert format_time(local) == "2026-11-02T03:04:05Z"
    with pytest.raises(ValueError, match="timezone-aware"):
        format_time(NOW.replace(tzinfo=None))


def test_the_schema_default_is_made_of_valid_conditions() -> None:
    parsed = {item["type"]: Condition.model_validate(item).status for item in PENDING_CONDITIONS}
    assert parsed == {"Ready": "Unknown", "Reconciling": "True"}
