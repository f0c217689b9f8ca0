"""The thread that owns the backend: what it runs, when, and how those who wait hear of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.engine import Engine, make_item, shrink
from sluice_inference.engine.stack import ImageStack, stack_images
from sluice_inference.engine.ticket import Ticket
from sluice_inference.errors import EngineStoppedError, LoadError, QueueFullError, RunError
from sluice_inference.imaging.plan import Fit, ImagePlan
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.trail import Trail

FACTS = ModelFacts("test", "none", "test", ("TextEmbedding",), (), "s", 1, ImagePlan.square(2))


class GatedBackend:
    """Runs when told to, and remembers its batches."""

    def __init__(
        self,
        load: Callable[[], None] = lambda: None,
        fail: Callable[[Sequence[Payload]], None] = lambda _: None,
    ) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.batches: list[list[Payload]] = []
        self.closed = threading.Event()
        self.stacked: list[bool] = []
        self._load = load
        self._fail = fail

    def load(self) -> ModelFacts:
        self._load()
        return FACTS

    def warmup(self) -> None:
        pass

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        self.batches.append(list(payloads))
        self.stacked.append(isinstance(payloads, ImageStack))
        self.started.set()
        assert self.gate.wait(10)
        self._fail(payloads)
        if kind is Kind.IMAGE:
            sums = stack_images(payloads).sum(axis=(1, 2, 3))
            return [Output(np.asarray([one], dtype=np.float32), None) for one in sums]
        return [Output(np.asarray([len(str(one))], dtype=np.float32), None) for one in payloads]

    def health(self) -> str:
        return ""

    def close(self) -> None:
        self.closed.set()


class Rig:
    """An engine over a gated backend, ready."""

    def __init__(self, backend: GatedBackend, stall_s: float = 30, batch_size: int = 4) -> None:
        self.backend = backend
        self.lifecycle = Lifecycle()
        self.metrics = Metrics()
        self.failures: list[str] = []
        self.settled = threading.Event()
        self.lifecycle.on_change(
            lambda state: self.settled.set() if state in (State.READY, State.FAILED) else None
        )
        self.engine = Engine(
            backend,
            self.lifecycle,
            self.metrics,
            model="tested/1",
            batch_size=batch_size,
            queue_items=12,
            queue_bytes=1 << 28,
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
    second = rig.engine.submit(list("abcdefghi"), soon())
    with pytest.raises(QueueFullError):
        rig.engine.submit(list("jklm"), soon())
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
        model="tested/1",
        batch_size=4,
        queue_items=6,
        queue_bytes=1 << 28,
        stall_s=30,
        on_failed=lambda _: failed.set(),
    )
    engine.start()
    waiting = engine.submit(["a", "b"], soon())
    go.set()
    assert await asyncio.to_thread(failed.wait, 10)
    with pytest.raises(EngineStoppedError):
        await asyncio.wait_for(waiting, 5)
    engine.close(10)


def make_picture(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, dtype=np.uint8)


def read_counter(rig: Rig, name: str) -> float:
    value = rig.metrics.registry.get_sample_value(
        f"sluice_inference_{name}_total", {"model": "tested/1"}
    )
    assert value is not None
    return value


async def test_pictures_come_stacked_and_nobody_gets_another_ones_answer(rig: Rig) -> None:
    for first in range(1, 60, 12):  # more batches than there are arrays to lay them out in
        pictures = [make_picture(value) for value in range(first, first + 12)]
        outcomes = await asyncio.gather(*(rig.engine.submit([one], soon()) for one in pictures))
        assert [int(one.embedding[0]) for (one,) in outcomes] == [
            12 * value for value in range(first, first + 12)
        ]
    assert all(rig.backend.stacked)


async def test_a_full_batch_is_formed_while_the_model_is_busy(rig: Rig) -> None:
    rig.backend.gate.clear()
    first = rig.engine.submit([make_picture(1)], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    others = [rig.engine.submit([make_picture(value)], soon()) for value in range(2, 7)]
    end = time.monotonic() + 10
    while rig.engine.queued > 1:  # four of five have been taken, though the model is at its first
        assert time.monotonic() < end
        await asyncio.sleep(0)
    assert len(rig.backend.batches) == 1
    rig.backend.gate.set()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in rig.backend.batches] == [1, 4, 1]


class NoArraysBackend(GatedBackend):
    """Has no memory left to lay batches out in, and says so as torch does."""

    def make_array(self, shape: tuple[int, ...]) -> np.ndarray:
        raise RuntimeError("CUDA error: out of memory")


async def test_pictures_that_can_not_be_laid_out_are_run_as_they_are() -> None:
    rig = Rig(NoArraysBackend())
    rig.backend.gate.clear()
    first = rig.engine.submit([make_picture(1)], soon())  # laid out by the owner
    assert await asyncio.to_thread(rig.backend.started.wait, 5)
    others = rig.engine.submit([make_picture(value) for value in range(2, 6)], soon())
    end = time.monotonic() + 5
    while rig.engine.queued:  # and these ahead of their run
        assert time.monotonic() < end
        await asyncio.sleep(0.001)
    rig.backend.gate.set()
    outcomes = [*await asyncio.wait_for(first, 5), *await asyncio.wait_for(others, 5)]
    assert [int(one.embedding[0]) for one in outcomes] == [12, 24, 36, 48, 60]
    assert rig.backend.stacked == [False, False]
    rig.engine.close(10)


async def test_with_batches_of_one_no_request_is_left_lying() -> None:
    rig = Rig(GatedBackend(), batch_size=1)
    end = time.monotonic() + 1

    async def ask() -> None:
        while time.monotonic() < end:
            await asyncio.wait_for(rig.engine.submit(["a"], soon()), 5)

    await asyncio.gather(ask(), ask())
    rig.engine.close(10)


async def test_what_was_formed_and_can_not_run_is_turned_away(rig: Rig) -> None:
    rig.backend.gate.clear()
    first = rig.engine.submit(["first"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    others = rig.engine.submit(list("abcde"), soon())
    end = time.monotonic() + 10
    while rig.engine.queued > 1:
        assert time.monotonic() < end
        await asyncio.sleep(0)
    rig.engine.close(0)
    with pytest.raises(EngineStoppedError):
        await others
    rig.backend.gate.set()
    assert len(await first) == 1  # what runs already is answered


async def test_a_request_learns_how_long_it_waited_and_ran(rig: Rig) -> None:
    trail = Trail()
    await rig.engine.submit(["a", "b"], soon(), trail=trail)
    assert [span.stage for span in trail.spans] == ["queue", "run"]


async def test_a_poisonous_item_is_counted_and_fails_alone() -> None:
    def fail(payloads: Sequence[Payload]) -> None:
        if "bad" in payloads:
            raise ValueError("CUDA error: said the client")

    rig = Rig(GatedBackend(fail=fail))
    outcomes = await rig.engine.submit(["a", "bad", "c", "d"], soon())
    assert [isinstance(one, RunError) for one in outcomes] == [False, True, False, False]
    assert (read_counter(rig, "poison"), read_counter(rig, "bisect_runs")) == (1, 4)
    assert rig.engine.health() == ""
    rig.engine.close(10)


async def test_too_little_memory_makes_batches_smaller_and_loses_nobody() -> None:
    def fail(payloads: Sequence[Payload]) -> None:
        if len(payloads) > 2:
            raise MemoryError

    rig = Rig(GatedBackend(fail=fail))
    for _ in range(2):
        outcomes = await rig.engine.submit(list("abcd"), soon())
        assert [type(one) for one in outcomes] == [Output] * 4
    assert [len(batch) for batch in rig.backend.batches] == [4, 2, 2, 2, 2]
    assert (read_counter(rig, "oom"), read_counter(rig, "poison")) == (1, 0)
    rig.engine.close(10)


async def test_an_item_without_memory_fails_and_the_engine_goes_on() -> None:
    def fail(payloads: Sequence[Payload]) -> None:
        if "large" in payloads:
            raise MemoryError

    rig = Rig(GatedBackend(fail=fail))
    for _ in range(3):
        (outcome,) = await rig.engine.submit(["large"], soon())
        assert isinstance(outcome, RunError)
        outcomes = await rig.engine.submit(list("abcd"), soon())
        assert [type(one) for one in outcomes] == [Output] * 4
    assert [len(batch) for batch in rig.backend.batches] == [1, 4] * 3  # batches stay large
    assert (read_counter(rig, "oom"), read_counter(rig, "poison")) == (3, 3)
    assert (rig.lifecycle.state, rig.engine.health()) == (State.READY, "")
    rig.engine.close(10)


async def test_no_memory_for_three_items_in_a_row_ends_the_engine() -> None:
    def fail(_: Sequence[Payload]) -> None:
        raise MemoryError

    rig = Rig(GatedBackend(fail=fail))
    for name in "ab":
        (outcome,) = await rig.engine.submit([name], soon())
        assert isinstance(outcome, RunError)
    with pytest.raises(EngineStoppedError):
        await asyncio.wait_for(rig.engine.submit(["c"], soon()), 5)
    assert await asyncio.to_thread(rig.backend.closed.wait, 10)
    assert rig.failures == ["there was no memory for 3 single items in a row, nor for a small one"]


@pytest.mark.parametrize(
    ("fit", "shape"),
    [
        pytest.param(Fit.KEEP, (32, 32, 3), id="a corner, where pictures have their own size"),
        pytest.param(Fit.STRETCH, (300, 400, 3), id="as it is, where all have one size"),
    ],
)
def test_the_least_item_is_one_that_the_model_takes(fit: Fit, shape: tuple[int, ...]) -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    question = shrink(Prompt(pixels, "what is on this pizza?", "vqa"), fit)
    assert isinstance(question, Prompt)
    picture = shrink(pixels, fit)
    assert isinstance(picture, np.ndarray)
    assert (picture.shape, question.pixels.shape) == (shape, shape)
    assert (question.text, question.task, shrink("olives over tomato", fit)) == (
        "what is ",
        "vqa",
        "olives o",
    )


async def test_a_lost_device_ends_the_engine_and_answers_all() -> None:
    def fail(_: Sequence[Payload]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    rig = Rig(GatedBackend(fail=fail))
    rig.backend.gate.clear()
    running = rig.engine.submit(["a"], soon())
    assert await asyncio.to_thread(rig.backend.started.wait, 10)
    waiting = rig.engine.submit(list("bcdefg"), soon())
    rig.backend.gate.set()
    for one in (running, waiting):
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(one, 5)
    assert await asyncio.to_thread(rig.backend.closed.wait, 10)
    assert rig.lifecycle.state is State.FAILED
    assert "illegal" in rig.failures[0]


async def test_room_is_kept_for_what_is_being_prepared(rig: Rig) -> None:
    with rig.engine.announce({Kind.TEXT: 12}) as announcement:
        with pytest.raises(QueueFullError), rig.engine.announce({Kind.TEXT: 1}):
            pass
        outcomes = rig.engine.submit(["a"] * 12, soon(), announcement=announcement)
    assert len(await outcomes) == 12


@pytest.mark.parametrize(
    ("left", "right", "together"),
    [
        pytest.param("a", "b" * 63, True, id="short texts"),
        pytest.param("a", "b" * 64, False, id="a short text and a long one"),
        pytest.param("a" * 300, "b" * 3000, True, id="texts longer than any tower reads"),
        pytest.param(np.zeros((2, 2, 3)), np.ones((2, 2, 3)), True, id="pictures of one size"),
        pytest.param(np.zeros((2, 2, 3)), np.zeros((2, 4, 3)), False, id="pictures of two sizes"),
        pytest.param(
            Prompt(make_picture(1), "what?", "OCR"),
            Prompt(make_picture(2), "where?", "OCR"),
            True,
            id="one task",
        ),
        pytest.param(
            Prompt(make_picture(1), "what?", "OCR"),
            Prompt(make_picture(1), "what?", "Captioning"),
            False,
            id="two tasks",
        ),
        pytest.param("a", np.zeros((2, 2, 3)), False, id="text and picture"),
    ],
)
async def test_only_like_things_share_a_run(left: Payload, right: Payload, together: bool) -> None:
    ticket = Ticket(asyncio.get_running_loop(), 2)
    lanes = {
        (one.kind, one.bucket)
        for one in (make_item(each, 1, 0, ticket, 0) for each in (left, right))
    }
    assert (len(lanes) == 1) == together
