"""POST /embed, /classify, /predict, in our own JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.errors import RequestError
from sluice_inference.http.asking import (
    Asker,
    Inputs,
    describe_failure,
    find_problems,
    make_headers,
    make_not_served,
)
from sluice_inference.http.context import Context
from sluice_inference.http.inputs import read_inputs
from sluice_inference.predictor import Input, Reply
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
    asker = Asker(context)
    return [Route(path, _make_handler(context, asker, path), methods=["POST"]) for path in ROUTES]


def _make_handler(context: Context, asker: Asker, path: str) -> Handler:
    async def handle(request: Request) -> Response:
        facts = asker.check_served(ROUTES[path], path)
        top = _read_top(request)

        async def read() -> Inputs:
            inputs = await read_inputs(request, context.settings.limits)
            return [_check_task(one, facts, path) for one in inputs]

        reply = await asker.ask(request, read)
        started = time.perf_counter()
        response = _make_response(reply, path, top, request)
        context.metrics.stage_seconds.labels("encode").observe(time.perf_counter() - started)
        return response

    return handle


def _make_response(reply: Reply, path: str, top: int, request: Request) -> Response:
    problems = find_problems(reply)
    if len(problems) == len(reply.outcomes):
        return _make_failure(problems, request)
    facts = reply.facts
    has_embedding = path != "/classify" and bool(facts.dimension)
    has_embedding &= bool(set(facts.tasks) & set(ROUTES["/embed"]))
    parts: dict[str, Any] = {}
    if has_embedding:
        parts |= describe_space(facts) | {"embeddings": make_embeddings(reply.outcomes)}
    if path != "/embed" and "Classification" in facts.tasks:
        parts["predictions"] = make_predictions(reply.outcomes, facts.labels, top)
    body = make_answer(
        (reply.model.name, reply.model.version), fallback_reason=reply.fallback_reason, **parts
    )
    headers = make_headers(reply, has_embedding=has_embedding)
    return Response(body, headers=headers, media_type="application/json")


def _make_failure(problems: list[RequestError], request: Request) -> Response:
    """Nothing could be answered: the one problem, or every input's in `items`."""
    whole = describe_failure(problems)
    if len(problems) == 1:
        raise whole
    items = [make_item_error(index, problem) for index, problem in enumerate(problems)]
    body = make_error_body(whole, request.scope.get("request_id", ""), items)
    return Response(body, status_code=whole.status, media_type="application/json")


def _check_task(one: Input | RequestError, facts: ModelFacts, path: str) -> Input | RequestError:
    """`one`, or the problem of an input that this route or version does not take."""
    if isinstance(one, RequestError):
        return one
    if isinstance(one, str):
        if path != "/embed":
            return RequestError(400, "BODY_INVALID", f"{path} takes images; texts go to /embed")
        return one if "TextEmbedding" in facts.tasks else make_not_served("text to /embed", facts)
    if path == "/embed" and "ImageEmbedding" not in facts.tasks:
        return make_not_served("image to /embed", facts)
    return one


def _read_top(request: Request) -> int:
    raw = request.query_params.get("top_k", str(_DEFAULT_TOP))
    if not re.fullmatch(r"[0-9]{1,3}", raw) or not 1 <= int(raw) <= MAX_TOP:
        raise RequestError(400, "QUERY_INVALID", f"top_k: a whole number from 1 to {MAX_TOP}")
    return int(raw)
