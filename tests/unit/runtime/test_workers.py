import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sluice.errors import Conflict, Forbidden, Invalid, SluiceError, Transient
from sluice.runtime.clock import LoopClock
from sluice.runtime.kinds import Key
from sluice.runtime.metrics import Metrics
from sluice.runtime.queue import Queue
from sluice.runtime.workers import Result, Workers

KEY = Key("Thing", "default", "a")

# What the first reconcile does, the counted outcome, and when the second one comes (None: never).
OUTCOMES: dict[str, tuple[Callable[[], Result], str, float | None]] = {
    "all is well": (Result, "success", None),
    "come back in a while": (lambda: Result(30), "requeue_after", 30),
    "come back at once": (lambda: Result(0), "requeue_after", 0),
    "our view was old": (lambda: fail(Conflict("changed")), "requeue", 0.005),
    "the server names a time": (lambda: fail(Transient("busy", retry_after=7)), "requeue", 7),
    "the server names no time": (lambda: fail(Transient("busy")), "requeue", 0.005),
    "a right is missing": (lambda: fail(Forbidden("no")), "error", 0.005),
    "the server refuses": (lambda: fail(Invalid("no")), "error", 0.005),
    "a defect": (lambda: fail(ZeroDivisionError()), "error", 0.005),
    "a timeout of its own": (lambda: fail(TimeoutError()), "error", 0.005),
    "any of ours": (lambda: fail(SluiceError("what")), "error", 0.005),
}


def fail(error: Exception) -> Result:
    raise error


@pytest.mark.parametrize(("act", "outcome", "wait"), OUTCOMES.values(), ids=OUTCOMES.keys())
async def test_outcomes(
    clock: Any, metrics: Metrics, act: Callable[[], Result], outcome: str, wait: float | None
) -> None:
    queue = Queue("test", clock, metrics, draw=lambda: 1.0)
    calls: list[float] = []

    async def reconcile(key: Key) -> Result:
        calls.append(clock.monotonic())
        return act() if len(calls) == 1 else Result()

    workers = Workers(queue, {"Thing": reconcile}, metrics, clock, count=2)
    workers.start()
    workers.open()
    queue.add(KEY)
    await clock.settle()
    assert (
        metrics.registry.get_sample_value(
            "controller_runtime_reconcile_total", {"controller": "Thing", "result": outcome}
        )
        == 1
    )
    await clock.advance(60)
    assert [at - calls[0] for at in calls[1:]] == pytest.approx([] if wait is None else [wait])
    assert workers.is_healthy()
    queue.shut_down()
    assert await workers.stop(1)


async def test_an_unknown_kind_of_key_does_not_end_a_worker(clock: Any, metrics: Metrics) -> None:
    queue = Queue("test", clock, metrics)
    workers = Workers(queue, {}, metrics, clock, count=1)
    workers.start()
    workers.open()
    queue.add(KEY)
    await clock.settle()
    assert workers.is_healthy()
    queue.shut_down()
    assert await workers.stop(1)


async def test_nothing_runs_before_the_gate_opens(clock: Any, metrics: Metrics) -> None:
    queue = Queue("test", clock, metrics)
    ran: list[Key] = []

    async def reconcile(key: Key) -> Result:
        ran.append(key)
        return Result()

    workers = Workers(queue, {"Thing": reconcile}, metrics, clock, count=1)
    workers.start()
    queue.add(KEY)
    await clock.settle()
    assert ran == []
    workers.open()
    await clock.settle()
    assert ran == [KEY]
    queue.shut_down()
    assert await workers.stop(1)


@pytest.mark.parametrize(("grace", "finished"), [(5.0, True), (0.0, False)])
async def test_stop_finishes_the_running_key_or_cuts_it_off(
    clock: Any, metrics: Metrics, grace: float, finished: bool
) -> None:
    queue = Queue("test", clock, metrics)
    ended: list[str] = []
    release = asyncio.Event()

    async def reconcile(key: Key) -> Result:
        try:
            await release.wait()
        except asyncio.CancelledError:
            ended.append("cut off")
            raise
        ended.append("finished")
        return Result()

    workers = Workers(queue, {"Thing": reconcile}, metrics, clock, count=1)
    workers.start()
    workers.open()
    queue.add(KEY)
    queue.add(Key("Thing", "default", "never started"))
    await clock.settle()
    queue.shut_down()
    if finished:
        asyncio.get_running_loop().call_soon(release.set)
    assert await workers.stop(grace) is finished
    assert ended == ["finished" if finished else "cut off"]


async def test_a_worker_that_hangs_is_unhealthy(clock: Any, metrics: Metrics) -> None:
    queue = Queue("test", clock, metrics)

    async def reconcile(key: Key) -> Result:
        await asyncio.Event().wait()
        return Result()

    workers = Workers(queue, {"Thing": reconcile}, metrics, clock, count=1, timeout=60)
    workers.start()
    workers.open()
    queue.add(KEY)
    await clock.advance(80)
    assert workers.is_healthy()
    await clock.advance(20)
    assert not workers.is_healthy()
    queue.shut_down()
    assert not await workers.stop(0)


async def test_keys_that_come_back_at_once_leave_others_their_turn(metrics: Metrics) -> None:
    """On the real loop: a reconcile that never waits, for ever, and a task beside it."""
    clock = LoopClock()
    queue = Queue("test", clock, metrics)

    async def reconcile(key: Key) -> Result:
        queue.add(key)
        return Result()

    workers = Workers(queue, {"Thing": reconcile}, metrics, clock, count=1)
    workers.start()
    workers.open()
    queue.add(KEY)
    turns = 0
    async with asyncio.timeout(30):
        while turns < 50:
            await asyncio.sleep(0)
            turns += 1
    queue.shut_down()
    await workers.stop(0.1)

    assert turns == 50
