"""POST /embed, /classify and /predict, in our own JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
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
    make_not_served,
)
from sluice_inference.http.catalogue import JSON, Content, Entry, Handler, Purpose, Query
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import NATIVE
from sluice_inference.http.inputs import RAW_TYPES, Body, check_count, read_body
from sluice_inference.http.options import (
    ENCODING,
    LABELS,
    QUALITY,
    TEMPLATE,
    TOP,
    Said,
    read_classes,
    read_encoding,
    read_quality_wish,
    read_top,
)
from sluice_inference.http.quality_reports import make_quality_reports
from sluice_inference.models.zero_shot import compute_zero_shot
from sluice_inference.predictor import Input, Reply
from sluice_inference.protocols.asked import (
    ClassifyRequest,
    EmbedRequest,
    Encoding,
    PredictRequest,
)
from sluice_inference.protocols.native import (
    Answer,
    FallbackItem,
    PictureQuality,
    Prediction,
    Words,
    describe_space,
    encode,
    make_embeddings,
    make_error_body,
    make_item_error,
    make_predictions,
)

_IMAGES = "ImageEmbedding"
_TEXTS = "TextEmbedding"
_CLASSES = "Classification"
# What a body of pictures may be beside JSON.
_PICTURE: dict[str, Any] = {"type": "string", "format": "binary"}
ANSWER = (Content(JSON, Answer, (Prediction, Words)),)


@dataclass(frozen=True, slots=True)
class _Route:
    """One of the routes, and the tasks of which it needs at least one."""

    path: str
    tasks: tuple[str, ...]
    kind: type[EmbedRequest] | type[ClassifyRequest] | type[PredictRequest]
    query: tuple[Query, ...]
    summary: str

    @property
    def fields(self) -> tuple[Query, ...]:
        """The options that may be fields of a form as well."""
        return tuple(one for one in self.query if one is not QUALITY)

    @property
    def takes_labels(self) -> bool:
        return LABELS in self.query


_PREDICT = _Route(
    "/predict",
    (_CLASSES, _IMAGES),
    PredictRequest,
    (TOP, ENCODING, QUALITY),
    "Labels and embeddings of images, whatever the version has",
)
_ROUTES = (
    _Route(
        "/embed",
        (_IMAGES, _TEXTS),
        EmbedRequest,
        (ENCODING, QUALITY),
        "Embeddings of images and texts",
    ),
    _Route(
        "/classify",
        (_CLASSES,),
        ClassifyRequest,
        (TOP, LABELS, TEMPLATE, QUALITY),
        "Labels of images: the model's, or the request's own",
    ),
    _PREDICT,
    replace(_PREDICT, path="/predict/batch", summary="The same as /predict"),
)


@dataclass(frozen=True, slots=True)
class _Options:
    """What one request wants of its answer. `labels`: its own classes; `quality`: what is said of it."""

    top: int
    encoding: Encoding
    labels: tuple[str, ...] = ()
    quality: Sequence[PictureQuality | None] = ()


def make_routes(context: Context) -> list[Entry]:
    asker = Asker(context)
    return [
        Entry(
            "POST",
            route.path,
            Purpose.INFERENCE,
            NATIVE,
            _make_handler(context, asker, route),
            route.summary,
            takes=make_forms(route.kind, route.fields),
            gives=ANSWER,
            query=route.query,
        )
        for route in _ROUTES
    ]


def make_forms(kind: type, fields: Sequence[Query] = ()) -> tuple[Content, ...]:
    """The bodies a route takes: JSON, a form, a raw image. Any field of a form may be repeated."""
    texts = {
        one.name: {"type": "array", "items": one.schema.get("items", one.schema)} for one in fields
    }
    form = {
        "type": "object",
        "properties": {"files": {"type": "array", "items": _PICTURE, "minItems": 1}, **texts},
        "required": ["files"],
        "additionalProperties": False,
    }
    raw = (Content(media_type, _PICTURE) for media_type in RAW_TYPES)
    return (Content(JSON, kind), Content("multipart/form-data", form), *raw)


def _make_handler(context: Context, asker: Asker, route: _Route) -> Handler:
    async def handle(request: Request) -> Response:
        # An image and a text model can take any classes, if the request brings them.
        tasks = (*route.tasks, _IMAGES) if route.takes_labels else route.tasks
        facts = asker.check_served(tasks, route.path)
        with_quality = read_quality_wish(request)

        async def read() -> Wanted[_Options]:
            fields = [one.name for one in route.fields]
            body: Body[Any] = await read_body(request, context.settings.limits, route.kind, fields)
            said = Said(body, request)
            options = _Options(read_top(said), read_encoding(said))
            inputs = [_check_task(one, facts, route) for one in body.inputs]
            labels, texts = read_classes(said) if route.takes_labels else ((), ())
            if not labels:
                asker.check_served(route.tasks, route.path)
                return Wanted(inputs, route.tasks, options, with_quality=with_quality)
            _check_zero_shot(facts, context)
            wanted = [*inputs, *texts]
            check_count(wanted, context.settings.limits)
            options = replace(options, labels=labels)
            return Wanted(
                wanted,
                (_IMAGES, _TEXTS),  # of whoever answers: it embeds the pictures and the labels
                options,
                is_whole=True,
                needs_scale=True,
                with_quality=with_quality,
            )

        reply, options = await asker.ask(request, read)
        with asker.encoding():
            if with_quality:
                options = replace(options, quality=make_quality_reports(reply.outcomes, context))
            make = _make_zero_shot if options.labels else _make_response
            return make(reply, route, options, request)

    return handle


def _make_response(reply: Reply, route: _Route, options: _Options, request: Request) -> Response:
    if (failure := make_failure(reply, request)) is not None:
        return failure
    facts = reply.facts
    has_embedding = route.path != "/classify" and bool(facts.dimension)
    has_embedding &= bool({_IMAGES, _TEXTS} & set(facts.tasks))
    parts: dict[str, Any] = {}
    if has_embedding:
        parts |= describe_space(facts)
        parts["embeddings"] = make_embeddings(reply.outcomes, options.encoding)
    if route.path != "/embed" and _CLASSES in facts.tasks:
        parts["predictions"] = make_predictions(
            reply.outcomes, lambda index: reply.find_source(index).facts.labels, options.top
        )
    if options.quality:
        parts["quality"] = options.quality
    return make_response(reply, parts, has_embedding=has_embedding)


def _make_zero_shot(reply: Reply, _: _Route, options: _Options, request: Request) -> Response:
    """Predictions among the request's own labels, whose texts came after the images."""
    count = len(reply.outcomes) - len(options.labels)
    images, texts = reply.outcomes[:count], reply.outcomes[count:]
    for text in texts:
        if isinstance(text, RequestError):
            raise text  # without one of the classes no image can be judged
    images_only = replace(reply, outcomes=images, others={})
    if (failure := make_failure(images_only, request)) is not None:
        return failure
    matrix = np.stack([one.embedding for one in texts if isinstance(one, Output)])  # type: ignore[misc]
    facts = reply.facts
    if not facts.logit_scale:
        raise _make_no_scale()

    def judge(one: Output | RequestError) -> Output | RequestError:
        if isinstance(one, RequestError) or one.embedding is None:
            return one
        scores = compute_zero_shot(
            one.embedding[None, :], matrix, facts.logit_scale, facts.logit_bias
        )
        return replace(one, scores=scores[0])

    judged = [judge(one) for one in images]
    predictions = make_predictions(judged, lambda _: options.labels, options.top)
    parts: dict[str, Any] = {"predictions": predictions}
    if options.quality:
        parts["quality"] = options.quality[:count]
    return make_response(reply, parts, has_embedding=False)


