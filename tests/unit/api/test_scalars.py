"""The forms of leaf values: what is taken and what is not."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sluice.api import scalars


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (scalars.Label, "a"),
        (scalars.Label, "0-9"),
        (scalars.ObjectName, "a.b-c.d"),
        (scalars.QualifiedName, "nvidia.com/gpu"),
        (scalars.QualifiedName, "CamelCase_and.dots"),
        (scalars.SemVer, "0.0.0"),
        (scalars.SemVer, "10.20.30-alpha.1.x-y-z.0a"),
        (scalars.Decimal, "-0.5"),
        (scalars.Decimal, "240"),
        (scalars.Duration, "1h30m10s5ms"),
        (scalars.EnvName, "_A1"),
        (scalars.Share, "0.000001"),
        (scalars.Share, "99.999999"),
        (scalars.Share, "1.50"),
        (scalars.Change, "0.50"),
        (scalars.Change, "9999"),
        (scalars.Rate, "0.5"),
        (scalars.Rate, "999999999"),
    ],
)
def test_takes(kind: Any, value: str) -> None:
    assert TypeAdapter(kind).validate_python(value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (scalars.Label, "a\n"),
        (scalars.Label, "-a"),
        (scalars.Label, "a.b"),
        (scalars.ObjectName, "a..b"),
        (scalars.QualifiedName, "a/b/c"),
        (scalars.SemVer, "1.0.0-01"),
        (scalars.SemVer, "1.0.0-"),
        (scalars.SemVer, "1.0.0-A"),
        (scalars.SemVer, "1.0.0\n"),
        (scalars.Decimal, ".5"),
        (scalars.Decimal, "NaN"),
        (scalars.Duration, "1d"),
        (scalars.Duration, "100000s"),
        (scalars.Duration, "1s1s1s1s1s"),
        (scalars.EnvName, "A-B"),
        (scalars.Share, "0"),
        (scalars.Share, "0.000"),
        (scalars.Share, "100"),
        (scalars.Share, "01"),
        (scalars.Share, "-1"),
        (scalars.Change, "0"),
        (scalars.Change, "10000"),
        (scalars.Rate, "0.0"),
        (scalars.Rate, "1e3"),
    ],
)
def test_refuses(kind: Any, value: str) -> None:
    with pytest.raises(ValidationError, match="must be"):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("20m", timedelta(minutes=20)),
        ("1h30m", timedelta(minutes=90)),
        ("1500ms", timedelta(seconds=1.5)),
    ],
)
def test_duration_is_a_length_of_time(text: str, want: timedelta) -> None:
    assert scalars.parse_duration(text) == want


def test_what_is_no_duration_says_so() -> None:
    with pytest.raises(ValueError, match="'soon' is not a duration such as 90s"):
        scalars.parse_duration("soon")


def test_a_bare_number_is_a_quantity_and_a_bool_is_not() -> None:
    adapter = TypeAdapter(scalars.ResourceQuantity)
    assert adapter.validate_python(2) == "2"
    with pytest.raises(ValidationError):
        adapter.validate_python(True)
