"""From inputs to outcomes by one model: decode in the pool, queue everything, wait until the deadline.

Between HTTP and the engine; knows neither routes nor models. `Answerer` is what stands here for a route:
one model, or several with something that chooses between them.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.engine import Engine
from sluice_inference.errors import EngineStoppedError, QueueFullError, RequestError, RunError
from sluice_inference.imaging.fit import Pixels
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.imaging.quality import Quality, find_refusal
from sluice_inference.metrics import Metrics
from sluice_inference.settings.model import ModelSettings
from sluice_inference.settings.quality import QualitySettings
from sluice_inference.trail import Trail


@dataclass(frozen=True, slots=True)
class Question:
    """A picture that is still in its file's bytes, and what is asked of it. Task as in spec.tasks."""

    image: bytes
    text: str
    task: str


Input = bytes | str | Question
Outcome = Output | RequestError


class CacheUse(enum.StrEnum):
    """What a request allows a cache to do with it."""

    ANY = "any"
    FRESH = "fresh"  # it is computed anew, and kept
    NONE = "none"  # it is computed anew, and not kept


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks of a model. An input that can't be used already stands as its problem.

    `deadline` is on the event loop's clock. `tasks`: an answer needs at least one of them. `key`
    decides, where two models share the requests, which of them answers; equal keys meet the same
    model. `may_fall_back`: may another model answer where the chosen one can't? `is_whole`: all
    inputs are to be answered by one model, because the answer has room for one. `needs_scale`: it must
    have a `logit_scale`, which judges the request's own labels. `with_quality`: each picture's output
    is to carry its quality. `trail`: where everybody notes what happened.
    """

    inputs: Sequence[Input | RequestError]
    deadline: float
    key: str = ""
    tasks: Sequence[str] = ()
    may_fall_back: bool = True
    is_whole: bool = False
    needs_scale: bool = False
    cache: CacheUse = CacheUse.ANY
    with_quality: bool = False
    trail: Trail = field(default_factory=Trail)


class ModelName(Protocol):
    """What an answer calls the model that gave it."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def title(self) -> str:
        """NAME/VERSION."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who gave an answer; `fallback_reason` is empty where it was the model that was asked first."""

    model: ModelName
    facts: ModelFacts
    fallback_reason: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One outcome for each input, in order, and which model gave them.

    `fallback_reason`: why it was not the primary one; empty where it was. `others`: where a fallback
    answered only some of the inputs, who answered those, by their index. `is_kept`: the model had no part
    in it, it was all known before.
    """

    outcomes: Sequence[Outcome]
    model: ModelName
    facts: ModelFacts
    fallback_reason: str = ""
    others: Mapping[int, Source] = field(default_factory=dict)
    is_kept: bool = False

    def find_source(self, index: int) -> Source:
        """Who gave outcome `index`. Labels differ between models: take them from here."""
        return self.others.get(index) or Source(self.model, self.facts, self.fallback_reason)

    @property
    def reason(self) -> str:
        """Why a fallback answered all or some of it; empty where none did."""
        first = next(iter(self.others.values()), None)
        return self.fallback_reason or (first.fallback_reason if first else "")


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
        self,
        model: ModelSettings,
        engine: Engine,
        pool: DecodePool,
        metrics: Metrics,
        quality: QualitySettings | None = None,
    ) -> None:
        """`quality`: which pictures are refused; None refuses none."""
        self._model = model
        self._engine = engine
        self._pool = pool
        self._metrics = metrics
        self._quality = quality

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
        try:
            outcomes = await self._run(job, facts)
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() >= job.deadline:
                self._count_errors("TIMEOUT", len(job.inputs))
            raise
        except QueueFullError:
            self._count_errors("OVERLOADED", len(job.inputs))
            self._metrics.rejected_total.labels("queue_full").inc()
            raise RequestError(
                503,
                "OVERLOADED",
                "the queue is full (QUEUE_MAX_ITEMS, QUEUE_MAX_MB); try again after Retry-After",
                retry_after_s=self._engine.estimate_wait_s(),
            ) from None
        except EngineStoppedError:
            self._count_errors("STOPPING", len(job.inputs))
            raise RequestError(
                503, "STOPPING", "this server is going away; try again", retry_after_s=1
            ) from None
        return Reply(outcomes, self._model, facts)

    async def _run(self, job: Job, facts: ModelFacts) -> list[Outcome]:
        """One outcome for each input. Raises QueueFullError before anything is decoded, or after."""
        outcomes: list[Outcome | None] = [None] * len(job.inputs)
        kinds = Counter(_get_kind(one) for one in job.inputs if not isinstance(one, RequestError))
        with self._engine.announce(kinds) as announcement:
            with job.trail.stage("decode"):
                payloads = await asyncio.gather(*(self._prepare(one, facts) for one in job.inputs))
            qualities = await self._inspect(job, payloads)
            chosen: dict[int, Payload] = {}
            for at, one in enumerate(payloads):
                refusal = self._find_refusal(qualities.get(at))
                if isinstance(one, RequestError):
                    outcomes[at] = one
                elif refusal is not None:
                    outcomes[at] = refusal
                else:
                    chosen[at] = one
            if not chosen:
                return [one for one in outcomes if one is not None]
            future = self._engine.submit(
                list(chosen.values()), job.deadline, announcement=announcement, trail=job.trail
            )
        try:
            for at, outcome in zip(chosen, await self._watch(future, len(chosen)), strict=True):
                quality = qualities.get(at) if job.with_quality else None
                outcomes[at] = _explain(outcome, quality)
        finally:
            future.cancel()
        return [one for one in outcomes if one is not None]

    async def _watch(
        self, future: asyncio.Future[list[Output | RunError]], count: int
    ) -> list[Output | RunError]:
        """What the engine gives, counted."""
        started = time.monotonic()
        title, metrics = self._model.title, self._metrics
        metrics.inference_total.labels(title).inc(count)
        outcomes = await future
        metrics.inference_duration_seconds.labels(title).observe(time.monotonic() - started)
        if failed := sum(isinstance(one, RunError) for one in outcomes):
            self._count_errors("MODEL_FAILED", failed)
        return outcomes

    def _count_errors(self, code: str, count: int) -> None:
        self._metrics.model_errors_total.labels(self._model.title, code).inc(count)

    async def _inspect(
        self, job: Job, payloads: Sequence[Payload | RequestError]
    ) -> dict[int, Quality]:
        """The quality of each picture, by its index, where anybody wants to know it."""
        if not job.with_quality and not (self._quality and self._quality.enforce):
            return {}
        pictures: dict[int, tuple[bytes, Pixels]] = {}
        for at, (one, payload) in enumerate(zip(job.inputs, payloads, strict=True)):
            if isinstance(one, Question) and isinstance(payload, Prompt):
                pictures[at] = (one.image, payload.pixels)
            elif isinstance(one, bytes) and isinstance(payload, np.ndarray):
                pictures[at] = (one, payload)
        with job.trail.stage("quality"):
            measured = await asyncio.gather(
                *(self._pool.measure(data, pixels) for data, pixels in pictures.values())
            )
        return dict(zip(pictures, measured, strict=True))

    def _find_refusal(self, quality: Quality | None) -> RequestError | None:
        if quality is None or self._quality is None:
            return None
        return find_refusal(quality, self._quality)

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


def _get_kind(one: Input) -> Kind:
    match one:
        case bytes():
            return Kind.IMAGE
        case str():
            return Kind.TEXT
        case _:
            return Kind.PROMPT


def _explain(outcome: Output | RunError, quality: Quality | None) -> Outcome:
    if isinstance(outcome, Output):
        return outcome if quality is None else replace(outcome, quality=quality)
    return RequestError(500, "MODEL_FAILED", "the model could not answer this input; see its log")
