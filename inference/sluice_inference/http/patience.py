"""How long whoever asked will wait for the answer: a gateway says so, and gives up on what comes later.

A client that leaves early says nothing of the version that it had asked. A gateway that gave up does: its
client got an error that the server knows nothing of.
"""

from __future__ import annotations

from collections.abc import Iterable

HEADER = b"sluice-timeout-ms"
# Of the gateway's time: the rest is for the ways of request and answer.
SHARE = 0.9
_DIGITS = 9


def read_patience(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Seconds that an answer may take from when the request was whole; None where nobody says."""
    for name, value in headers:
        if name == HEADER:
            is_number = value.isdigit() and len(value) <= _DIGITS
            return SHARE * int(value) / 1000 if is_number and int(value) else None
    return None
