"""Quantities as the API server writes and rewrites them."""

from decimal import Decimal

import pytest

from sluice.quantity import is_same_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0", "0"),
        ("1", "1"),
        ("500m", "0.5"),
        ("1.5Gi", str(1.5 * 2**30)),
        ("2Ki", "2048"),
        ("3k", "3000"),
        ("1e3", "1000"),
        ("1E", "1000000000000000000"),
        ("100n", "0.0000001"),
        ("-1", "-1"),
        (".5", "0.5"),
    ],
)
def test_parse(text: str, want: str) -> None:
    assert parse_quantity(text) == Decimal(want)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "one", "1Mib", "1mi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("one", "other", "want"),
    [
        ("1000m", "1", True),
        ("1024Mi", "1Gi", True),
        ("1G", "1Gi", False),
        ("latest", "latest2", False),
        ("8080", 8080, True),
    ],
)
def test_is_same_quantity(one: object, other: object, want: bool) -> None:
    assert is_same_quantity(one, other) is want
