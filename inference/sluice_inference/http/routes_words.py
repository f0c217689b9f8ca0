"""POST /caption, /vqa and /ocr: what a model says about pictures, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sluice_inference.errors import RequestError
from sluice_inference.http.asking import Asker, Wanted
from sluice_inference.http.catalogue import Entry, Handler, Purpose
from sluice_inference.http.context import Context
from sluice_inference.http.dialects import NATIVE
from sluice_inference.http.inputs import Body, add_questions, read_body
from sluice_inference.http.options import QUESTION, Said, read_questions
from sluice_inference.http.routes_predict import ANSWER, make_failure, make_forms, make_response
from sluice_inference.protocols.asked import QuestionRequest
from sluice_inference.protocols.native import make_words


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    task: str
    summary: str
    needs_question: bool = False


_ROUTES = (
    _Route("/caption", "Captioning", "Images described in a sentence"),
    _Route("/vqa", "VisualQuestionAnswering", "Questions about images answered", True),
    _Route("/ocr", "OCR", "The text that is in images"),
)


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
            takes=make_forms(QuestionRequest, (QUESTION,)),
            gives=ANSWER,
            query=(QUESTION,),
        )
        for route in _ROUTES
    ]


def _make_handler(context: Context, asker: Asker, route: _Route) -> Handler:
    async def handle(request: Request) -> Response:
        asker.check_served((route.task,), route.path)

        async def read() -> Wanted[None]:
            body: Body[Any] = await read_body(
                request, context.settings.limits, QuestionRequest, (QUESTION.name,)
            )
            questions = read_questions(Said(body, request))
            if route.needs_question and not all(one.strip() for one in questions):
                raise RequestError(
                    400,
                    "BODY_INVALID",
                    f"{route.path} needs a question: a field of the form, of each JSON input, or of "
                    "the query",
                )
            inputs = add_questions(body.inputs, questions, route.task)
            return Wanted(inputs, (route.task,), None)

        reply, _ = await asker.ask(request, read)
        with asker.encoding():
            failure = make_failure(reply, request)
            answers = {"answers": make_words(reply.outcomes)}
            return failure or make_response(reply, answers, has_embedding=False)

    return handle
