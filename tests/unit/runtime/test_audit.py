import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from sluice.errors import Gone, Transient
from sluice.runtime.api import Api, Page
from sluice.runtime.audit import DEAF_AFTER, Auditor
from sluice.runtime.cache import Cache
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Pump
from sluice.runtime.queue import Queue

THING = Kind("", "v1", "things", "Thing")


def make_thing(name: str, version: int) -> Obj:
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "uid": f"u-{name}",
            "resourceVersion": str(version),
        }
    }


class FakeServer:
    """Lists what it holds, one object a page; ``errors`` come first."""

    def __init__(self) -> None:
        self.things: dict[str, int] = {}
        self.version = 0
        self.errors: list[Exception] = []
        self.lists = 0

    def put(self, name: str) -> int:
        self.version += 1
        self.things[name] = self.version
        return self.version

    def drop(self, name: str) -> None:
        self.version += 1
        del self.things[name]

    async def pages(self, kind: Kind, *, metadata_only: bool = False) -> AsyncIterator[Page]:
        self.lists += 1
        version = str(self.version)
        for number, (name, own) in enumerate(list(self.things.items())):
            if self.errors and number == 1:
                raise self.errors.pop(0)
            yield [make_thing(name, own)], version
        yield [], version


class Office:
    def __init__(self, clock: Any, metrics: Metrics) -> None:
        self.server = FakeServer()
        self.cache = Cache(THING)
        self.queue = Queue("test", clock, metrics)
        pump = Pump(THING, self.cache, lambda obj: [Key("Thing", "n", obj["metadata"]["name"])])
        self.auditor = Auditor(
            cast(Api, self.server), [pump], self.queue, metrics, clock, draw=lambda: 0.5
        )
        self.watch = self.auditor.intakes[THING].take

    async def take_keys(self) -> list[str]:
        names = []
        while len(self.queue):
            key = await self.queue.get()
            self.queue.done(key)
            names.append(key.name)
        return names


@pytest.fixture
async def office(clock: Any, metrics: Metrics) -> Office:
    office = Office(clock, metrics)
    for name in "abc":
        office.server.put(name)
    return office


@pytest.mark.parametrize("error", [None, Gone("expired"), Transient("busy")], ids=str)
async def test_filling_a_cache(office: Office, clock: Any, error: Exception | None) -> None:
    office.server.errors = [error] if error else []
    filling = asyncio.create_task(office.auditor.fill(THING))
    await clock.advance(2)
    await filling
    assert office.cache.synced
    assert len(office.cache) == 3
    assert await office.take_keys() == ["a", "b", "c"]


async def test_a_lost_deletion_is_found(office: Office, metrics: Metrics) -> None:
    await office.auditor.fill(THING)
    await office.take_keys()
    office.server.drop("b")
    assert await office.auditor.audit(THING) == 1
    assert office.cache.get("n", "b") is None
    assert await office.take_keys() == ["b"]
    assert metrics.registry.get_sample_value("sluice_audit_removed_total", {"kind": "Thing"}) == 1
    assert await office.auditor.audit(THING) == 0


async def test_an_object_newer_than_the_list_stays(office: Office) -> None:
    await office.auditor.fill(THING)
    office.cache.upsert(make_thing("new", 99))
    assert await office.auditor.audit(THING) == 0
    assert office.cache.get("n", "new") is not None


async def test_a_watch_that_brings_nothing_is_found_out(office: Office, clock: Any) -> None:
    await office.auditor.fill(THING)
    office.server.put("late")
    await office.auditor.audit(THING)
    assert office.auditor.deaf_kinds() == []
    await clock.advance(DEAF_AFTER + 1)
    await office.auditor.audit(THING)
    assert office.auditor.deaf_kinds() == ["Thing"]
    office.watch("ADDED", make_thing("late", office.server.version))
    await office.auditor.audit(THING)
    assert office.auditor.deaf_kinds() == []


async def test_a_busy_watch_is_not_a_deaf_one(office: Office, clock: Any) -> None:
    await office.auditor.fill(THING)
    for number in range(10):
        version = office.server.put(f"burst-{number}")
        await office.auditor.audit(THING)
        office.watch("ADDED", make_thing(f"burst-{number}", version))
        await clock.advance(10)
        assert office.auditor.deaf_kinds() == []


async def test_audits_come_on_time_and_soon_after_the_watch_listed_anew(
    office: Office, clock: Any
) -> None:
    await office.auditor.fill(THING)
    running = asyncio.create_task(office.auditor.run())
    await clock.advance(1)
    office.server.lists = 0
    await clock.advance(590)
    assert office.server.lists == 0
    await clock.advance(20)
    assert office.server.lists == 1

    office.server.drop("b")
    office.watch(None, make_thing("a", 1))  # the list after a 410, without "b"
    await clock.advance(4)
    assert office.cache.get("n", "b") is not None
    await clock.advance(2)
    assert office.cache.get("n", "b") is None
    running.cancel()


async def test_everything_is_looked_over_once_per_resync(office: Office, clock: Any) -> None:
    await office.auditor.fill(THING)
    await office.take_keys()
    running = asyncio.create_task(office.auditor.run())
    seen = []
    for _ in range(36):
        await clock.advance(100)
        seen += await office.take_keys()
    assert seen == ["a", "b", "c"]
    running.cancel()
