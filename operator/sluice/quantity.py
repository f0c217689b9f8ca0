"""Kubernetes quantities ("500m", "1Gi", "1e3") as exact numbers, to compare what the API server rewrote.

It must not format them: manifests carry the text that the user wrote.
"""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"^([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d+)|([numkKMGTPE]i?))?$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


def parse_quantity(text: str | int) -> Decimal:
    """The value of a quantity in its base unit; ValueError for what is none."""
    match = _QUANTITY.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 1.5Gi")
    number, exponent, suffix = match.groups()
    if exponent:
        return Decimal(number + exponent)
    if not suffix:
        return Decimal(number)
    if suffix in _BINARY:
        return Decimal(number) * Decimal(1024 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return Decimal(number).scaleb(_DECIMAL[suffix])
    raise ValueError(f"{text!r}: {suffix!r} is not a unit of a quantity")


def is_same_quantity(one: object, other: object) -> bool:
    """Whether two texts are one amount: the API server writes 1000m as 1."""
    try:
        return parse_quantity(str(one)) == parse_quantity(str(other))
    except ValueError:
        return False
