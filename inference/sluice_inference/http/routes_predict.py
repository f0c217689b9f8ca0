"""POST /embed, /classify, /predict."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.errors import RequestError
from sluice_inference.http.context import Context
from sluice_inference.http.inputs import Input, read_inputs
from sluice_inference.predictor import Outcome, Predictor
from sluice_inference.protocols.native import (
    describe_space,
    make_answer,
    make_embeddings,
    make_error_body,
    make_item_error,
    make_predictions,
)

MAX_TOP = 100
_DEFAULT_TOP = 5
# The routes, and the tasks of which each needs at least one.
ROUTES: dict[str, tuple[str, ...]] = {
    "/embed": ("ImageEmbedding", "TextEmbedding"),
    "/classify": ("Classification",),
    "/predict": ("Classification", "ImageEmbedding"),
}
Handler = Callable[[Request], Awaitable[Response]]


def make_routes(context: Context) -> list[Route]:
    predictor = Predictor(context.engine, context.pool, context.metrics)
    return [
        Route(path, _make_handler(context, predictor, path), methods=["POST"]) for path in ROUTES
    ]


def _make_handler(context: Context, predictor: Predictor, path: str) -> Handler:
    settings, stages = context.settings, context.metrics.stage_seconds

    async def handle(request: Request) -> Response:
        facts = _check_served(context, path)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settings.limits.request_timeout_s
        top = _read_top(request)
        started = time.perf_counter()
        try:
            async with asyncio.timeout_at(deadline):
                inputs = await read_inputs(request, settings.limits)
                stages.labels("read").observe(time.perf_counter() - started)
                checked = [_check_task(one, facts, path) for one in inputs]
                outcomes = await predictor.answer(checked, facts.image_size, deadline)
        except TimeoutError:
            context.metrics.rejected_total.labels("deadline").inc()
            raise RequestError(
                504,
                "TIMEOUT",
                f"no answer within {settings.limits.request_timeout_s:g} s (REQUEST_TIMEOUT_MS)",
            ) from None
        started = time.perf_counter()
        response = _make_response(context, facts, path, outcomes, top, request)
        stages.labels("encode").observe(time.perf_counter() - started)
        return response

    return handle


def _make_response(
    context: Context,
    facts: ModelFacts,
    path: str,
    outcomes: Sequence[Outcome],
    top: int,
    request: Request,
) -> Response:
    problems = [one for one in outcomes if isinstance(one, RequestError)]
    for problem in problems:
        context.metrics.item_errors_total.labels(problem.code).inc()
    if len(problems) == len(outcomes):
        if len(problems) == 1:
            raise problems[0]
        return _make_all_failed(problems, request)
    request.scope["is_partial"] = any(problem.status >= 500 for problem in problems)
    parts: dict[str, Any] = {}
    headers = {}
    if path != "/classify" and facts.dimension and set(facts.tasks) & set(ROUTES["/embed"]):
        parts |= describe_space(facts) | {"embeddings": make_embeddings(outcomes)}
        headers["sluice-embedding-space"] = facts.space
    if path != "/embed" and "Classification" in facts.tasks:
        parts["predictions"] = make_predictions(outcomes, facts.labels, top)
    settings = context.settings
    body = make_answer((settings.model_name, settings.model_version), **parts)
    return Response(body, headers=headers, media_type="application/json")


def _make_all_failed(problems: Sequence[RequestError], request: Request) -> Response:
    """422, or 500 where the fault is ours; every input's error is in `items`."""
    ours = any(problem.status >= 500 for problem in problems)
    whole = RequestError(
        500 if ours else 422,
        "MODEL_FAILED" if ours else "ALL_INPUTS_FAILED",
        f"none of the {len(problems)} inputs could be answered; items says why, for each",
    )
    items = [make_item_error(index, problem) for index, problem in enumerate(problems)]
    body = make_error_body(whole, request.scope.get("request_id", ""), items)
    return Response(body, status_code=whole.status, media_type="application/json")


def _check_served(context: Context, path: str) -> ModelFacts:
    """The model's facts, if it is loaded and the route is one of its tasks."""
    facts = context.engine.facts
    if facts is None or not context.lifecycle.is_answering():
        context.metrics.rejected_total.labels("not_ready").inc()
        raise RequestError(
            503,
            "NOT_READY",
            f"the server is {context.lifecycle.state}; GET /ready turns 200 when it can answer",
            retry_after_s=1,
        )
    if not set(ROUTES[path]) & set(facts.tasks):
        raise _make_not_served(path, facts)
    return facts


def _check_task(one: Input, facts: ModelFacts, path: str) -> Input:
    """`one`, or the problem of an input that this route or version does not take."""
    if isinstance(one, RequestError):
        return one
    if isinstance(one, str):
        if path != "/embed":
            return RequestError(400, "BODY_INVALID", f"{path} takes images; texts go to /embed")
        return one if "TextEmbedding" in facts.tasks else _make_not_served("text to /embed", facts)
    if path == "/embed" and "ImageEmbedding" not in facts.tasks:
        return _make_not_served("image to /embed", facts)
    return one


def _make_not_served(what: str, facts: ModelFacts) -> RequestError:
    return RequestError(
        404,
        "TASK_NOT_SERVED",
        f"{what} is not served by this version; its tasks are {', '.join(facts.tasks)}",
    )


def _read_top(request: Request) -> int:
    raw = request.query_params.get("top_k", str(_DEFAULT_TOP))
    if not re.fullmatch(r"[0-9]{1,3}", raw) or not 1 <= int(raw) <= MAX_TOP:
        raise RequestError(400, "QUERY_INVALID", f"top_k: a whole number from 1 to {MAX_TOP}")
    return int(raw)
