"""From inputs to outcomes: who is refused, before what work, and what is dropped with whoever leaves."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from PIL import Image

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload
from sluice_inference.engine.engine import Engine
from sluice_inference.errors import RequestError, RunError
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Job, Predictor
from sluice_inference.settings import read_settings

SETTINGS = read_settings({"BACKEND": "fake"})


def make_png(value: int = 0, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


class GatedBackend:
    """Answers a picture with its first value, when told to."""

    def __init__(self) -> None:
        self.gate, self.started = threading.Event(), threading.Event()
        self.gate.set()
        self.seen = 0

    def load(self) -> ModelFacts:
        return ModelFacts(
            "test", "none", "test", ("ImageEmbedding",), (), "s", 1, ImagePlan.square(8)
        )

    def warmup(self) -> None:
        """Nothing to warm."""

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        self.started.set()
        assert self.gate.wait(10)
        self.seen += len(payloads)
        values = [one if isinstance(one, str) else one[0, 0, 0] for one in payloads]  # type: ignore[index]
        return [
            Output(np.asarray([value], dtype=np.float32), None)
            if kind is Kind.IMAGE
            else RunError("no text")
            for value in values
        ]

    def health(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing is held."""


class Rig:
    """A predictor with room for four items, whose model is ready."""

    def __init__(self) -> None:
        self.backend, self.metrics = GatedBackend(), Metrics()
        lifecycle, ready = Lifecycle(), threading.Event()
        lifecycle.on_change(lambda state: ready.set() if state is State.READY else None)
        self.engine = Engine(
            self.backend,
            lifecycle,
            self.metrics,
            model="tested/1",
            batch_size=4,
            queue_items=4,
            queue_bytes=1 << 28,
            stall_s=30,
            on_failed=pytest.fail,
        )
        self.pool = DecodePool(1, SETTINGS.limits, self.metrics)
        self.predictor = Predictor(SETTINGS.model, self.engine, self.pool, self.metrics)
        self.engine.start()
        assert ready.wait(10)

    def ask(self, *inputs: bytes | str) -> asyncio.Task[object]:
        return asyncio.create_task(self.predictor.answer(Job(inputs, time.monotonic() + 10)))  # type: ignore[arg-type]

    async def occupy(self) -> asyncio.Task[object]:
        """Let the model be at one picture until the gate opens."""
        self.backend.gate.clear()
        first = self.ask(make_png())
        assert await asyncio.to_thread(self.backend.started.wait, 10)
        return first

    def count_decoded(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "sluice_inference_stage_seconds_count", {"stage": "decode"}
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.backend.gate.set()
    await asyncio.to_thread(made.engine.close, 10)
    made.pool.close()


async def test_good_and_bad_inputs_keep_their_places(rig: Rig) -> None:
    reply = await rig.predictor.answer(
        Job([make_png(7), b"no picture", "text", make_png(9)], time.monotonic() + 10)
    )
    seen = [
        one.code if isinstance(one, RequestError) else one.embedding[0]  # type: ignore[index]
        for one in reply.outcomes
    ]
    assert seen == [7, "UNSUPPORTED_MEDIA_TYPE", "MODEL_FAILED", 9]


async def test_what_has_no_room_is_refused_before_it_is_decoded(rig: Rig) -> None:
    first = await rig.occupy()
    waiting = rig.ask(make_png())
    while not rig.engine.queued:  # noqa: ASYNC110 - the queue has no event for the loop
        await asyncio.sleep(0)
    decoded = rig.count_decoded()
    with pytest.raises(RequestError) as caught:
        await rig.ask(*[make_png()] * 4)
    assert (caught.value.status, caught.value.code) == (503, "OVERLOADED")
    assert (caught.value.retry_after_s or 0) >= 1
    assert rig.count_decoded() == decoded
    rig.backend.gate.set()
    await asyncio.gather(first, waiting)


async def test_more_than_the_queue_has_room_for_is_taken_alone(rig: Rig) -> None:
    reply = await rig.predictor.answer(Job([make_png(1)] * 5, time.monotonic() + 10))
    assert [isinstance(one, RequestError) for one in reply.outcomes] == [False] * 5


async def test_work_of_who_left_is_dropped(rig: Rig) -> None:
    first = await rig.occupy()
    gone = rig.ask(make_png(), make_png())
    while not rig.engine.queued:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    last = rig.ask(make_png(), make_png())  # there is room for it, though nothing was taken yet
    rig.backend.gate.set()
    await asyncio.gather(first, last)
    assert rig.backend.seen == 3


async def test_who_waits_when_the_engine_ends_is_told_to_try_again(rig: Rig) -> None:
    first = await rig.occupy()
    waiting = rig.ask(make_png())
    while not rig.engine.queued:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    rig.engine.close(0)
    with pytest.raises(RequestError) as caught:
        await waiting
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (
        503,
        "STOPPING",
        1,
    )
    rig.backend.gate.set()
    await first
