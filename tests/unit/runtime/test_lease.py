import asyncio
import copy
from typing import Any

import pytest

from sluice.errors import AlreadyExists, Conflict, NotFound, Transient
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.lease import Elector, LeaseTimes
from sluice.runtime.metrics import Metrics


class FakeServer:
    """One lease, guarded by its resourceVersion. ``down`` makes every call fail."""

    def __init__(self) -> None:
        self.lease: Obj | None = None
        self.down = False
        self.writes = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        self._check()
        if self.lease is None:
            raise NotFound("no lease")
        return copy.deepcopy(self.lease)

    async def create(self, kind: Kind, obj: Obj) -> Obj:
        self._check()
        if self.lease is not None:
            raise AlreadyExists("there is one")
        return self._store(obj, 1)

    async def replace(self, kind: Kind, obj: Obj) -> Obj:
        self._check()
        if self.lease is None:
            raise NotFound("no lease")
        version = self.lease["metadata"]["resourceVersion"]
        if obj["metadata"]["resourceVersion"] != version:
            raise Conflict("changed")
        return self._store(obj, int(version) + 1)

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        spec: dict[str, Any] = self.lease["spec"]
        return spec

    def _store(self, obj: Obj, version: int) -> Obj:
        self.writes += 1
        self.lease = copy.deepcopy(obj)
        self.lease["metadata"]["resourceVersion"] = str(version)
        return copy.deepcopy(self.lease)

    def _check(self) -> None:
        if self.down:
            raise Transient("the server is down")


class Candidate:
    """An elector at work, and when it led."""

    def __init__(self, server: FakeServer, clock: Any, identity: str) -> None:
        self.clock = clock
        self.elector = Elector(
            server, clock, Metrics(), namespace="n", name="l", identity=identity, times=LeaseTimes()
        )
        self.started: float | None = None
        self.lost: float | None = None
        self.task = asyncio.create_task(self.elector.run(self._start, self._lose))

    def _start(self) -> None:
        self.started = self.clock.monotonic()

    def _lose(self) -> None:
        self.lost = self.clock.monotonic()

    async def stop(self) -> None:
        """As a process that ends in order."""
        self.task.cancel()
        await asyncio.wait({self.task})
        await self.elector.release()

    async def kill(self) -> None:
        """As a process that is killed."""
        self.task.cancel()
        await asyncio.wait({self.task})


async def test_the_first_takes_it_at_once_and_renews(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    assert first.elector.leading
    assert server.spec["holderIdentity"] == "a"
    assert server.spec["leaseDurationSeconds"] == 15
    taken, renewed = server.spec["acquireTime"], server.spec["renewTime"]
    await clock.advance(60)
    assert first.elector.leading
    assert server.spec["acquireTime"] == taken
    assert server.spec["renewTime"] > renewed
    assert server.writes == 31
    await first.kill()


async def test_a_released_lease_is_taken_within_a_retry(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    second = Candidate(server, clock, "b")
    await clock.advance(30)
    assert not second.elector.leading
    await first.stop()
    assert server.spec["holderIdentity"] == ""
    assert not first.elector.leading
    await clock.advance(2)
    assert second.elector.leading
    assert server.spec["leaseTransitions"] == 1
    await second.kill()


async def test_a_dead_holder_is_replaced_when_its_record_has_stood_still(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    second = Candidate(server, clock, "b")
    await clock.advance(20)
    await first.kill()
    died = clock.monotonic()
    await clock.advance(12)
    assert second.started is None
    await clock.advance(6)
    assert second.started is not None
    assert second.started - died <= 17
    await second.kill()


async def test_a_late_comer_waits_a_whole_duration_of_its_own_clock(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    await first.kill()
    # The renew time in the record is long past, by a clock that may be wrong.
    await clock.advance(1000)
    second = Candidate(server, clock, "b")
    await clock.advance(14)
    assert not second.elector.leading
    await clock.advance(3)
    assert second.elector.leading
    await second.kill()


async def test_the_same_identity_goes_on_at_once(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    await first.kill()
    again = Candidate(server, clock, "a")
    await clock.settle()
    assert again.elector.leading
    assert server.spec["leaseTransitions"] == 0
    await again.kill()


@pytest.mark.parametrize(("outage", "survives"), [(3, True), (7, True), (30, False)])
async def test_lost_renewals(clock: Any, outage: float, survives: bool) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.advance(20)
    began = clock.monotonic()
    server.down = True
    await clock.advance(outage)
    server.down = False
    await clock.advance(10)
    assert first.elector.leading is survives
    assert first.task.done() is not survives
    if not survives:
        # Stopped within the deadline, before another may take over.
        assert first.lost is not None
        assert first.lost - began <= 10
    await first.kill()


async def test_a_holder_that_was_replaced_stops(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    server.spec["holderIdentity"] = "b"
    assert server.lease is not None
    server.lease["metadata"]["resourceVersion"] = "77"
    await clock.advance(6)
    assert first.lost is not None
    assert server.spec["holderIdentity"] == "b"
    await first.stop()
    assert server.spec["holderIdentity"] == "b"


async def test_a_holder_does_not_go_on_where_another_led_meanwhile(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    server.spec["holderIdentity"] = ""  # "b" had it, and has released it
    assert server.lease is not None
    server.lease["metadata"]["resourceVersion"] = "77"
    await clock.advance(6)
    assert first.lost is not None


async def test_a_deleted_lease_is_made_again(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    server.lease = None
    await clock.advance(6)
    assert first.elector.leading
    assert server.spec["holderIdentity"] == "a"
    await first.kill()


async def test_never_two_at_once(clock: Any) -> None:
    server = FakeServer()
    candidates = [Candidate(server, clock, name) for name in "abc"]
    for second in range(120):
        server.down = second % 40 > 15
        await clock.advance(1)
        assert sum(candidate.elector.leading for candidate in candidates) <= 1
    for candidate in candidates:
        await candidate.kill()


async def test_releasing_to_a_dead_server_does_not_fail(clock: Any) -> None:
    server = FakeServer()
    first = Candidate(server, clock, "a")
    await clock.settle()
    server.down = True
    await first.stop()
    assert server.spec["holderIdentity"] == "a"


@pytest.mark.parametrize("times", [(10, 10, 2), (15, 2, 2), (15, 16, 2)])
def test_times_that_would_let_two_lead_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="retry < renew deadline < duration"):
        LeaseTimes(*times)
