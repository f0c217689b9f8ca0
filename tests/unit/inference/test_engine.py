"""The queue, the bisection of bad batches, and the thread that owns the backend."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload
from sluice_inference.engine.bisect import run_isolated
from sluice_inference.engine.engine import Engine
from sluice_inference.engine.queue import Item, WorkQueue
from sluice_inference.errors import EngineStoppedError, LoadError, QueueFullError, RunError
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics

FACTS = ModelFacts("test", "none", "test", ("TextEmbedding",), (), "s", 1, 8)


def make_item(kind: Kind = Kind.TEXT, name: str = "x") -> Item:
    return Item(kind, name, deadline=0, entered=0, ticket=None, index=0)


def make_items(kinds: str) -> list[Item]:
    """'iit' is two images and a text; payloads number them."""
    return [
        make_item(Kind.IMAGE if letter == "i" else Kind.TEXT, str(at))
        for at, letter in enumerate(kinds)
    ]


def always(_: Item) -> bool:
    return True


@pytest.mark.parametrize(
    ("waiting", "most", "batches"),
    [
        pytest.param("ttt", 8, ["012"], id="what is there is taken at once"),
        pytest.param("ttttt", 2, ["01", "23", "4"], id="never more than a batch"),
        pytest.param("tit", 8, ["02", "1"], id="one kind at a time, the oldest first"),
        pytest.param("iitti", 2, ["01", "23", "4"], id="kinds in turn"),
    ],
)
def test_batches_are_taken_in_order(waiting: str, most: int, batches: list[str]) -> None:
    queue = WorkQueue(100)
    queue.put(make_items(waiting))
    taken = [
        "".join(str(item.payload) for item in queue.take(most, always)) for _ in range(len(batches))
    ]
    assert taken == batches
    assert len(queue) == 0


def test_a_request_enters_whole_or_not_at_all() -> None:
    queue = WorkQueue(3)
    queue.put(make_items("tt"))
    with pytest.raises(QueueFullError):
        queue.put(make_items("tt"))
    assert len(queue) == 2
    queue.put(make_items("t"))


def test_items_nobody_wants_are_dropped() -> None:
    queue = WorkQueue(10)
    queue.put(make_items("tttt"))
    taken = queue.take(10, lambda item: item.payload in ("1", "3"))
    assert [item.payload for item in taken] == ["1", "3"]


def test_a_closed_queue_takes_nothing_and_lets_its_taker_go() -> None:
    queue = WorkQueue(10)
    queue.put(make_items("tt"))
    assert len(queue.close()) == 2
    assert queue.take(10, always) == []
    with pytest.raises(EngineStoppedError):
        queue.put(make_items("t"))


@pytest.mark.parametrize(
    ("payloads", "bad", "runs"),
    [
        pytest.param("abcdefgh", "", 1, id="one run when all is well"),
        pytest.param("abcdefgh", "c", 7, id="one culprit is found in few runs"),
        pytest.param("ab", "ab", 3, id="all are bad"),
        pytest.param("a", "a", 1, id="alone and bad"),
    ],
)
def test_a_bad_item_spoils_only_itself(payloads: str, bad: str, runs: int) -> None:
    calls: list[str] = []

    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        calls.append("".join(str(one) for one in batch))
        if set(bad) & set(calls[-1]):
            raise ValueError("poison")
        return [Output(None, None) for _ in batch]

    outcomes = run_isolated(run, list(payloads))
    failed = "".join(
        name for name, one in zip(payloads, outcomes, strict=True) if isinstance(one, RunError)
    )
    assert (failed, len(calls)) == (bad, runs)


class GatedBackend:
    """Runs when told to, and remembers its batches."""

    def __init__(self, load: Callable[[], None] = lambda: None) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.batches: list[list[Payload]] = []
        self.closed = threading.Event()
        self._load = load

    def load(self) -> ModelFacts:
        self._load()
        return FACTS

    def warmup(self) -> None:
        pass

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        self.batches.append(list(payloads))
        self.started.set()
        assert self.gate.wait(10)
        return [Output(np.asarray([len(str(one))], dtype=np.float32), None) for one in payloads]

    def health(self) -> str:
        return ""

    def close(self) -> None:
        self.closed.set()


class Rig:
    """An engine over a gated backend, ready."""

    def __init__(self, backend: GatedBackend, stall_s: float = 30) -> None:
        self.backend = backend
        self.lifecycle = Lifecycle()
        self.failures: list[str] = []
        self.settled = threading.Event()
        self.lifecycle.on_change(
            lambda state: self.settled.set() if state in (State.READY, State.FAILED) else None
        )
        self.engine = Engine(
            backend,
            self.lifecycle,
            Metrics(),
            batch_size=4,
            queue_items=6,
            stall_s=stall_s,
            on_failed=self.failures.append,
        )
        self.engine.start()
        assert self.settled.wait(10)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(GatedBackend(), stall_s=0.01)
    yield made
    made.backend.gate.set()
    made.engine.close(10)
    assert made.backend.closed.is_set()


def soon() -> float:
    return time.monotonic() + 10


async def test_answers_come_back_in_the_inputs_order(rig: Rig) -> None:
    outcomes = await rig.engine.submit(["a", "bbb", "cc"], soon())
    assert [int(one.embedding[0]) for one in outcomes] == [1, 3, 2]


async def test_while_the_model_is_busy_the_next_batch_gathers(rig: Rig) -> None:
    rig.backend.gate.clear()
    first = rig.engine.submit(["first"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    others = [rig.engine.submit([name], soon()) for name in "abcde"]
    rig.backend.gate.set()
    await asyncio.gather(first, *others)
    assert rig.backend.batches == [["first"], ["a", "b", "c", "d"], ["e"]]


async def test_a_full_queue_refuses_and_says_when_to_come_back(rig: Rig) -> None:
    rig.backend.gate.clear()
    first = rig.engine.submit(["first"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    second = rig.engine.submit(list("abcdef"), soon())
    with pytest.raises(QueueFullError):
        rig.engine.submit(["g"], soon())
    assert 1 <= rig.engine.estimate_wait_s() <= 30
    rig.backend.gate.set()
    await asyncio.gather(first, second)


async def test_what_is_cancelled_or_late_is_never_run(rig: Rig) -> None:
    rig.backend.gate.clear()
    first = rig.engine.submit(["first"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    gone = rig.engine.submit(["gone"], soon())
    gone.cancel()
    rig.engine.submit(["late"], time.monotonic() - 1)
    last = rig.engine.submit(["last"], soon())
    rig.backend.gate.set()
    await asyncio.gather(first, last)
    assert rig.backend.batches == [["first"], ["last"]]


async def test_a_batch_that_never_ends_is_unhealthy(rig: Rig) -> None:
    assert rig.engine.health() == ""
    rig.backend.gate.clear()
    stuck = rig.engine.submit(["stuck"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    end = time.monotonic() + 10
    while not rig.engine.health():
        assert time.monotonic() < end
        await asyncio.sleep(0)
    assert "at one batch" in rig.engine.health()
    rig.backend.gate.set()
    await stuck
    assert rig.engine.health() == ""


@pytest.mark.parametrize(
    ("error", "word"),
    [
        pytest.param(LoadError("dimension 3 is not 4"), "dimension 3 is not 4", id="refused"),
        pytest.param(MemoryError("no room"), "MemoryError: no room", id="something else"),
    ],
)
def test_a_load_that_fails_ends_in_the_failed_state(error: Exception, word: str) -> None:
    def load() -> None:
        raise error

    rig = Rig(GatedBackend(load))
    rig.engine.close(10)
    assert (rig.lifecycle.state, rig.failures) == (State.FAILED, [word])
    assert rig.engine.health() == "the engine's thread has ended"


async def test_who_waits_when_the_engine_fails_is_answered_at_once() -> None:
    go = threading.Event()

    def load() -> None:
        assert go.wait(10)
        raise LoadError("no")

    failed = threading.Event()
    engine = Engine(
        GatedBackend(load),
        Lifecycle(),
        Metrics(),
        batch_size=4,
        queue_items=6,
        stall_s=30,
        on_failed=lambda _: failed.set(),
    )
    engine.start()
    waiting = engine.submit(["a", "b"], soon())
    go.set()
    assert await asyncio.to_thread(failed.wait, 10)
    outcomes = await asyncio.wait_for(waiting, 5)
    assert [type(one) for one in outcomes] == [RunError, RunError]
    engine.close(10)
