from collections.abc import Iterable
from typing import Any

import pytest

from sluice.runtime.cache import Cache
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Intake, Pump
from sluice.runtime.queue import Queue

CHILD = Kind("", "v1", "children", "Child")


def make_child(version: int, owner: str = "a", colour: str = "red", uid: str = "u1") -> Obj:
    return {
        "metadata": {"namespace": "n", "name": "c", "uid": uid, "resourceVersion": str(version)},
        "owner": owner,
        "colour": colour,
    }


def owner_of(obj: Obj) -> Iterable[Key]:
    yield Key("Parent", "n", obj["owner"])


def is_repainted(old: Obj | None, new: Obj | None) -> bool:
    return (
        old is None or new is None or (old["colour"], old["owner"]) != (new["colour"], new["owner"])
    )


class Station:
    def __init__(self, clock: Any, metrics: Metrics) -> None:
        self.cache = Cache(CHILD)
        self.queue = Queue("test", clock, metrics)
        self.lists = 0
        pump = Pump(CHILD, self.cache, owner_of, is_repainted)
        self.intake = Intake(pump, self.queue, metrics, clock, self._note)

    def _note(self) -> None:
        self.lists += 1

    async def take_keys(self) -> list[str]:
        names = []
        while len(self.queue):
            key = await self.queue.get()
            self.queue.done(key)
            names.append(key.name)
        return names


@pytest.fixture
def station(clock: Any, metrics: Metrics) -> Station:
    return Station(clock, metrics)


STORIES: dict[str, tuple[list[tuple[str | None, Obj]], list[str]]] = {
    "a new child": ([("ADDED", make_child(1))], ["a"]),
    "a listed child": ([(None, make_child(1))], ["a"]),
    "a change that matters": ([("MODIFIED", make_child(2, colour="blue"))], ["a"]),
    "a change of hands concerns both": ([("MODIFIED", make_child(2, owner="b"))], ["a", "b"]),
    "a deletion": ([("DELETED", make_child(2))], ["a"]),
    "made anew": ([("ADDED", make_child(3, uid="u2"))], ["a"]),
}


@pytest.mark.parametrize(("events", "keys"), STORIES.values(), ids=STORIES.keys())
async def test_whom_an_event_concerns(
    station: Station, events: list[tuple[str | None, Obj]], keys: list[str]
) -> None:
    if "matters" in str(events) or any(kind in ("MODIFIED", "DELETED") for kind, _ in events):
        station.intake.take("ADDED", make_child(1))
        await station.take_keys()
    for kind, obj in events:
        station.intake.take(kind, obj)
    assert await station.take_keys() == keys


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        ("MODIFIED", make_child(2)),
        ("MODIFIED", make_child(1, colour="blue")),
        (None, make_child(1)),
    ],
    ids=["nothing that matters changed", "an old version", "listed again"],
)
async def test_what_concerns_nobody(station: Station, kind: str | None, obj: Obj) -> None:
    station.intake.take("ADDED", make_child(1))
    await station.take_keys()
    station.intake.take(kind, obj)
    assert await station.take_keys() == []


async def test_a_list_after_the_first_is_reported(station: Station) -> None:
    station.intake.take(None, make_child(1))
    assert station.lists == 0
    station.cache.synced = True
    station.intake.take(None, make_child(1))
    station.intake.take("MODIFIED", make_child(2))
    assert station.lists == 1


@pytest.mark.parametrize("broken", [{}, {"metadata": {}}, {"metadata": {"name": "x", "uid": "u"}}])
def test_it_cannot_fail(station: Station, metrics: Metrics, broken: Obj) -> None:
    station.intake.take("ADDED", broken)
    errors = metrics.registry.get_sample_value("sluice_watch_event_errors_total", {"kind": "Child"})
    assert errors == 1
