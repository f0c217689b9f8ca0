"""The part of an object's metadata that decisions are made on, and parsing with useful errors.

It must not know a kind's spec.
"""

from typing import TypeVar

from pydantic import ConfigDict, Field, ValidationError

from sluice.api.base import JSON, Model
from sluice.errors import UserError

_SHOWN = 3
"""Problems named in one message: the first few are what a person fixes next."""


class Metadata(Model):
    """The subset of ObjectMeta that the operator reads; all else is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    @property
    def is_deleting(self) -> bool:
        """Whether the object is on its way out: it then gets no new children."""
        return self.deletion_timestamp is not None


class Resource(Model):
    """An object as it came from the API server: `apiVersion`, `kind` and `status` are not kept."""

    model_config = ConfigDict(extra="ignore")

    metadata: Metadata


R = TypeVar("R", bound=Resource)


def parse_resource(kind: type[R], obj: JSON) -> R:
    """Parses one object; UserError(reason InvalidSpec) names each wrong field by its path."""
    try:
        return kind.model_validate(obj)
    except ValidationError as error:
        raise UserError("InvalidSpec", describe(error)) from error


def describe(error: ValidationError) -> str:
    """One line for people: `spec.scaling.minReplicas: …; spec.model.version: …`."""
    problems = [
        f"{_path(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False, include_context=False)
    ]
    more = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _path(location: tuple[int | str, ...]) -> str:
    out = ""
    for part in location:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{part}" if out else part
    return out
