import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.runtime.clock import LoopClock
from sluice.runtime.kinds import Key
from sluice.runtime.metrics import Metrics
from sluice.runtime.queue import BASE_DELAY, MAX_DELAY, Queue, ShutDown, plan_delay

A, B, C = (Key("Thing", "default", name) for name in "abc")


@pytest.fixture
def queue(clock: Any, metrics: Metrics) -> Queue:
    return Queue("test", clock, metrics, draw=lambda: 1.0)


async def take_all(queue: Queue) -> list[Key]:
    """Every key that waits, each finished at once."""
    taken = []
    while len(queue):
        key = await queue.get()
        queue.done(key)
        taken.append(key)
    return taken


async def test_a_key_waits_once(queue: Queue) -> None:
    for key in (A, B, A, A):
        queue.add(key)
    assert await take_all(queue) == [A, B]


async def test_what_happened_comes_before_what_is_looked_over(queue: Queue) -> None:
    queue.add(A, low=True)
    queue.add(B, low=True)
    queue.add(C)
    queue.add(B)  # something happened to it meanwhile
    assert await take_all(queue) == [C, B, A]


async def test_a_key_added_while_worked_on_comes_again_after_it(queue: Queue) -> None:
    queue.add(A)
    held = await queue.get()
    queue.add(A)
    queue.add(A)
    assert len(queue) == 0
    queue.done(held)
    assert await take_all(queue) == [A]


async def test_the_priority_survives_being_worked_on(queue: Queue) -> None:
    queue.add(A)
    held = await queue.get()
    queue.add(A, low=True)
    queue.add(B, low=True)
    queue.done(held)
    queue.add(C)
    assert await take_all(queue) == [C, B, A]


async def test_of_several_delays_the_earliest_wins(queue: Queue, clock: Any) -> None:
    queue.add_after(A, 10)
    queue.add_after(A, 3)
    queue.add_after(A, 7)
    await clock.advance(2.9)
    assert await take_all(queue) == []
    await clock.advance(0.2)
    assert await take_all(queue) == [A]
    await clock.advance(20)
    assert await take_all(queue) == []


async def test_no_delay_is_at_once(queue: Queue) -> None:
    queue.add_after(A, 0)
    assert await take_all(queue) == [A]


async def test_backoff_doubles_until_forgotten(queue: Queue, clock: Any) -> None:
    waits = []
    for _ in range(3):
        before = clock.monotonic()
        queue.add_rate_limited(A)
        while not len(queue):
            await clock.advance(0.001)
        waits.append(clock.monotonic() - before)
        await take_all(queue)
    queue.forget(A)
    queue.add_rate_limited(A)
    await clock.advance(BASE_DELAY + 0.001)
    assert await take_all(queue) == [A]
    assert waits == pytest.approx([0.005, 0.010, 0.020], abs=0.0021)


@pytest.mark.parametrize(
    ("failures", "draw", "seconds"),
    [
        (0, 1.0, 0.005),
        (0, 0.0, 0.004),
        (1, 1.0, 0.01),
        (10, 1.0, 5.12),
        (16, 1.0, MAX_DELAY),
        (10**6, 1.0, MAX_DELAY),
    ],
)
def test_delay(failures: int, draw: float, seconds: float) -> None:
    assert plan_delay(failures, draw) == pytest.approx(seconds)


async def test_a_waiting_worker_gets_the_key(queue: Queue, clock: Any) -> None:
    waiting = asyncio.create_task(queue.get())
    await clock.settle()
    queue.add_after(A, 1)
    await clock.advance(1)
    assert await waiting == A


async def test_a_cancelled_worker_does_not_swallow_a_key(queue: Queue, clock: Any) -> None:
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await clock.settle()
    queue.add(A)  # wakes the first
    first.cancel()
    await clock.settle()
    assert first.cancelled()
    assert await second == A


async def test_shut_down_ends_the_workers_and_takes_no_more(queue: Queue, clock: Any) -> None:
    queue.add(A)
    held = await queue.get()
    waiting = asyncio.create_task(queue.get())
    await clock.settle()
    queue.add(B)
    queue.shut_down()
    queue.add(C)
    queue.done(held)
    for getting in (waiting, queue.get()):
        with pytest.raises(ShutDown):
            await getting


async def test_it_sees_how_long_the_slowest_takes(queue: Queue, clock: Any) -> None:
    assert queue.longest_running() == 0
    queue.add(A)
    await queue.get()
    await clock.advance(42)
    assert queue.longest_running() == pytest.approx(42)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "low", "after", "limited", "turn"]), st.integers(0, 4)),
    max_size=60,
)


@settings(max_examples=150)
@given(steps=STEPS, workers=st.integers(1, 4), durations=st.lists(st.integers(0, 3), min_size=1))
def test_no_key_runs_twice_at_once_and_none_is_lost(
    steps: list[tuple[str, int]], workers: int, durations: list[int]
) -> None:
    async def scenario() -> None:
        queue = Queue("test", LoopClock(), Metrics(), draw=lambda: 0.0)
        running: set[Key] = set()
        added: dict[Key, int] = {}
        served: dict[Key, int] = {}
        moment = 0

        async def work(worker: int) -> None:
            nonlocal moment
            while True:
                try:
                    key = await queue.get()
                except ShutDown:
                    return
                assert key not in running
                running.add(key)
                moment += 1
                served[key] = moment
                for _ in range(durations[(worker + moment) % len(durations)]):
                    await asyncio.sleep(0)
                running.remove(key)
                queue.done(key)

        tasks = [asyncio.create_task(work(n)) for n in range(workers)]
        for step, number in steps:
            key = Key("Thing", "", str(number))
            moment += 1
            if step == "turn":
                await asyncio.sleep(0)
                continue
            added[key] = moment
            match step:
                case "add":
                    queue.add(key)
                case "low":
                    queue.add(key, low=True)
                case "after":
                    queue.add_after(key, number / 1000)
                case "limited":
                    queue.forget(key)
                    queue.add_rate_limited(key)

        async def wait_served() -> None:
            # Every key was handed out after it was added last.
            while any(served.get(key, 0) <= when for key, when in added.items()):
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait_served(), timeout=5)
        queue.shut_down()
        await asyncio.gather(*tasks)
        assert not running

    asyncio.run(scenario())
