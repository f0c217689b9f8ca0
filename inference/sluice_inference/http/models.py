"""The model as other protocols name it in paths and bodies: is it this one, is it ready, did it answer.

Our own routes never name the model: a service has one, and which version it is changes under its clients.
"""

from __future__ import annotations

from sluice_inference.errors import RequestError
from sluice_inference.http.context import Context
from sluice_inference.http.routes_ops import find_fault
from sluice_inference.predictor import Reply


def check_model(context: Context, name: str, version: str | None = None) -> None:
    """Raises RequestError 404 MODEL_NOT_FOUND where another model, or version of it, is named.

    A request for a version is answered by that one alone; in a rollout the other track may have it.
    """
    model = context.settings.model
    if name != model.name:
        raise RequestError(
            404,
            "MODEL_NOT_FOUND",
            f"there is no model {name[:64]!r} here; there is {model.name!r}",
        )
    if version is not None and version != model.version:
        raise RequestError(
            404,
            "MODEL_NOT_FOUND",
            f"version {version[:64]!r} of {model.name!r} is not here; there is {model.version!r}. Ask "
            "without a version for the one that is rolled out",
        )


def is_ready(context: Context) -> bool:
    """As GET /ready says."""
    return context.lifecycle.is_ready() and not find_fault(context)


def check_answered(reply: Reply) -> None:
    """Raises the first input's problem, with its place: for dialects whose answers are whole or none."""
    for index, one in enumerate(reply.outcomes):
        if isinstance(one, RequestError):
            if len(reply.outcomes) == 1:
                raise one
            raise RequestError(one.status, one.code, f"input {index}: {one.message}")
