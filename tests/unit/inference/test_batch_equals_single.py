"""What an input is answered doesn't depend on its neighbours: any mix, in any order, through the engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_inference.engine.backend import Kind, Output
from sluice_inference.engine.engine import Engine
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.models.torch_backend import TorchBackend
from sluice_inference.settings import read_settings
from tests.tiny_spatial import SIZE, write_artifact

# Sums in another order; 1e-7 of a value is lost at each step.
TOLERANCE = 2e-6


class World:
    """A backend twice: one alone, one under an engine."""

    def __init__(self, folder: Path) -> None:
        env = {"MODEL_PATH": str(folder), "MODEL_FORMAT": "Safetensors", "COMPUTE_THREADS": "1"}
        model = read_settings({**env, "BATCH_SIZE": "4"}).model
        self._single = TorchBackend(model)
        self._single.load()
        ready = threading.Event()
        lifecycle = Lifecycle()
        lifecycle.on_change(lambda state: ready.set() if state is State.READY else None)
        self.engine = Engine(
            TorchBackend(model),
            lifecycle,
            Metrics(),
            model="tested/1",
            batch_size=4,
            queue_items=64,
            queue_bytes=1 << 28,
            stall_s=30,
            on_failed=pytest.fail,
        )
        self.engine.start()
        assert ready.wait(30)
        self.run_alone = cache(self._run_alone)

    def _run_alone(self, name: int | str) -> Output:
        kind = Kind.TEXT if isinstance(name, str) else Kind.IMAGE
        (output,) = self._single.run(kind, [make_payload(name)])
        assert isinstance(output, Output)
        return output

    async def run_together(self, requests: list[list[int | str]]) -> list[list[Any]]:
        return await asyncio.gather(
            *(
                self.engine.submit([make_payload(one) for one in names], time.monotonic() + 30)
                for names in requests
            )
        )


def make_payload(name: int | str) -> np.ndarray | str:
    """A text as it is; a number is a picture of noise."""
    if isinstance(name, str):
        return name
    return np.random.default_rng(name).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    made = World(folder)
    yield made
    made.engine.close(10)


words = st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=40).map(" ".join)
inputs = st.one_of(st.integers(0, 9), words)


@settings(max_examples=40)
@given(requests=st.lists(st.lists(inputs, min_size=1, max_size=5), min_size=1, max_size=6))
def test_an_answer_does_not_depend_on_its_neighbours(
    world: World, requests: list[list[int | str]]
) -> None:
    answers = asyncio.run(world.run_together(requests))
    for names, outcomes in zip(requests, answers, strict=True):
        for name, outcome in zip(names, outcomes, strict=True):
            alone = world.run_alone(name)
            np.testing.assert_allclose(outcome.embedding, alone.embedding, atol=TOLERANCE)
            assert (outcome.scores is None) == (alone.scores is None)
            if alone.scores is not None:
                np.testing.assert_allclose(outcome.scores, alone.scores, atol=TOLERANCE)
