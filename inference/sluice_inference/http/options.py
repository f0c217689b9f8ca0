"""What a request to our own routes may say beside its inputs: in the query, in a form's fields, or in JSON.

What stands in the JSON body counts first, then the form, then the query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from starlette.requests import Request

from sluice_inference.errors import RequestError
from sluice_inference.http.catalogue import Query
from sluice_inference.http.inputs import Body
from sluice_inference.protocols.asked import MAX_TOP, Encoding, Labels, Template

_DEFAULT_TOP = 5
_DEFAULT_TEMPLATE = "a photo of {}"
TOP = Query(
    "top_k",
    f"How many labels `top` has (default {_DEFAULT_TOP})",
    {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": _DEFAULT_TOP},
)
ENCODING = Query(
    "encoding",
    "Embeddings as numbers, or as float32 (little-endian) in base64",
    {"type": "string", "enum": list(get_args(Encoding)), "default": "float"},
)
LABELS = Query(
    "labels",
    "Classes of the request's own; repeated, one for each",
    {"type": "array", "items": {"type": "string", "minLength": 1}},
)
TEMPLATE = Query(
    "template",
    "The text of a class; {} is its label",
    {"type": "string", "default": _DEFAULT_TEMPLATE},
)
QUESTION = Query("question", "What is asked of the images", {"type": "string"})
QUALITY = Query(
    "quality",
    "Whether the answer is to say how good the pictures are",
    {"type": "boolean", "default": False},
)


@dataclass(frozen=True, slots=True)
class Said:
    """Where options are looked up; the first place that has one counts."""

    body: Body[Any]
    request: Request

    def find(self, name: str) -> Any:
        """The value in JSON, or the texts in form or query; an empty list where nobody says it."""
        found = getattr(self.body.said, name, None)
        if found is not None:
            return found
        return self.body.fields.get(name) or self.request.query_params.getlist(name)


def read_top(said: Said) -> int:
    """Raises RequestError 400 QUERY_INVALID."""
    found = said.find("top_k")
    if isinstance(found, int):
        return found
    raw = found[-1] if found else str(_DEFAULT_TOP)
    if not re.fullmatch(r"[0-9]{1,3}", raw) or not 1 <= int(raw) <= MAX_TOP:
        raise RequestError(400, "QUERY_INVALID", f"top_k: a whole number from 1 to {MAX_TOP}")
    return int(raw)


def read_encoding(said: Said) -> Encoding:
    """Raises RequestError 400 QUERY_INVALID."""
    found = said.find("encoding")
    raw = found if isinstance(found, str) else (found[-1] if found else "float")
    if raw not in get_args(Encoding):
        allowed = " or ".join(get_args(Encoding))
        raise RequestError(400, "QUERY_INVALID", f"encoding: {allowed}")
    return "base64" if raw == "base64" else "float"


def read_quality_wish(request: Request) -> bool:
    """Raises RequestError 400 QUERY_INVALID."""
    raw = request.query_params.get("quality", "false")
    if raw not in ("true", "false"):
        raise RequestError(400, "QUERY_INVALID", "quality: true or false")
    return raw == "true"


def read_classes(said: Said) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The request's own labels, and the text of each; both empty where it has none.

    Raises RequestError 400 QUERY_INVALID.
    """
    labels: Sequence[str] = said.find("labels")
    if not labels:
        return (), ()
    found = said.find("template")
    template = found if isinstance(found, str) else (found[-1] if found else _DEFAULT_TEMPLATE)
    try:
        chosen: tuple[str, ...] = msgspec.convert(labels, Labels)
        msgspec.convert(template, Template)
    except msgspec.ValidationError as error:
        raise RequestError(
            400,
            "QUERY_INVALID",
            f"labels, template: {error}; wanted are labels of 1 to 1024 characters, and a template "
            "with one {}",
        ) from error
    return chosen, tuple(template.replace("{}", label) for label in chosen)


def read_questions(said: Said) -> list[str]:
    """The questions: one for all images, or as many as the body says; empty texts where there are none.

    In JSON each input has its own; those that have none are asked what the query asks.
    """
    asked: list[str] = list(said.find("question")) or [""]
    if said.body.said is None:
        return asked
    own: list[str] = [one.question for one in said.body.said.inputs]
    if all(one.strip() for one in own):
        return own
    if len(asked) not in (1, len(own)):
        return asked  # neither one for all nor one for each: refused with their number
    others = asked if len(asked) == len(own) else asked * len(own)
    return [mine if mine.strip() else other for mine, other in zip(own, others, strict=True)]
