"""From inputs to outcomes by one model: decode in the pool, queue everything, wait until the deadline.

Between HTTP and the engine; knows neither routes nor models. `Answerer` is what stands here for a route:
one model, or several with something that chooses between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice_inference.engine.backend import ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.engine import Engine
from sluice_inference.errors import EngineStoppedError, QueueFullError, RequestError, RunError
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.metrics import Metrics
from sluice_inference.settings.model import ModelSettings


@dataclass(frozen=True, slots=True)
class Question:
    """A picture that is still in its file's bytes, and what is asked of it. Task as in spec.tasks."""

    image: bytes
    text: str
    task: str


Input = bytes | str | Question
Outcome = Output | RequestError


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks of a model. An input that can't be used already stands as its problem.

    `deadline` is on the event loop's clock. `key` decides, where two models share the requests, which
    of them answers; equal keys meet the same model.
    """

    inputs: Sequence[Input | RequestError]
    deadline: float
    key: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One outcome for each input, in order, and which model gave them.

    `fallback_reason`: why it was not the primary one; empty where it was.
    """

    outcomes: Sequence[Outcome]
    model: ModelSettings
    facts: ModelFacts
    fallback_reason: str = ""


class Answerer(Protocol):
    """Whatever answers jobs."""

    @property
    def facts(self) -> ModelFacts | None:
        """What can be asked here; None while nothing can be."""

    async def answer(self, job: Job) -> Reply:
        """Raises RequestError where the job as a whole can't be answered; a cancelled call drops it."""


class Predictor:
    """Answers jobs with one model of this process."""

    def __init__(
        self, model: ModelSettings, engine: Engine, pool: DecodePool, metrics: Metrics
    ) -> None:
        self._model = model
        self._engine = engine
        self._pool = pool
        self._metrics = metrics

    @property
    def facts(self) -> ModelFacts | None:
        return self._engine.facts

    async def answer(self, job: Job) -> Reply:
        """One outcome for each input, in order.

        Raises RequestError 503 when there is no room or no model yet; a cancelled call drops what it
        queued.
        """
        facts = self._engine.facts
        if facts is None:
            raise RequestError(503, "NOT_READY", "the model is not loaded yet", retry_after_s=1)
        payloads = await asyncio.gather(*(self._prepare(one, facts) for one in job.inputs))
        outcomes: list[Outcome | None] = [
            one if isinstance(one, RequestError) else None for one in payloads
        ]
        chosen = {at: one for at, one in enumerate(payloads) if not isinstance(one, RequestError)}
        if chosen:
            future = self._submit(list(chosen.values()), job.deadline)
            try:
                for at, outcome in zip(chosen, await future, strict=True):
                    outcomes[at] = _explain(outcome)
            finally:
                future.cancel()
        return Reply([one for one in outcomes if one is not None], self._model, facts)

    async def _prepare(
        self, one: Input | RequestError, facts: ModelFacts
    ) -> Payload | RequestError:
        match one:
            case bytes():
                return await self._pool.decode(one, facts.image)
            case Question():
                pixels = await self._pool.decode(one.image, facts.image)
                if isinstance(pixels, RequestError):
                    return pixels
                return Prompt(pixels, one.text, one.task)
            case _:
                return one

    def _submit(
        self, payloads: Sequence[Payload], deadline: float
    ) -> asyncio.Future[list[Output | RunError]]:
        try:
            return self._engine.submit(payloads, deadline)
        except QueueFullError:
            self._metrics.rejected_total.labels("queue_full").inc()
            raise RequestError(
                503,
                "OVERLOADED",
                "the queue is full (QUEUE_MAX_ITEMS); try again after Retry-After",
                retry_after_s=self._engine.estimate_wait_s(),
            ) from None
        except EngineStoppedError:
            raise RequestError(
                503, "STOPPING", "this server is going away; try again", retry_after_s=1
            ) from None


def _explain(outcome: Output | RunError) -> Outcome:
    if isinstance(outcome, Output):
        return outcome
    return RequestError(500, "MODEL_FAILED", "the model could not answer this input; see its log")
