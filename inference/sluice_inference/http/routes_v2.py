"""The Open Inference Protocol, version 2: /v2, its health, metadata and infer.

Inputs are IMAGE and TEXT (BYTES), outputs image_embeds, text_embeds, probs and labels. A tensor has no
place for a single input's error, so one that fails fails the request.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from sluice_inference import __version__
from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.http.asking import Asker, Wanted, make_headers
from sluice_inference.http.catalogue import BINARY, JSON, Content, Entry, Handler, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import V2
from sluice_inference.http.inputs import check_count, check_texts, read_bytes, read_json
from sluice_inference.http.models import check_answered, check_model, is_ready
from sluice_inference.predictor import Input, Reply
from sluice_inference.protocols import v2

IMAGE, TEXT = "IMAGE", "TEXT"
_CLASSES, _IMAGES, _TEXTS = "Classification", "ImageEmbedding", "TextEmbedding"
_TASKS = (_CLASSES, _IMAGES, _TEXTS)
_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
# Triton's suffixes and ours: the project, and how the weights are stored.
_PLATFORMS = {"onnx": "onnxruntime_onnx", "torch": "pytorch_safetensors"}


def make_routes(context: Context) -> list[Entry]:
    asker = Asker(context)

    def check_named(request: Request) -> None:
        names = request.path_params
        check_model(context, names["model"], names.get("version"))

    async def server(_: Request) -> Response:
        return _answer(v2.ServerMetadata("sluice-inference", __version__, v2.EXTENSIONS))

    async def live(_: Request) -> Response:
        fault = context.engine.health()
        return _answer(v2.Live(not fault), 503 if fault else 200)

    async def ready(_: Request) -> Response:
        return _answer(v2.Ready(is_ready(context)), 200 if is_ready(context) else 503)

    async def models(_: Request) -> Response:
        return _answer(v2.ModelNames([context.settings.model.name]))

    async def metadata(request: Request) -> Response:
        check_named(request)
        facts = asker.check_served(_list_tasks(context), "metadata")
        model = context.settings.model
        inputs, outputs = describe_tensors(facts)
        platform = _PLATFORMS.get(facts.backend, facts.backend)
        return _answer(v2.ModelMetadata(model.name, [model.version], platform, inputs, outputs))

    async def model_ready(request: Request) -> Response:
        check_named(request)
        name = context.settings.model.name
        return _answer(v2.ModelReady(name, is_ready(context)), 200 if is_ready(context) else 503)

    infer = _make_infer(context, asker)
    tensors = (Content(JSON, v2.InferRequest), Content(BINARY, _BINARY))
    answers = (Content(JSON, v2.InferAnswer), Content(BINARY, _BINARY))
    about, probe = Purpose.ABOUT, Purpose.PROBE
    entries = [
        _make_get("/v2", about, server, "Name and extensions of this server", v2.ServerMetadata),
        _make_get("/v2/health/live", probe, live, "Can this process work?", v2.Live),
        _make_get("/v2/health/ready", probe, ready, "Is new traffic welcome?", v2.Ready),
        _make_get("/v2/models", about, models, "The models there are", v2.ModelNames),
    ]
    for path in (_VERSION, _MODEL):
        entries += [
            _make_get(path, about, metadata, "Inputs and outputs of the model", v2.ModelMetadata),
            _make_get(f"{path}/ready", probe, model_ready, "Is the model ready?", v2.ModelReady),
            Entry(
                "POST",
                f"{path}/infer",
                Purpose.INFERENCE,
                V2,
                infer,
                "Embeddings and classes of images and texts, as tensors",
                takes=tensors,
                gives=answers,
            ),
        ]
    return entries


_BINARY = {"type": "string", "format": "binary"}


def _list_tasks(context: Context) -> Sequence[str]:
    """Whatever the model has: metadata can be told of any."""
    facts = context.answerer.facts
    return facts.tasks if facts is not None else ()


def _make_get(path: str, purpose: Purpose, handle: Handler, summary: str, gives: type) -> Entry:
    return Entry("GET", path, purpose, V2, handle, summary, gives=(Content(JSON, gives),))


def _answer(body: msgspec.Struct, status: int = 200) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(msgspec.json.encode(body), status, headers=headers, media_type=JSON)


def describe_tensors(
    facts: ModelFacts,
) -> tuple[list[v2.TensorMetadata], list[v2.TensorMetadata]]:
    """Inputs and outputs of a model, by its tasks."""
    tasks = set(facts.tasks)
    rows = (
        (bool(tasks & {_CLASSES, _IMAGES}), 0, IMAGE, "BYTES", [-1]),
        (_TEXTS in tasks, 0, TEXT, "BYTES", [-1]),
        (_IMAGES in tasks, 1, "image_embeds", "FP32", [-1, facts.dimension]),
        (_TEXTS in tasks, 1, "text_embeds", "FP32", [-1, facts.dimension]),
        (_CLASSES in tasks, 1, "probs", "FP32", [-1, len(facts.labels)]),
        (_CLASSES in tasks, 1, "labels", "BYTES", [-1]),
    )
    found: tuple[list[v2.TensorMetadata], list[v2.TensorMetadata]] = ([], [])
    for is_there, side, name, datatype, shape in rows:
        if is_there:
            found[side].append(v2.TensorMetadata(name, datatype, shape))
    return found


def _make_infer(context: Context, asker: Asker) -> Handler:
    limits = context.settings.limits

    async def read_request(request: Request, facts: ModelFacts) -> Wanted[v2.Asked]:
        header = request.headers.get(v2.HEADER)

        def decode(body: bytes, most: int) -> tuple[v2.Asked, list[Input | RequestError]]:
            # Its images too: their base64 is most of the work, which a thread does for a large body.
            asked = v2.decode_request(body, header, most)
            return asked, _read_inputs(asked, facts)

        if header == "0":
            image = await read_bytes(request, limits.max_image_bytes, "the image")
            asked = v2.Asked("", {IMAGE: [image]}, {IMAGE: True}, None, is_binary_wanted=False)
            inputs = _read_inputs(asked, facts)
        else:
            asked, inputs = await read_json(request, limits, decode)
        check_count(inputs, limits)
        _check_outputs(asked, facts)
        return Wanted(inputs, _list_wanted_tasks(asked, facts), asked, is_whole=True)

    async def infer(request: Request) -> Response:
        names = request.path_params
        check_model(context, names["model"], names.get("version"))
        facts = asker.check_served(_TASKS, "inference")
        reply, asked = await asker.ask(request, lambda: read_request(request, facts))
        check_answered(reply)
        with asker.encoding():
            return _make_response(reply, asked)

    return infer


def _read_inputs(asked: v2.Asked, facts: ModelFacts) -> list[Input | RequestError]:
    """The images and then the texts. Raises RequestError for an input the model does not have."""
    known = [one.name for one in describe_tensors(facts)[0]]
    for name in asked.inputs:
        if name not in known:
            raise RequestError(
                400,
                "BODY_INVALID",
                f"there is no input {name[:64]!r}; there are {', '.join(known)}",
            )
    images = asked.inputs.get(IMAGE, [])
    if not asked.is_binary.get(IMAGE, True):
        images = [_decode_base64(one, index) for index, one in enumerate(images)]
    texts = [_decode_text(one, index) for index, one in enumerate(asked.inputs.get(TEXT, []))]
    return [*images, *check_texts(texts)]


def _decode_base64(data: bytes, index: int) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            400, "BODY_INVALID", f"{IMAGE}[{index}] is no base64; URLs are not fetched"
        ) from error


def _decode_text(data: bytes, index: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, "BODY_INVALID", f"{TEXT}[{index}] is no UTF-8") from error


def _check_outputs(asked: v2.Asked, facts: ModelFacts) -> None:
    """Raises RequestError 400 for an output that the model, or the request, has no input for."""
    names = _list_outputs(asked, facts)
    for wanted in asked.outputs or ():
        if wanted.name not in names:
            raise RequestError(
                400,
                "BODY_INVALID",
                f"there is no output {wanted.name[:64]!r} for these inputs; there are "
                f"{', '.join(names)}",
            )


def _list_wanted_tasks(asked: v2.Asked, facts: ModelFacts) -> list[str]:
    """The tasks behind the outputs that are asked for."""
    behind = {"image_embeds": _IMAGES, "text_embeds": _TEXTS}
    names = [one.name for one in asked.outputs or ()] or _list_outputs(asked, facts)
    return sorted({behind.get(name, _CLASSES) for name in names})


def _list_outputs(asked: v2.Asked, facts: ModelFacts) -> list[str]:
    given = [one.name for one in describe_tensors(facts)[1]]
    needs = {"text_embeds": TEXT}
    return [name for name in given if asked.inputs.get(needs.get(name, IMAGE))]


def _make_response(reply: Reply, asked: v2.Asked) -> Response:
    facts = reply.facts
    given = _list_outputs(asked, facts)
    wanted: list[v2.Wanted | None] = [*asked.outputs] if asked.outputs else [None] * len(given)
    names = [one.name for one in asked.outputs] if asked.outputs else given
    if missing := set(names) - set(given):
        # The primary has them, or the request had been refused: a fallback answered.
        raise RequestError(
            503,
            "OVERLOADED",
            f"the fallback that answered has no {', '.join(sorted(missing))}; try again later",
            retry_after_s=1,
        )
    count = len(asked.inputs.get(IMAGE, []))
    outputs = [one for one in reply.outcomes if isinstance(one, Output)]
    made = [_make_tensor(name, outputs[:count], outputs[count:], facts) for name in names]
    body, size = v2.encode_answer(
        reply.model.name,
        reply.model.version,
        asked.id,
        made,
        wanted,
        is_binary=asked.is_binary_wanted,
        labels=facts.labels,
    )
    has_embedding = any(name.endswith("_embeds") for name in names)
    headers = make_headers(reply, has_embedding=has_embedding)
    if size is not None:
        headers[v2.HEADER] = str(size)
    return Response(body, headers=headers, media_type=JSON if size is None else BINARY)


def _make_tensor(
    name: str, images: Sequence[Output], texts: Sequence[Output], facts: ModelFacts
) -> v2.Made:
    rows = [
        one.scores if name in ("probs", "labels") else one.embedding
        for one in (texts if name == "text_embeds" else images)
    ]
    matrix = np.stack([row for row in rows if row is not None])
    if name == "labels":
        return v2.Made(name, [facts.labels[int(row.argmax())] for row in matrix])
    return v2.Made(name, matrix)
