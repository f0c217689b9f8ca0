"""OpenAI's POST /v1/embeddings and GET /v1/models; the latter satisfies KServe's clients as well.

An answer has no place for a single input's error, so one that fails fails the request.
"""

from __future__ import annotations

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.engine.backend import Output
from sluice_inference.errors import RequestError
from sluice_inference.http.asking import Asker, Wanted, make_headers
from sluice_inference.http.catalogue import JSON, Content, Entry, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import OPENAI
from sluice_inference.http.inputs import check_count, check_texts, read_json
from sluice_inference.http.models import check_answered, check_model, is_ready
from sluice_inference.http.routes_predict import check_embeddable
from sluice_inference.protocols.openai import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    Model,
    ModelList,
    decode_request,
    encode_answer,
)

_PATH = "/v1/embeddings"
_TASKS = ("ImageEmbedding", "TextEmbedding")


def make_routes(context: Context) -> list[Entry]:
    asker = Asker(context)
    started_at = int(time.time())

    def describe() -> Model:
        name = context.settings.model.name
        return Model(id=name, created=started_at, name=name, ready=is_ready(context))

    async def models(_: Request) -> Response:
        body = ModelList([describe()], [context.settings.model.name])
        return Response(msgspec.json.encode(body), media_type=JSON)

    async def model(request: Request) -> Response:
        check_model(context, request.path_params["model"])
        found = describe()
        # KServe's clients go by the status, and OpenAI's read what is there in any case.
        return Response(
            msgspec.json.encode(found),
            200 if found.ready else 503,
            headers=None if found.ready else {"retry-after": "1"},
            media_type=JSON,
        )

    async def embeddings(request: Request) -> Response:
        facts = asker.check_served(_TASKS, _PATH)

        async def read() -> Wanted[EmbeddingsRequest]:
            limits = context.settings.limits
            asked, found = await read_json(request, limits, decode_request)
            check_model(context, asked.model)
            if asked.dimensions not in (None, facts.dimension):
                raise RequestError(
                    400,
                    "BODY_INVALID",
                    f"dimensions: embeddings have {facts.dimension} here and can't be cut; leave "
                    "dimensions out",
                )
            inputs = [check_embeddable(one, facts) for one in check_texts(found)]
            check_count(inputs, limits)
            return Wanted(inputs, _TASKS, asked, is_whole=True)

        reply, asked = await asker.ask(request, read)
        check_answered(reply)
        with asker.encoding():
            vectors = [one.embedding for one in reply.outcomes if isinstance(one, Output)]
            body = encode_answer(
                reply.model.name, [one for one in vectors if one is not None], asked.encoding_format
            )
            headers = make_headers(reply, has_embedding=True)
            return Response(body, headers=headers, media_type=JSON)

    return [
        Entry(
            "POST",
            _PATH,
            Purpose.INFERENCE,
            OPENAI,
            embeddings,
            "Embeddings of texts, and of images as data URIs",
            takes=(Content(JSON, EmbeddingsRequest),),
            gives=(Content(JSON, EmbeddingsAnswer),),
        ),
        Entry(
            "GET",
            "/v1/models",
            Purpose.ABOUT,
            OPENAI,
            models,
            "The models there are",
            gives=(Content(JSON, ModelList),),
        ),
        Entry(
            "GET",
            "/v1/models/{model}",
            Purpose.ABOUT,
            OPENAI,
            model,
            "One model, and whether it is ready",
            gives=(Content(JSON, Model),),
        ),
    ]
