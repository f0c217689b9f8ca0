"""A model whose answers are kept: what was asked before is not computed again, nor twice at once.

Wraps the answerer of one model, below whatever chooses between models, so that no answer is ever found
under another model's name. Only successes are kept. Inputs are known by their bytes, before any decoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from sluice_inference.caching.flight import Flight
from sluice_inference.caching.keys import KeyMaker
from sluice_inference.caching.tiers import Tiers
from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Answerer, CacheUse, Input, Job, Outcome, Question, Reply
from sluice_inference.settings.model import ModelSettings
from sluice_inference.settings.quality import QualitySettings
from sluice_inference.trail import Trail

_LARGE = 1 << 20  # more bytes than this are hashed in a thread


class _Found(NamedTuple):
    outcome: Outcome
    tier: str  # memory, redis, flight; "" where it was computed for this request


Answers = dict[bytes, _Found]


class Cached:
    """An Answerer that asks another one, of one model, only for what is new."""

    def __init__(
        self,
        answerer: Answerer,
        model: ModelSettings,
        quality: QualitySettings,
        tiers: Tiers,
        metrics: Metrics,
        *,
        server: str,
    ) -> None:
        self._answerer = answerer
        self._model = model
        self._quality = quality
        self._tiers = tiers
        self._metrics = metrics
        self._server = server
        # Without a digest, a name and a version are only what somebody wrote: good enough for this
        # process, not for others' answers.
        self._is_shared = bool(model.digest)
        self._key_maker: KeyMaker | None = None
        self._flights: dict[bytes, Flight[Answers]] = {}

    @property
    def facts(self) -> ModelFacts | None:
        return self._answerer.facts

    async def answer(self, job: Job) -> Reply:
        """One outcome for each input, in order. Raises what the model's answerer raises."""
        facts = self._answerer.facts
        if facts is None or job.cache is CacheUse.NONE:
            return await self._answerer.answer(job)
        keys = await self._make_keys(job, facts)
        if job.cache is CacheUse.FRESH:
            reply = await self._answerer.answer(job)
            for key, outcome in zip(keys, reply.outcomes, strict=True):
                self._keep(key, outcome)
            return reply
        wanted = {
            key: one
            for key, one in zip(keys, job.inputs, strict=True)
            if not isinstance(one, RequestError)
        }
        answers = await self._find(job, wanted)
        self._count(answers, job.trail)
        outcomes = [
            one if isinstance(one, RequestError) else answers[key].outcome
            for key, one in zip(keys, job.inputs, strict=True)
        ]
        is_kept = all(found.tier for found in answers.values())
        return Reply(outcomes, self._model, facts, is_kept=is_kept)

    async def _make_keys(self, job: Job, facts: ModelFacts) -> list[bytes]:
        """A key for each input; an empty one for what can't be used anyway."""
        if self._key_maker is None or self._key_maker.facts is not facts:
            self._key_maker = KeyMaker(self._model, facts, self._quality, self._server)
        make = self._key_maker.make

        def make_all() -> list[bytes]:
            return [
                b"" if isinstance(one, RequestError) else make(one, with_quality=job.with_quality)
                for one in job.inputs
            ]

        with job.trail.stage("cache"):
            size = sum(_count_bytes(one) for one in job.inputs)
            return make_all() if size <= _LARGE else await asyncio.to_thread(make_all)

    async def _find(self, job: Job, wanted: Mapping[bytes, Input]) -> Answers:
        """All answers: from memory, from whoever is at it already, and for the rest by ourselves.

        What somebody else was at and did not get done (its client left, its time was up, there was no
        room for it) is asked again on our own account.
        """
        answers: Answers = {}
        while missing := [key for key in wanted if key not in answers]:
            for key in missing:
                output = self._tiers.look(key)
                if output is not None:
                    answers[key] = _Found(output, "memory")
            missing = [key for key in missing if key not in answers]
            theirs = {self._flights[key] for key in missing if key in self._flights}
            ours = {key: wanted[key] for key in missing if key not in self._flights}
            with _aboard([*theirs, *([self._take_off(job, ours)] if ours else [])]) as flights:
                for flight in reversed(flights):  # ours first: if that fails, so do we
                    if flight in theirs:
                        with job.trail.stage("flight"):
                            answers |= _take_over(await flight.land(), missing)
                        continue
                    landed = await flight.land()
                    if isinstance(landed, BaseException):
                        raise landed
                    answers |= landed
        return answers

    def _take_off(self, job: Job, inputs: Mapping[bytes, Input]) -> Flight[Answers]:
        flight = Flight(self._compute(job, inputs), partial(self._forget, tuple(inputs)))
        self._flights |= dict.fromkeys(inputs, flight)
        return flight

    def _forget(self, keys: Sequence[bytes], flight: Flight[Answers]) -> None:
        for key in keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _compute(self, job: Job, inputs: Mapping[bytes, Input]) -> Answers:
        async with asyncio.timeout_at(job.deadline):
            with job.trail.stage("cache"):
                known = await self._tiers.fetch(list(inputs), is_shared=self._is_shared)
            answers = {key: _Found(output, "redis") for key, output in known.items()}
            rest = {key: one for key, one in inputs.items() if key not in answers}
            if rest:
                reply = await self._answerer.answer(replace(job, inputs=list(rest.values())))
                for key, outcome in zip(rest, reply.outcomes, strict=True):
                    self._keep(key, outcome)
                    answers[key] = _Found(outcome, "")
        return answers

    def _keep(self, key: bytes, outcome: Outcome) -> None:
        if key and isinstance(outcome, Output):
            self._tiers.keep(key, outcome, is_shared=self._is_shared)

    def _count(self, answers: Answers, trail: Trail) -> None:
        for found in answers.values():
            if found.tier:
                trail.cache_hits += 1
                self._metrics.cache_hits_total.labels(found.tier).inc()
            else:
                trail.cache_misses += 1
                self._metrics.cache_misses_total.inc()


@contextmanager
def _aboard(flights: list[Flight[Answers]]) -> Iterator[list[Flight[Answers]]]:
    for flight in flights:
        flight.board()
    try:
        yield flights
    finally:
        for flight in flights:
            flight.leave()


def _take_over(landed: Answers | BaseException, keys: Sequence[bytes]) -> Answers:
    """What another request's flight brought of `keys`; nothing, where it did not arrive."""
    if isinstance(landed, BaseException):
        return {}
    return {key: _Found(landed[key].outcome, "flight") for key in keys if key in landed}


def _count_bytes(one: Input | RequestError) -> int:
    match one:
        case bytes() | str():
            return len(one)
        case Question():
            return len(one.image)
        case _:
            return 0
