"""The leaf types of the API: names, versions, quantities, durations, decimals.

Each says its form, its bound and the message a user gets. No kind is known here.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from sluice.api.base import Form, Rule

DNS_LABEL_PATTERN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN_PATTERN: Final = rf"{DNS_LABEL_PATTERN}(\.{DNS_LABEL_PATTERN})*"
_QUALIFIED: Final = rf"({SUBDOMAIN_PATTERN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_NUMBER: Final = r"(0|[1-9][0-9]*)"
_PRERELEASE: Final = r"(0|[1-9][0-9]*|[0-9]*[a-z-][0-9a-z-]*)"
SEMVER_PATTERN: Final = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRERELEASE}(\.{_PRERELEASE})*)?"
_DURATION: Final = r"([0-9]{1,5}(h|m|s|ms)){1,4}"

Label = Annotated[
    str,
    Field(max_length=63),
    Form(
        DNS_LABEL_PATTERN,
        "must be a DNS label: lower-case letters, digits and '-', beginning and ending with a "
        "letter or digit",
    ),
]
"""A DNS label (RFC 1123), at most 63 characters."""

ObjectName = Annotated[
    str,
    Field(max_length=253),
    Form(
        SUBDOMAIN_PATTERN,
        "must be the name of an object: lower-case letters, digits, '-' and '.', beginning and "
        "ending with a letter or digit",
    ),
]
"""The name of another object in the same namespace (RFC 1123 subdomain)."""

QualifiedName = Annotated[
    str,
    Field(max_length=316),
    Form(
        _QUALIFIED,
        "must be a qualified name: letters, digits, '-', '_' and '.', with an optional DNS "
        "prefix and '/', such as nvidia.com/gpu",
    ),
]
"""A label key or a resource name, optionally with a DNS prefix."""

SemVer = Annotated[
    str,
    Field(max_length=61),
    Form(
        SEMVER_PATTERN,
        "must be one exact semantic version (semver.org 2.0) such as 2.1.0 or 2.1.0-rc.1: three "
        "numbers without leading zeros, pre-releases in lower case, no leading 'v', no build "
        "metadata, no range",
    ),
]
"""An exact semantic version; no build metadata, as two versions may not differ by it alone."""

QUALIFIED_KEYS: Final = Rule(
    f"self.all(k, size(k) <= 316 && k.matches(r'^{_QUALIFIED}$'))",
    "every key must be a qualified name: letters, digits, '-', '_' and '.', with an optional DNS "
    "prefix and '/', such as nvidia.com/gpu",
)
"""For maps: CRDs have no pattern for keys."""

NO_PARENT: Final = Rule(
    "!self.split('/').exists(part, part == '..')",
    "must not have '..' as a part of the path",
)
"""For paths inside something that they must not leave."""

DECIMAL_PATTERN: Final = r"-?[0-9]{1,12}(\.[0-9]{1,12})?"

Decimal = Annotated[
    str,
    Field(max_length=26),
    Form(
        DECIMAL_PATTERN,
        'must be a decimal number in quotes, such as "0.912" or "240"',
    ),
]
"""A decimal number as a string: floats do not survive every client."""

_QUANTITY_MESSAGE: Final = "must be a quantity greater than zero, such as 512Mi, 4Gi or 2G"
QuantityString = Annotated[
    str,
    Field(max_length=32),
    Rule(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        _QUANTITY_MESSAGE,
    ),
]
"""A Kubernetes quantity of bytes, above zero, written as a string."""


def _quantity_text(value: Any) -> Any:
    # A bool is an int in Python and never a quantity.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ResourceQuantity = Annotated[
    str,
    Field(max_length=32),
    BeforeValidator(_quantity_text),
    WithJsonSchema({"x-kubernetes-int-or-string": True}),
    Rule(
        "type(self) == int ? self >= 0 : isQuantity(self) && "
        "!quantity(self).isLessThan(quantity('0'))",
        "must be a quantity, zero or more, such as 500m, 2 or 4Gi",
    ),
]
"""A Kubernetes quantity as it stands in `resources`: `4Gi`, `"500m"` or the bare number `2`."""

Duration = Annotated[
    str,
    Field(max_length=24),
    Form(
        _DURATION,
        "must be a duration such as 90s, 20m or 1h30m: up to four numbers with the units h, m, "
        "s, ms",
    ),
]
"""A duration in Gateway API's form (GEP-2257)."""


def between(low: str, high: str) -> Rule:
    """The rule that holds a Duration to these bounds, both included.

    It says nothing of what is no duration at all: `Duration` does.
    """
    return Rule(
        f"!self.matches(r'^{_DURATION}$') || "
        f"(duration(self) >= duration('{low}') && duration(self) <= duration('{high}'))",
        f"must be between {low} and {high}",
    )


def shorter(field: str, limit: str) -> str:
    """CEL for: the Duration `field` is shorter than the Duration `limit` (or either is none)."""
    return (
        f"!{field}.matches(r'^{_DURATION}$') || !{limit}.matches(r'^{_DURATION}$') || "
        f"duration({field}) < duration({limit})"
    )


ImageReference = Annotated[
    str,
    Field(max_length=512),
    Form(
        r"[^\s@:/][^\s]*",
        "must be an image reference such as registry.example.com/sluice/inference:1.0.0",
    ),
]
"""What a kubelet pulls: a name with a tag or a digest."""

_FRACTION: Final = r"(\.[0-9]{1,6})?"
_BELOW_ONE: Final = r"0\.[0-9]{0,5}[1-9][0-9]{0,5}"

Share = Annotated[
    str,
    Field(max_length=16),
    Form(
        rf"[1-9][0-9]?{_FRACTION}|{_BELOW_ONE}",
        'must be a percentage in quotes, above 0 and below 100, such as "1" or "0.5"',
    ),
]
"""A decimal percentage of a whole; 0 and 100 are out, as no number of samples could show them."""

Change = Annotated[
    str,
    Field(max_length=16),
    Form(
        rf"[1-9][0-9]{{0,3}}{_FRACTION}|{_BELOW_ONE}",
        'must be a percentage in quotes, above 0 and below 10000, such as "20" or "150"',
    ),
]
"""A decimal percentage of change, which may be more than the whole."""

Rate = Annotated[
    str,
    Field(max_length=16),
    Form(
        rf"[1-9][0-9]{{0,8}}{_FRACTION}|{_BELOW_ONE}",
        'must be a decimal number above 0 in quotes, such as "50" or "0.5"',
    ),
]
"""A decimal number per second."""

TEXT_LIMIT: Final = 4096

EnvName = Annotated[
    str,
    Field(max_length=128),
    Form(
        r"[A-Za-z_][A-Za-z0-9_]*",
        "must be the name of an environment variable: letters, digits and '_', not beginning "
        "with a digit",
    ),
]

Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
"""Free text for people."""

Timestamp = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
"""A point in time, RFC 3339."""

LabelValue = Annotated[
    str,
    Field(max_length=63),
    Form(
        "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        "must be a label value: letters, digits, '-', '_' and '.', beginning and ending with a "
        "letter or digit, or empty",
    ),
]


MAX_GENERATION: Final = 2**53 - 1
"""The API server reads bounds of integers as floats: beyond this they would not be exact."""

_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_duration(text: str) -> timedelta:
    """The length of a duration such as `1h30m`; ValueError names what is not one."""
    if re.fullmatch(_DURATION, text) is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 20m or 1h30m")
    parts = re.findall(r"([0-9]+)(ms|h|m|s)", text)
    return timedelta(seconds=sum(int(number) * _SECONDS[unit] for number, unit in parts))
