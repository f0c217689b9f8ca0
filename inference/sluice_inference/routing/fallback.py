"""A model and its fallback: who is asked first, what is asked again, and which answer stands.

Decides by what it is told of both; knows nothing of HTTP. A fallback's answer is always named as
one, with the reason. Where the fallback can't answer either, the model's own error stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Job, Outcome, Reply, Source
from sluice_inference.routing.breaker import Breaker, BreakerState
from sluice_inference.routing.member import LocalModel, Member
from sluice_inference.routing.truth import (
    find_able,
    is_replaceable,
    list_wanted,
    narrow_facts,
    narrow_outcome,
    read_confidence,
)
from sluice_inference.settings.routing import (
    ERROR,
    LOW_CONFIDENCE,
    OVERLOAD,
    TIMEOUT,
    FallbackSettings,
)

# A fallback that takes too long must leave time to send what the model itself had to say.
_MARGIN_S = 0.02
_REASON_BY_CODE = {"OVERLOADED": OVERLOAD, "TIMEOUT": TIMEOUT}


@dataclass(slots=True)
class _Answers:
    """What has been answered so far: outcome and source of each input, by index."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    sources: dict[int, Source] = field(default_factory=dict)

    def take(self, indices: Iterable[int], reply: Reply) -> None:
        for place, (index, outcome) in enumerate(zip(indices, reply.outcomes, strict=True)):
            self.outcomes[index] = outcome
            self.sources[index] = reply.find_source(place)


