"""KServe's first protocol: /v1/models/MODEL and /v1/models/MODEL:predict.

GET /v1/models is in `routes_openai`: both protocols have one of that name.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.http.asking import (
    Asker,
    Wanted,
    describe_failure,
    find_problems,
    make_headers,
)
from sluice_inference.http.catalogue import JSON, Content, Entry, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import V1
from sluice_inference.http.inputs import check_count, check_texts, read_json
from sluice_inference.http.models import check_model
from sluice_inference.http.routes_predict import check_embeddable
from sluice_inference.predictor import Input, Outcome, Reply
from sluice_inference.protocols.kserve import (
    InstancePrediction,
    InstancesRequest,
    PredictionsAnswer,
    decode_request,
    encode_answer,
)

_PATH = "/v1/models/{model}:predict"
_CLASSES, _IMAGES, _TEXTS = "Classification", "ImageEmbedding", "TextEmbedding"


def make_routes(context: Context) -> list[Entry]:
    asker = Asker(context)

    async def predict(request: Request) -> Response:
        check_model(context, request.path_params["model"])
        facts = asker.check_served((_CLASSES, _IMAGES, _TEXTS), _PATH)

        async def read() -> Wanted[None]:
            limits = context.settings.limits
            found = await read_json(request, limits, decode_request)
            inputs = [_check_task(one, facts) for one in check_texts(found)]
            check_count(inputs, limits)
            return Wanted(inputs, _list_tasks(inputs), None, is_whole=True)

        reply, _ = await asker.ask(request, read)
        problems = find_problems(reply)
        if len(problems) == len(reply.outcomes):
            raise describe_failure(problems)
        with asker.encoding():
            return _make_response(reply)

    return [
        Entry(
            "POST",
            _PATH,
            Purpose.INFERENCE,
            V1,
            predict,
            "Labels and embeddings, as KServe's first protocol has them",
            takes=(Content(JSON, InstancesRequest),),
            gives=(Content(JSON, PredictionsAnswer),),
        )
    ]


def _check_task(one: Input | RequestError, facts: ModelFacts) -> Input | RequestError:
    """`one`, or its problem. An image is taken where there is anything to say about it."""
    if isinstance(one, bytes) and _CLASSES in facts.tasks:
        return one
    return check_embeddable(one, facts)


def _list_tasks(inputs: list[Input | RequestError]) -> tuple[str, ...]:
    if any(isinstance(one, str) for one in inputs):
        return (_IMAGES, _TEXTS)  # a classifier alone could not answer the texts
    return (_CLASSES, _IMAGES)


def _make_response(reply: Reply) -> Response:
    predictions = [_make_prediction(one, reply.facts) for one in reply.outcomes]
    headers = make_headers(reply, has_embedding=any(one.embedding for one in predictions))
    return Response(encode_answer(predictions), headers=headers, media_type=JSON)


def _make_prediction(one: Outcome, facts: ModelFacts) -> InstancePrediction:
    if not isinstance(one, Output):
        return InstancePrediction(error=f"{one.code}: {one.message}")
    embedding = [] if one.embedding is None else one.embedding.tolist()
    if _CLASSES not in facts.tasks or one.scores is None:
        return InstancePrediction(embedding=embedding)
    if _IMAGES not in facts.tasks:
        embedding = []
    best = int(one.scores.argmax())
    return InstancePrediction(facts.labels[best], float(one.scores[best]), embedding)
