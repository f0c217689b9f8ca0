"""A/B: two models share the requests by a stable hash of each request's key.

Equal keys meet the same model, in every replica and after every restart. Who has no key meets the
first one: an address is no key, because behind a gateway it is the gateway's.
"""

from __future__ import annotations

import hashlib

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.errors import RequestError
from sluice_inference.predictor import Answerer, Job, Reply
from sluice_inference.routing.member import LocalModel
from sluice_inference.routing.truth import is_replaceable, narrow_facts

PLACES = 10_000
# What a model says that has ended or has not begun: nothing of the request was done.
_GONE_CODES = frozenset({"STOPPING", "NOT_READY"})
_PERSON = b"sluice-ab"  # keeps these places apart from any other use of the same hash


def find_place(key: str) -> int:
    """The key's place, 0 to 9999, each with the same probability."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "big") * PLACES >> 64


class Split:
    """Answers with `second` for `percent` of the keys, with `first` for all others.

    A share that the second model can't take (it isn't loaded, its engine ended, or it lacks a task
    that the first has) is the first one's.
    """

    def __init__(
        self, first: Answerer, second: Answerer, model: LocalModel, percent: float
    ) -> None:
        self._first = first
        self._second = second
        self._model = model
        self._places = round(percent * PLACES / 100)

    @property
    def facts(self) -> ModelFacts | None:
        return self._first.facts

    async def answer(self, job: Job) -> Reply:
        chosen = self.choose(job)
        if chosen is self._first:
            return await chosen.answer(job)
        try:
            return await chosen.answer(job)
        except RequestError as problem:
            if problem.code not in _GONE_CODES:
                raise
            return await self._first.answer(job)  # it ended after it was chosen

    def choose(self, job: Job) -> Answerer:
        """Who answers this job."""
        if not job.key or find_place(job.key) >= self._places or not self._model.is_up():
            return self._first
        first, second = self._first.facts, self._model.facts
        if first is None or second is None:
            return self._first
        offered = narrow_facts(second, first.space, first.dimension)
        # A class of the client's own is judged by the scale of whoever embeds it.
        is_able = bool(offered.logit_scale or not first.logit_scale) and all(
            isinstance(one, RequestError) or is_replaceable(one, job.tasks, by=offered, of=first)
            for one in job.inputs
        )
        return self._second if is_able else self._first
