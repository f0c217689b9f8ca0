import asyncio
from typing import Any

import pytest

from sluice.errors import AlreadyExists, Invalid, Transient
from sluice.runtime import recorder as recording
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.recorder import BURST, INTERVAL, Recorder

THING: Obj = {
    "apiVersion": "example.com/v1",
    "kind": "Thing",
    "metadata": {"namespace": "shop", "name": "a", "uid": "u1"},
}


class FakeServer:
    """Events by name; ``existing`` are there from before, ``error`` is raised instead."""

    def __init__(self) -> None:
        self.created: list[Obj] = []
        self.applied: list[Obj] = []
        self.existing: set[str] = set()
        self.error: Exception | None = None

    async def create(self, kind: Kind, obj: Obj) -> Obj:
        if self.error:
            raise self.error
        if obj["metadata"]["name"] in self.existing:
            raise AlreadyExists("there is one")
        self.existing.add(obj["metadata"]["name"])
        self.created.append(obj)
        return obj

    async def apply(self, kind: Kind, obj: Obj) -> Obj:
        if obj["metadata"]["name"] not in self.existing:
            raise Invalid("no eventTime")
        self.applied.append(obj)
        return obj

    @property
    def counts(self) -> list[int]:
        return [event["series"]["count"] for event in self.applied]


class Desk:
    """A recorder at work."""

    def __init__(self, clock: Any, metrics: Metrics) -> None:
        self.server = FakeServer()
        self.metrics = metrics
        self.recorder = Recorder(
            self.server, clock, metrics, component="tester", instance="tester-0"
        )
        self.task = asyncio.create_task(self.recorder.run())

    def dropped(self, why: str) -> float:
        name = "sluice_events_dropped_total"
        return self.metrics.registry.get_sample_value(name, {"why": why}) or 0.0

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture
async def desk(clock: Any, metrics: Metrics) -> Any:
    desk = Desk(clock, metrics)
    yield desk
    await desk.stop()


async def test_an_event_says_who_what_and_why(desk: Desk, clock: Any) -> None:
    desk.recorder.event(THING, "Warning", "Broken", "the thing is broken", action="Look")
    await clock.settle()
    (event,) = desk.server.created
    name = event["metadata"].pop("name")
    assert name.startswith("a.")
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "eventTime": "2026-01-01T00:16:40.000000Z",
        "reportingController": "tester",
        "reportingInstance": "tester-0",
        "action": "Look",
        "reason": "Broken",
        "type": "Warning",
        "note": "the thing is broken",
        "regarding": {
            "apiVersion": "example.com/v1",
            "kind": "Thing",
            "namespace": "shop",
            "name": "a",
            "uid": "u1",
        },
    }


async def test_repetitions_are_counted_and_written_once_a_minute(desk: Desk, clock: Any) -> None:
    for _ in range(30):
        desk.recorder.event(THING, "Normal", "Ticked", "tick")
        await clock.advance(INTERVAL / 10)
    assert len(desk.server.created) == 1
    assert desk.server.counts == [10, 20, 30]
    await clock.advance(10 * INTERVAL)
    assert desk.server.counts == [10, 20, 30]


@pytest.mark.parametrize(
    "change", [{"reason": "Other"}, {"note": "other"}, {"uid": "u2"}, {"level": "Warning"}]
)
async def test_another_thing_is_another_event(
    desk: Desk, clock: Any, change: dict[str, Any]
) -> None:
    for values in ({}, change):
        chosen: dict[str, Any] = {
            "uid": "u1",
            "level": "Normal",
            "reason": "R",
            "note": "n",
        } | values
        about = THING | {"metadata": THING["metadata"] | {"uid": chosen["uid"]}}
        desk.recorder.event(about, chosen["level"], chosen["reason"], chosen["note"])
    await clock.settle()
    assert len({event["metadata"]["name"] for event in desk.server.created}) == 2


async def test_after_a_restart_the_same_event_goes_on(clock: Any, metrics: Metrics) -> None:
    before, after = Desk(clock, metrics), Desk(clock, metrics)
    after.server = before.server
    after.recorder._api = before.server
    before.recorder.event(THING, "Normal", "Ticked", "tick")
    await clock.settle()
    after.recorder.event(THING, "Normal", "Ticked", "tick")
    await clock.settle()
    assert len(before.server.created) == 1
    assert before.server.counts == [2]
    await before.stop()
    await after.stop()


async def test_an_event_that_the_server_forgot_is_made_again(desk: Desk, clock: Any) -> None:
    desk.recorder.event(THING, "Normal", "Ticked", "tick")
    await clock.advance(3600)
    desk.server.existing.clear()
    desk.recorder.event(THING, "Normal", "Ticked", "tick")
    await clock.advance(INTERVAL)
    assert len(desk.server.created) == 2


async def test_one_noisy_object_is_cut_short(desk: Desk, clock: Any) -> None:
    for number in range(BURST + 5):
        desk.recorder.event(THING, "Normal", "Noise", f"number {number}")
    other = THING | {"metadata": THING["metadata"] | {"uid": "u2", "name": "b"}}
    desk.recorder.event(other, "Normal", "Noise", "from another")
    await clock.settle()
    assert len(desk.server.created) == BURST + 1
    assert desk.dropped("spam") == 5


async def test_a_failure_is_counted_and_ends_nothing(desk: Desk, clock: Any) -> None:
    desk.server.error = Transient("down")
    desk.recorder.event(THING, "Normal", "Lost", "lost")
    await clock.settle()
    assert desk.dropped("error") == 1
    desk.server.error = None
    desk.recorder.event(THING, "Normal", "Told", "told")
    await clock.settle()
    assert [event["reason"] for event in desk.server.created] == ["Told"]


async def test_under_pressure_events_are_dropped_not_waited_for(
    clock: Any, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "QUEUE_SIZE", 3)
    desk = Desk(clock, metrics)
    for number in range(5):
        desk.recorder.event(THING, "Normal", "Noise", f"number {number}")
    assert desk.dropped("full") == 2
    await clock.settle()
    assert len(desk.server.created) == 3
    await desk.stop()


async def test_flush_sends_what_waits_and_the_counts(desk: Desk, clock: Any) -> None:
    desk.recorder.event(THING, "Normal", "Ticked", "tick")
    await clock.settle()
    desk.recorder.event(THING, "Normal", "Ticked", "tick")
    desk.recorder.event(THING, "Normal", "Late", "late")
    await desk.stop()
    await desk.recorder.flush(1.0)
    assert desk.server.counts == [2]
    assert [event["reason"] for event in desk.server.created] == ["Ticked", "Late"]


async def test_long_notes_are_cut_to_what_the_api_takes(desk: Desk, clock: Any) -> None:
    desk.recorder.event(THING, "Normal", "Long", "ü" * 2000)
    await clock.settle()
    note = desk.server.created[0]["note"]
    assert note.endswith("ü…")
    assert 1000 < len(note.encode()) <= 1024
