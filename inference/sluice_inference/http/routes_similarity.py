"""POST /similarity: how near images and texts are to each other, as cosines."""

from __future__ import annotations

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.engine.backend import Output
from sluice_inference.errors import RequestError
from sluice_inference.http.asking import Asker, Wanted
from sluice_inference.http.catalogue import JSON, Content, Entry, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import NATIVE
from sluice_inference.http.inputs import check_count, check_texts, read_json, read_media_type
from sluice_inference.http.routes_predict import (
    ANSWER,
    check_embeddable,
    make_failure,
    make_response,
)
from sluice_inference.predictor import Outcome, Reply
from sluice_inference.protocols.asked import SimilarityRequest, decode_request
from sluice_inference.protocols.native import ItemError, describe_space, make_item_error

_PATH = "/similarity"
_TASKS = ("ImageEmbedding", "TextEmbedding")


def make_routes(context: Context) -> list[Entry]:
    asker = Asker(context)

    async def handle(request: Request) -> Response:
        facts = asker.check_served(_TASKS, _PATH)

        async def read() -> Wanted[bool]:
            if read_media_type(request) != JSON:
                raise RequestError(
                    415, "UNSUPPORTED_MEDIA_TYPE", f"{_PATH} takes {JSON}: images as base64"
                )
            limits = context.settings.limits
            said, found = await read_json(
                request, limits, lambda data, most: decode_request(data, SimilarityRequest, most)
            )
            has_query = said.query is not None
            if has_query == bool(said.pairs) or (has_query and not said.inputs):
                raise RequestError(
                    400,
                    "BODY_INVALID",
                    f"{_PATH} takes pairs, or query and inputs; send one of both",
                )
            inputs = [check_embeddable(one, facts) for one in check_texts(found)]
            check_count(inputs, limits)
            return Wanted(inputs, _TASKS, has_query, is_whole=True)

        reply, has_query = await asker.ask(request, read)
        with asker.encoding():
            failure = make_failure(reply, request)
            return failure or _make_response(reply, has_query=has_query)

    return [
        Entry(
            "POST",
            _PATH,
            Purpose.INFERENCE,
            NATIVE,
            handle,
            "Cosines of pairs, or of one query with each of several inputs",
            takes=(Content(JSON, SimilarityRequest),),
            gives=ANSWER,
        )
    ]


def _make_response(reply: Reply, *, has_query: bool) -> Response:
    outcomes = reply.outcomes
    pairs = (
        [(outcomes[0], one) for one in outcomes[1:]]
        if has_query
        else list(zip(outcomes[::2], outcomes[1::2], strict=True))
    )
    found = [_compare(index, *pair) for index, pair in enumerate(pairs)]
    parts = describe_space(reply.facts) | {"similarities": found}
    return make_response(reply, parts, has_embedding=True)


def _compare(index: int, one: Outcome, other: Outcome) -> float | ItemError:
    """The cosine of two embeddings of length 1, or the first problem of both."""
    for problem in (one, other):
        if isinstance(problem, RequestError):
            return make_item_error(index, problem)
    vectors = [each.embedding for each in (one, other) if isinstance(each, Output)]
    left, right = (np.asarray(vector, dtype=np.float64) for vector in vectors)
    return float(np.clip(left @ right, -1.0, 1.0))
