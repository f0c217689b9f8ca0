import asyncio
from typing import Any

import pytest

from sluice.runtime.bucket import Bucket


async def test_a_burst_is_free_and_then_the_rate_holds(clock: Any) -> None:
    bucket = Bucket(10, 3, clock)
    times: list[float] = []

    async def write() -> None:
        await bucket.acquire()
        times.append(clock.monotonic() - 1000)

    tasks = [asyncio.create_task(write()) for _ in range(6)]
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert times == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])


async def test_a_quiet_time_saves_up_no_more_than_the_burst(clock: Any) -> None:
    bucket = Bucket(10, 2, clock)
    assert [bucket.try_acquire() for _ in range(3)] == [True, True, False]
    await clock.advance(100)
    assert [bucket.try_acquire() for _ in range(3)] == [True, True, False]


async def test_a_cancelled_wait_gives_its_token_back(clock: Any) -> None:
    bucket = Bucket(1, 1, clock)
    await bucket.acquire()
    waiting = asyncio.create_task(bucket.acquire())
    await clock.settle()
    waiting.cancel()
    await clock.settle()
    await clock.advance(1)
    assert bucket.try_acquire()


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_bucket_that_never_fills_is_refused(clock: Any, rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        Bucket(rate, burst, clock)
