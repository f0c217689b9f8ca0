"""How numbers of checks are written for people: "3.10%", "176ms", "12.5/s".

Spelling only: which number is shown, and what it means, is decided elsewhere.
"""

import math
from typing import Final

NO_DATA: Final = "no data"


def format_share(share: float) -> str:
    """A share of 1 in percent; small ones with more digits, so that a few errors aren't 0.00%."""
    percent = share * 100
    if not math.isfinite(percent):
        return NO_DATA
    return f"{percent:.4f}%" if 0 < percent < 0.1 else f"{percent:.2f}%"


def format_seconds(seconds: float) -> str:
    """A latency in milliseconds; under 10 ms with one digit after the point."""
    if math.isinf(seconds):
        return "over 60s"
    if math.isnan(seconds):
        return NO_DATA
    return f"{seconds * 1000:.1f}ms" if seconds < 0.00995 else f"{seconds * 1000:.0f}ms"


def format_rate(per_second: float) -> str:
    """A rate in answers per second."""
    return f"{format_number(per_second)}/s"


def format_number(value: float) -> str:
    """A plain number, at most four digits that matter and no exponent where people can do without."""
    if not math.isfinite(value):
        return NO_DATA
    return f"{value:.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def format_percent(text: str) -> str:
    """A bound in percent as the user wrote it, without what says nothing."""
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"