class WithFallback:
    """Answers with the model; with its fallback where that is allowed, able and better."""

    def __init__(
        self, model: LocalModel, fallback: Member, settings: FallbackSettings, metrics: Metrics
    ) -> None:
        self._model = model
        self._fallback = fallback
        self._settings = settings
        self._metrics = metrics
        limits = settings.breaker
        if TIMEOUT not in settings.on:
            limits = replace(limits, p95_s=float("inf"))
        self.breaker = Breaker(limits)
        title = model.settings.title
        metrics.breaker_state.labels(title).set_function(lambda: float(self.breaker.state))

    @property
    def facts(self) -> ModelFacts | None:
        """The model's; where it could not be loaded, what its version promises.

        A task that only the model has is asked for as ever, and gets a 503 and not a 404.
        """
        if self._model.facts is not None:
            return self._model.facts
        stand_in = self._narrow()
        if stand_in is None or not self.is_standing_in():
            return None
        promised = self._model.settings
        return replace(
            stand_in,
            tasks=promised.tasks or stand_in.tasks,
            space=promised.embedding_space,
            dimension=promised.embedding_dimension,
        )

    @property
    def breaker_state(self) -> BreakerState:
        return self.breaker.state

    def is_standing_in(self) -> bool:
        """Is the model down, and does the fallback answer for it?"""
        is_down = bool(self._model.find_fault())
        return is_down and self._model.get_reason() in self._settings.on and self._fallback.is_up()

    def is_wanted_for(self, reason: str) -> bool:
        """Is the fallback to be asked for this reason?"""
        return reason in self._settings.on

    def is_active(self) -> bool:
        """Does the fallback carry the traffic?"""
        return self.is_standing_in() or self.breaker.state is not BreakerState.CLOSED

    async def answer(self, job: Job) -> Reply:
        stand_in = self._narrow() if job.may_fall_back and self._fallback.is_up() else None
        able = find_able(job, stand_in) if stand_in else frozenset[int]()
        if stand_in is None or not able:
            return await self._model.answer(job)
        reason = self._find_obstacle(job)
        if not reason:
            before = self.breaker.state
            ticket = self.breaker.admit()
            self._tell_change(before)
            if ticket is not None:
                return await self._ask_model_first(job, able, stand_in, ticket)
            reason = self.breaker.reason
        return await self._ask_fallback_first(job, able, reason)

    def _find_obstacle(self, job: Job) -> str:
        """Why the model need not even be asked, or an empty string. The breaker is asked after this."""
        model, on = self._model, self._settings.on
        if not model.is_up():
            reason = model.get_reason()
            return reason if reason in on else ""
        if OVERLOAD in on and model.get_fill() >= self._settings.high_water:
            return OVERLOAD
        if TIMEOUT in on:
            ready_at = asyncio.get_running_loop().time() + model.engine.predict_wait_s()
            if ready_at > self._get_deadline(job):
                return TIMEOUT
        return ""

    def _get_deadline(self, job: Job) -> float:
        """Until when the model may take, so that the fallback has time left: half of it at most."""
        if TIMEOUT not in self._settings.on:
            return job.deadline
        left = job.deadline - asyncio.get_running_loop().time()
        return job.deadline - min(self._settings.reserve_s, left / 2)

    async def _ask_model_first(
        self, job: Job, able: Collection[int], stand_in: ModelFacts, ticket: int
    ) -> Reply:
        deadline, started = self._get_deadline(job), time.monotonic()
        answers, problem = _Answers(), None
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._model.answer(replace(job, deadline=deadline))
        except TimeoutError:
            problem = RequestError(504, "TIMEOUT", "no answer in time (REQUEST_TIMEOUT_MS)")
        except RequestError as error:
            problem = error
        except BaseException:
            self.breaker.give_back(ticket)
            raise
        seconds = time.monotonic() - started
        if problem is not None:
            self._settle(ticket, _find_reason(problem) or None, seconds)
            wanted = dict.fromkeys(able, _find_reason(problem))
        else:
            self._settle(ticket, _judge(reply), seconds)
            wanted = {at: self._find_wish(at, job, reply, stand_in) for at in able}
        wanted = {at: reason for at, reason in wanted.items() if reason in self._settings.on}
        if problem is None:
            if not wanted:
                return reply
            answers.take(range(len(job.inputs)), reply)
        if wanted:
            if job.is_whole:
                wanted = dict.fromkeys(sorted(able), wanted[min(wanted)])
            await self._ask_fallback(job, wanted, answers)
        if problem is not None:
            if not answers.outcomes:
                raise problem
            _fill(job, answers, problem, Source(self._model.settings, self.facts or stand_in))
        return _make_reply(job, answers)

    async def _ask_fallback_first(self, job: Job, able: Collection[int], reason: str) -> Reply:
        """The model only gets what the fallback has no answer to; it is the last resort."""
        answers, until = _Answers(), job.deadline
        if self._model.is_up():
            # One that hangs must not use up the time in which the model could still answer.
            now = asyncio.get_running_loop().time()
            until = now + (job.deadline - now) / 2
        await self._ask_fallback(replace(job, deadline=until), dict.fromkeys(able, reason), answers)
        left = [
            at
            for at, one in enumerate(job.inputs)
            if at not in answers.outcomes and not isinstance(one, RequestError)
        ]
        if job.is_whole and left:
            answers, left = _Answers(), list(range(len(job.inputs)))
        if left:
            try:
                answers.take(left, await self._model.answer(_pick(job, left)))
            except RequestError as problem:
                if not answers.outcomes:
                    raise
                facts = self.facts or next(iter(answers.sources.values())).facts
                _fill(job, answers, problem, Source(self._model.settings, facts))
        return _make_reply(job, answers)

    async def _ask_fallback(self, job: Job, wanted: dict[int, str], answers: _Answers) -> None:
        """Put the fallback's answers in, wherever they are better than what is there.

        It has until the job's deadline, less what it takes to send what the model had to say.
        """
        indices, until = sorted(wanted), job.deadline - _MARGIN_S
        try:
            async with asyncio.timeout_at(until):
                reply = await self._fallback.answer(replace(_pick(job, indices), deadline=until))
        except (RequestError, TimeoutError) as error:
            self._metrics.fallback_failures_total.labels(wanted[indices[0]]).inc()
            log("debug", "the fallback did not answer", error=type(error).__name__)
            return
        if job.is_whole and any(_is_server_fault(one) for one in reply.outcomes):
            return  # the rest of it would stand among answers of the model
        found: dict[int, tuple[Outcome, Source]] = {}
        for place, index in enumerate(indices):
            source = reply.find_source(place)
            facts = self._narrow_like_model(source.facts)
            outcome = narrow_outcome(reply.outcomes[place], facts)
            one = job.inputs[index]
            if isinstance(one, RequestError) or not list_wanted(one, job.tasks) & set(facts.tasks):
                continue  # it became another model since it was chosen
            found[index] = (outcome, Source(source.model, facts, wanted[index]))
        used = _choose_better(job, found, answers.outcomes)
        for index in used:
            answers.outcomes[index], answers.sources[index] = found[index]
        if used:
            self._metrics.fallback_total.labels(wanted[used[0]]).inc()

    def _find_wish(self, index: int, job: Job, reply: Reply, stand_in: ModelFacts) -> str:
        """Why this input is asked again, or an empty string."""
        outcome, one = reply.outcomes[index], job.inputs[index]
        if isinstance(outcome, RequestError):
            return _find_reason(outcome)
        if not self._settings.min_confidence:
            return ""
        confidence = read_confidence(outcome)
        is_unsure = (
            "Classification" in job.tasks
            and "Classification" in reply.facts.tasks
            and confidence is not None
            and confidence < self._settings.min_confidence
        )
        if not is_unsure or isinstance(one, RequestError):
            return ""
        # What an unsure answer has beside its labels must not be lost for surer ones.
        is_equal = is_replaceable(one, job.tasks, by=stand_in, of=reply.facts)
        return LOW_CONFIDENCE if is_equal else ""

    def _settle(self, ticket: int, reason: str | None, seconds: float) -> None:
        """Tell the breaker; None is a request that says nothing of the model.

        Nor is overload an illness: it passes by itself when work is taken away.
        """
        before = self.breaker.state
        if reason is None or reason == OVERLOAD:
            self.breaker.give_back(ticket)
        else:
            self.breaker.settle(ticket, reason if reason in self._settings.on else "", seconds)
        self._tell_change(before)

    def _tell_change(self, before: BreakerState) -> None:
        after = self.breaker.state
        if after is not before:
            level = "warning" if after is BreakerState.OPEN else "info"
            log(
                level,
                f"breaker {before.name.lower()} -> {after.name.lower()}",
                model=self._model.settings.title,
                reason=self.breaker.reason,
            )

    def _narrow(self) -> ModelFacts | None:
        """The fallback's facts, less what it may not speak for; None while it has none."""
        facts = self._fallback.facts
        return None if facts is None else self._narrow_like_model(facts)

    def _narrow_like_model(self, facts: ModelFacts) -> ModelFacts:
        known, promised = self._model.facts, self._model.settings
        if known is not None:
            return narrow_facts(facts, known.space, known.dimension)
        return narrow_facts(facts, promised.embedding_space, promised.embedding_dimension)