def make_response(reply: Reply, parts: dict[str, Any], *, has_embedding: bool) -> Response:
    """The answer with its parts, and who gave it."""
    answer = Answer(
        model=reply.model.name,
        version=reply.model.version,
        fallback_reason=reply.fallback_reason,
        fallbacks=[
            FallbackItem(index, source.model.title, source.fallback_reason)
            for index, source in sorted(reply.others.items())
        ],
        **parts,
    )
    headers = make_headers(reply, has_embedding=has_embedding)
    return Response(encode(answer), headers=headers, media_type=JSON)


def make_failure(reply: Reply, request: Request) -> Response | None:
    """The answer where nothing could be answered: every input's problem in `items`. None otherwise.

    Raises the problem of a single input.
    """
    problems = find_problems(reply)
    if len(problems) < len(reply.outcomes):
        return None
    whole = describe_failure(problems)
    if len(problems) == 1:
        raise whole
    items = [make_item_error(index, problem) for index, problem in enumerate(problems)]
    body = make_error_body(whole, request.scope.get("request_id", ""), items)
    return Response(body, status_code=whole.status, media_type=JSON)


def _check_task(one: Input | RequestError, facts: ModelFacts, route: _Route) -> Any:
    """`one`, or the problem of an input that this route or version does not take."""
    if isinstance(one, str) and route.path != "/embed":
        return RequestError(400, "BODY_INVALID", f"{route.path} takes images; texts go to /embed")
    return check_embeddable(one, facts) if route.path == "/embed" else one


def check_embeddable(one: Input | RequestError, facts: ModelFacts) -> Input | RequestError:
    """`one`, or the problem of an image or text that this version has no embedding for."""
    if isinstance(one, str) and _TEXTS not in facts.tasks:
        return make_not_served("an embedding of texts", facts)
    if isinstance(one, bytes) and _IMAGES not in facts.tasks:
        return make_not_served("an embedding of images", facts)
    return one


def _check_zero_shot(facts: ModelFacts, context: Context) -> None:
    has_tasks = {_IMAGES, _TEXTS} <= set(facts.tasks)
    if has_tasks and not facts.logit_scale and context.engine.facts is None:
        raise _make_no_scale()  # of a fallback; what the version has is not known
    if not facts.logit_scale or not has_tasks:
        raise RequestError(
            404,
            "TASK_NOT_SERVED",
            "labels of the request's own need a model of images and texts that was trained to match "
            "them; this version has no such scale. Leave labels out, or compare embeddings yourself",
        )


def _make_no_scale() -> RequestError:
    return RequestError(
        503,
        "OVERLOADED",
        "another model answers for this version just now, and has no scale to judge labels of the "
        "request's own by; try again after Retry-After, or leave labels out",
        retry_after_s=1,
    )
