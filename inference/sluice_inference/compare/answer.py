"""One track's answer to a mirrored request, as much of it as is compared. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import msgspec


class Kind(enum.Enum):
    """What an answer amounts to, by its status."""

    ANSWERED = enum.auto()
    REFUSED = enum.auto()  # 4xx: the request is at fault, or the version does not take it
    FAILED = enum.auto()  # anything else, or no answer in time


class _Label(msgspec.Struct, frozen=True):
    label: str


class Prediction(msgspec.Struct, frozen=True):
    """One item of `predictions`; without a label where the item failed."""

    label: str = ""
    top: tuple[_Label, ...] = ()

    @property
    def labels(self) -> frozenset[str]:
        """The top-k labels, without their order."""
        return frozenset(one.label for one in self.top)


class Failed(msgspec.Struct, frozen=True):
    """Stands for an embedding that could not be made."""


Vector = tuple[float, ...] | bytes


class Parts(msgspec.Struct, frozen=True):
    """What of a body is compared. None where the body has no such list.

    An embedding is a list of numbers, or float32 (little-endian) in base64, as its client asked for it.
    """

    space: str = ""
    predictions: tuple[Prediction, ...] | None = None
    embeddings: tuple[Vector | Failed, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrackAnswer:
    """A status (0: none came), and what was in the body."""

    status: int
    parts: Parts = field(default_factory=Parts)

    @property
    def kind(self) -> Kind:
        if 200 <= self.status < 300:
            return Kind.ANSWERED
        return Kind.REFUSED if 400 <= self.status < 500 else Kind.FAILED


_DECODER = msgspec.json.Decoder(Parts)


def read_answer(status: int, space_header: str, body: bytes) -> TrackAnswer:
    """The answer with its parts; a body that is no inference answer has none.

    Where header `sluice-embedding-space` and the body name different spaces, the space is unknown.
    """
    try:
        parts = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return TrackAnswer(status)
    if space_header != parts.space:
        parts = msgspec.structs.replace(parts, space="")
    return TrackAnswer(status, parts)