def _pick(job: Job, indices: Iterable[int]) -> Job:
    """The job for some of its inputs, which nobody passes on."""
    return replace(job, inputs=[job.inputs[at] for at in indices], may_fall_back=False)


def _find_reason(problem: RequestError) -> str:
    """Why a fallback is wanted; an empty string where the client's input is at fault."""
    return _REASON_BY_CODE.get(problem.code, ERROR) if problem.status >= 500 else ""


def _is_server_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, RequestError) and outcome.status >= 500


def _judge(reply: Reply) -> str | None:
    """How the model did, for the breaker: a reason where it failed at half of its inputs or more.

    None where no input got as far as the model: they were all at fault themselves, or known before.
    """
    if reply.is_kept:
        return None
    problems = [one for one in reply.outcomes if isinstance(one, RequestError)]
    reasons = [reason for one in problems if (reason := _find_reason(one))]
    tried = len(reply.outcomes) - len(problems) + len(reasons)
    if not tried:
        return None
    return reasons[0] if reasons and 2 * len(reasons) >= tried else ""


def _choose_better(
    job: Job, found: Mapping[int, tuple[Outcome, Source]], old: Mapping[int, Outcome]
) -> list[int]:
    """The inputs, in order, whose found outcome takes the place of the old one."""
    if not job.is_whole:
        return [at for at, (outcome, _) in found.items() if _is_better(outcome, old.get(at))]
    usable = [at for at, one in enumerate(job.inputs) if not isinstance(one, RequestError)]
    if any(at not in found for at in usable):
        return []  # what is missing would come from the other model
    is_better = _is_better_whole({at: found[at][0] for at in usable}, old)
    return usable if is_better else []


def _is_better_whole(new: Mapping[int, Outcome], old: Mapping[int, Outcome]) -> bool:
    """As `_is_better`, for answers that are one model's: the least sure input decides."""
    if any(at not in old or _is_server_fault(old[at]) for at in new):
        return True
    answered = [at for at in new if isinstance(old[at], Output)]
    if any(isinstance(new[at], RequestError) for at in answered):
        return False
    sure = [at for at in answered if read_confidence(old[at]) is not None]
    least_old = min((read_confidence(old[at]) or 0.0 for at in sure), default=0.0)
    return min((read_confidence(new[at]) or 0.0 for at in sure), default=0.0) > least_old


def _is_better(new: Outcome, old: Outcome | None) -> bool:
    if isinstance(new, RequestError):
        # With no other answer the input's own fault is one; a server's fault leaves it to the model.
        return old is None and new.status < 500
    if old is None or isinstance(old, RequestError):
        return True
    return (read_confidence(new) or 0.0) > (read_confidence(old) or 0.0)


def _fill(job: Job, answers: _Answers, problem: RequestError, source: Source) -> None:
    for index, one in enumerate(job.inputs):
        if index not in answers.outcomes and not isinstance(one, RequestError):
            answers.outcomes[index] = problem
            answers.sources[index] = source


def _make_reply(job: Job, answers: _Answers) -> Reply:
    """One reply of all. It is the fallback's where everything that was answered came from there."""
    for index, one in enumerate(job.inputs):
        if isinstance(one, RequestError):
            answers.outcomes[index] = one
            answers.sources.pop(index, None)
    outcomes = [answers.outcomes[at] for at in range(len(job.inputs))]
    others = {at: one for at, one in sorted(answers.sources.items()) if one.fallback_reason}
    own = [at for at, one in answers.sources.items() if not one.fallback_reason]
    if others and not any(isinstance(answers.outcomes[at], Output) for at in own):
        whole = next(iter(others.values()))
        return Reply(outcomes, whole.model, whole.facts, whole.fallback_reason)
    source = answers.sources[own[0]]
    return Reply(outcomes, source.model, source.facts, others=others)
