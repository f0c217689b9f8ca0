"""What every inference route does around a model: is it served, is there time, who answered, what counts.

Routes read bodies and write answers in their own dialect; this is all that they share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.errors import RequestError
from sluice_inference.http.context import Context
from sluice_inference.http.leaving import work_while_wanted
from sluice_inference.predictor import CacheUse, Input, Job, Reply
from sluice_inference.routing.dialect import FALLBACK_HEADER
from sluice_inference.trail import Trail

Inputs = Sequence[Input | RequestError]
T = TypeVar("T")

KEY_HEADER = "sluice-key"
_SHADOW_HEADER = "sluice-shadow"
# Of a request's time: who takes more of it to send the body leaves too little for the answer.
_MOST_READING = 0.5


@dataclass(frozen=True, slots=True)
class Wanted(Generic[T]):
    """What a body asks for, once it is read; `said` is what its route wants to know for the answer.

    An answer needs at least one of `tasks`; a fallback is asked only where it has one. `is_whole`: the
    answer has room for one model's outcomes only. `needs_scale`: whoever answers needs a `logit_scale`.
    `with_quality`: it tells the pictures' quality too.
    """

    inputs: Inputs
    tasks: Sequence[str]
    said: T
    is_whole: bool = False
    needs_scale: bool = False
    with_quality: bool = False


class Asker:
    """Asks the context's answerer on behalf of requests."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check_served(self, tasks: Sequence[str], what: str) -> ModelFacts:
        """The model's facts, if it answers now and serves one of `tasks`.

        Raises RequestError 503 NOT_READY, or 404 TASK_NOT_SERVED with `what` and the tasks there are.
        """
        context = self._context
        facts = context.answerer.facts
        if facts is None or not context.lifecycle.is_answering():
            context.metrics.rejected_total.labels("not_ready").inc()
            raise RequestError(
                503,
                "NOT_READY",
                f"the server is {context.lifecycle.state}; GET /ready turns 200 when it can answer",
                retry_after_s=1,
            )
        if not set(tasks) & set(facts.tasks):
            raise make_not_served(what, facts)
        return facts

    async def ask(
        self, request: Request, read: Callable[[], Awaitable[Wanted[T]]]
    ) -> tuple[Reply, T]:
        """The reply to what `read` makes of the body, and what that said, within a request's time.

        A shadow request judges the version that it is sent to, so no fallback answers it. Raises
        RequestError: what `read` raises, what the model can't take, 408 BODY_TIMEOUT, 504 TIMEOUT.
        """
        metrics, loop = self._context.metrics, asyncio.get_running_loop()
        time_s = self._context.settings.limits.request_timeout_s
        patience_s: float | None = request.scope.get("patience_s")  # the envelope's word
        trail = request.scope["trail"] = Trail()
        arrived, read_s = loop.time(), 0.0
        deadline = arrived + time_s
        try:
            async with asyncio.timeout_at(deadline) as limit:
                with trail.stage("read"):
                    wanted = await read()
                read_s = loop.time() - arrived
                metrics.stage_seconds.labels("read").observe(read_s)
                if patience_s is not None and arrived + read_s + patience_s < deadline:
                    deadline = arrived + read_s + patience_s
                    limit.reschedule(deadline)
                job = Job(
                    wanted.inputs,
                    deadline,
                    key=request.headers.get(KEY_HEADER, ""),
                    tasks=wanted.tasks,
                    may_fall_back=_may_fall_back(request),
                    is_whole=wanted.is_whole,
                    needs_scale=wanted.needs_scale,
                    cache=_choose_cache_use(request),
                    with_quality=wanted.with_quality,
                    trail=trail,
                )
                answer = self._context.answerer.answer(job)
                reply = await work_while_wanted(request.receive, answer)
        except ClientDisconnect:
            metrics.rejected_total.labels("client_left").inc()
            raise
        except TimeoutError:
            is_whole = request.scope.get("is_body_read", False)
            if not is_whole or read_s > _MOST_READING * time_s:
                # A version must not be judged by how slowly its clients send.
                metrics.rejected_total.labels("body_late").inc()
                raise _make_body_late(time_s, is_whole=is_whole) from None
            metrics.rejected_total.labels("deadline").inc()
            whose = "REQUEST_TIMEOUT_MS" if deadline == arrived + time_s else "sluice-timeout-ms"
            raise RequestError(
                504, "TIMEOUT", f"no answer within {deadline - arrived:.3g} s ({whose})"
            ) from None
        self._note(request, reply)
        trail.begin("encode")  # the envelope ends it, when the answer is on its way
        return reply, wanted.said

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Around what makes the answer's body: timed as stage "encode", where it succeeds."""
        started = time.perf_counter()
        yield
        self._context.metrics.stage_seconds.labels("encode").observe(time.perf_counter() - started)

    def _note(self, request: Request, reply: Reply) -> None:
        """Count failed inputs, and leave word for the envelope, which counts the request."""
        problems = find_problems(reply)
        for problem in problems:
            self._context.metrics.item_errors_total.labels(problem.code).inc()
        self._context.predictions.note(reply)
        request.scope["is_partial"] = any(problem.status >= 500 for problem in problems)
        request.scope["is_fallback"] = bool(reply.reason)


def _make_body_late(time_s: float, *, is_whole: bool) -> RequestError:
    what = "came so late that no time was left" if is_whole else "was not here"
    return RequestError(
        408,
        "BODY_TIMEOUT",
        f"the body {what} within {time_s:g} s (REQUEST_TIMEOUT_MS); send it faster, or a smaller one",
        headers=(() if is_whole else (("connection", "close"),)),
    )


def _may_fall_back(request: Request) -> bool:
    headers = request.headers
    return "true" not in (headers.get(_SHADOW_HEADER), headers.get(FALLBACK_HEADER))


def _choose_cache_use(request: Request) -> CacheUse:
    """What the client says of caches. A shadow request judges the version, not what it said before."""
    said = request.headers.get("cache-control", "").lower()
    if "no-store" in said:
        return CacheUse.NONE
    is_shadow = request.headers.get(_SHADOW_HEADER) == "true"
    return CacheUse.FRESH if is_shadow or "no-cache" in said else CacheUse.ANY


def find_problems(reply: Reply) -> list[RequestError]:
    """What went wrong with single inputs, in their order."""
    return [one for one in reply.outcomes if isinstance(one, RequestError)]


def describe_failure(problems: Sequence[RequestError]) -> RequestError:
    """One error for a request none of whose inputs could be answered: 422, or 500 where we are at fault."""
    if len(problems) == 1:
        return problems[0]
    ours = any(problem.status >= 500 for problem in problems)
    return RequestError(
        500 if ours else 422,
        "MODEL_FAILED" if ours else "ALL_INPUTS_FAILED",
        f"none of the {len(problems)} inputs could be answered; items says why, for each",
    )


def make_headers(reply: Reply, *, has_embedding: bool) -> dict[str, str]:
    """What an answer is stamped with beside the envelope's stamps: who gave it, in which space."""
    headers = {"sluice-model": reply.model.title}
    if reply.reason:
        headers["sluice-fallback-reason"] = reply.reason
    if has_embedding:
        headers["sluice-embedding-space"] = reply.facts.space
    return headers


def make_not_served(what: str, facts: ModelFacts) -> RequestError:
    return RequestError(
        404,
        "TASK_NOT_SERVED",
        f"{what} is not served by this version; its tasks are {', '.join(facts.tasks)}",
    )
