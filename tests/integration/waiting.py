"""The one way in which integration tests wait: for a condition, up to a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 60.0
"""Seconds: far above what anything here takes, for machines that do something else as well."""


async def wait_until(what: str, check: Callable[[], Awaitable[T]], deadline: float = DEADLINE) -> T:
    """The first true result of ``check``; fails naming ``what`` when the deadline is over."""
    end = asyncio.get_running_loop().time() + deadline
    while True:
        result = await check()
        if result:
            return result
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}; last seen: {result!r}")
        await asyncio.sleep(0.05)
