"""The one way in which tests wait: a condition is polled until it holds or its deadline is over.

It must not be given a probe that changes anything.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.05


def wait_for(probe: Callable[[], T], *, what: str, seconds: float = 30.0) -> T:
    """The first truthy value of `probe`; an AssertionError with `what` and the last value otherwise.

    An AssertionError of the probe itself counts as "not yet", and its words are shown at the end.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen: object = probe()
            if seen:
                return seen  # type: ignore[return-value]  # the probe's own value
        except AssertionError as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {seen!r}")
        time.sleep(INTERVAL_S)
