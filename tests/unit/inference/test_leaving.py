"""A client that leaves takes its work along."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from sluice_inference.http.leaving import work_while_wanted


class Line:
    """The connection of one client: says that it is gone when `left` is set."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Goes on until `done` is set, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def run(self) -> str:
        self.begun.set()
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return "answer"


async def test_who_stays_is_answered() -> None:
    work = Work()
    work.done.set()
    before = len(asyncio.all_tasks())
    assert await work_while_wanted(Line().receive, work.run()) == "answer"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before  # nobody watches any more


async def test_who_leaves_is_not_worked_for() -> None:
    line, work = Line(), Work()
    task = asyncio.create_task(work_while_wanted(line.receive, work.run()))
    await work.begun.wait()
    line.left.set()
    with pytest.raises(ClientDisconnect):
        await task
    assert work.was_cancelled


async def test_a_server_that_stops_is_no_client_that_left() -> None:
    line, work = Line(), Work()
    task = asyncio.create_task(work_while_wanted(line.receive, work.run()))
    await work.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_time_of_a_request_goes_on_counting() -> None:
    line, work = Line(), Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await work_while_wanted(line.receive, work.run())
    assert work.was_cancelled
