"""The schema of `status.rollout` takes every cursor that the operator writes."""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest

from sluice.api.rolloutstatus import RolloutState, RolloutStatus
from sluice.rollout.cursor import Cursor, Goal, State

VALUES = {
    str: "bcdfghjklm",
    int: 1,
    bool: True,
    datetime | None: datetime(2026, 11, 1, 12, tzinfo=UTC),
}


def make_full(state: State, goal: Goal) -> Cursor:
    """A cursor with a value in every field."""
    types = get_type_hints(Cursor)
    values: dict[str, Any] = {field.name: VALUES.get(types[field.name]) for field in fields(Cursor)}
    return Cursor(**values | {"state": state, "goal": goal})


def test_the_states_are_the_same() -> None:
    assert [state.value for state in RolloutState] == [state.value for state in State]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("goal", Goal)
def test_a_full_cursor_fits_the_schema(state: State, goal: Goal) -> None:
    stored = make_full(state, goal).dump()
    assert len(stored) >= len(fields(Cursor)) - 1  # an empty goal is left out
    assert RolloutStatus.model_validate(stored).to_dict() == stored


def test_every_goal_is_explained() -> None:
    told = RolloutStatus.model_fields["goal"].description or ""
    assert [goal for goal in Goal if goal and f"{goal} (" not in told] == []
