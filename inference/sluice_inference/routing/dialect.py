"""Our own JSON from the client's side: how a job is written for another server, and its answer read.

Pure. The other server may be of another version, so unknown fields are passed over, and whatever is
missing or does not fit is a ValueError or a msgspec.DecodeError, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import ModelFacts, Output
from sluice_inference.errors import RequestError
from sluice_inference.predictor import Job, Outcome, Question, Reply

# Sent along by a server that asks its fallback: that one must not ask another in turn.
FALLBACK_HEADER = "sluice-fallback"
# What is asked of another server; the others have answers that no model here could stand beside.
TASKS = ("ImageEmbedding", "TextEmbedding", "Classification")
_EMBEDDING = frozenset(TASKS[:2])
_MOST_LABELS = 100
# Where an input is at fault the other server says so in its place, with a code but no status.
_SERVER_CODES = frozenset({"MODEL_FAILED", "INTERNAL", "OVERLOADED", "STOPPING", "TIMEOUT"})
_INPUT_STATUSES = frozenset({413, 415, 422})


@dataclass(frozen=True, slots=True)
class RemoteName:
    """What another server calls its model."""

    name: str
    version: str

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What another server says of itself."""

    name: RemoteName
    device: str
    architecture: str
    tasks: tuple[str, ...]
    space: str
    dimension: int


class _Space(msgspec.Struct, frozen=True):
    space: str = ""
    dimension: int = 0


class _Status(msgspec.Struct, frozen=True):
    state: str
    model: str
    version: str
    tasks: tuple[str, ...]
    embedding: _Space
    device: str = ""
    architecture: str = ""


class _Label(msgspec.Struct, frozen=True):
    label: str
    score: float


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Entry(msgspec.Struct, frozen=True):
    """One input's place in a list: its labels, or its error."""

    top: tuple[_Label, ...] = ()
    error: _Error | None = None


class _Answer(msgspec.Struct, frozen=True):
    model: str
    version: str
    space: str = ""
    dimension: int = 0
    embeddings: list[list[float] | _Entry] = []
    predictions: list[_Entry] = []


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error
    items: list[_Entry] = []


def read_status(body: bytes) -> RemoteStatus | None:
    """What /status says; None while no model answers there. Raises msgspec.DecodeError."""
    said = msgspec.json.decode(body, type=_Status)
    if said.state not in ("ready", "draining"):
        return None
    return RemoteStatus(
        RemoteName(said.model, said.version),
        said.device,
        said.architecture,
        said.tasks,
        said.embedding.space,
        said.embedding.dimension,
    )


def write_request(job: Job) -> tuple[str, bytes]:
    """Path and body that ask the same of another server."""
    inputs: list[dict[str, str | bytes]] = []
    for one in job.inputs:
        match one:
            case str():
                inputs.append({"text": one})
            case bytes():
                inputs.append({"image": one})  # becomes base64
            case Question() | RequestError():
                raise TypeError(f"{type(one).__name__} is never asked of another server")
    wants_embedding = bool(_EMBEDDING & set(job.tasks))
    if "Classification" not in job.tasks:
        path = "/embed"
    else:
        path = f"{'/predict' if wants_embedding else '/classify'}?top_k={_MOST_LABELS}"
    return path, msgspec.json.encode({"inputs": inputs})


def read_reply(body: bytes, job: Job, facts: ModelFacts) -> Reply:
    """The reply in a 200. The labels are those that the answer names, up to 100 for an input."""
    said = msgspec.json.decode(body, type=_Answer)
    count = len(job.inputs)
    for entries in (said.embeddings, said.predictions):
        if len(entries) not in (0, count):
            raise ValueError(f"{len(entries)} answers to {count} inputs")
    if not said.embeddings and not said.predictions:
        raise ValueError("neither embeddings nor predictions")
    labels = tuple(
        dict.fromkeys(one.label for entry in said.predictions for one in entry.top).keys()
    )
    outcomes = [_read_outcome(said, at, labels) for at in range(count)]
    lacking = _EMBEDDING if not said.embeddings else frozenset()
    lacking |= frozenset() if said.predictions else {"Classification"}
    told = replace(
        facts,
        tasks=tuple(task for task in facts.tasks if task not in lacking),
        labels=labels,
        space=said.space,
        dimension=said.dimension,
    )
    return Reply(outcomes, RemoteName(said.model, said.version), told)


def read_refusal(status: int, body: bytes, count: int) -> Sequence[RequestError]:
    """What is wrong with each input, where none could be answered because of the inputs.

    Raises ValueError where it is anything else that the other server did not like.
    """
    if status not in _INPUT_STATUSES:
        raise ValueError(f"status {status}")
    said = msgspec.json.decode(body, type=_Refusal)
    errors = [one.error for one in said.items if one.error is not None] or [said.error] * count
    if len(errors) != count:
        raise ValueError(f"{len(errors)} errors for {count} inputs")
    return [_make_error(one, status) for one in errors]


def _read_outcome(said: _Answer, at: int, labels: Sequence[str]) -> Outcome:
    embedding = None
    if said.embeddings:
        found = said.embeddings[at]
        if isinstance(found, _Entry):
            return _read_error(found)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            embedding = np.asarray(found, dtype=np.float32)
        if len(embedding) != said.dimension or not np.isfinite(embedding).all():
            raise ValueError(f"an embedding of {len(embedding)} numbers, not {said.dimension}")
    scores = None
    if said.predictions:
        entry = said.predictions[at]
        if entry.error is not None:
            return _read_error(entry)
        scores = _read_scores(entry, labels)
    return Output(embedding, scores)


def _read_scores(entry: _Entry, labels: Sequence[str]) -> NDArray[np.float32]:
    known = {one.label: one.score for one in entry.top}
    return np.asarray([known.get(label, 0.0) for label in labels], dtype=np.float32)


def _read_error(entry: _Entry) -> RequestError:
    if entry.error is None:
        raise ValueError("neither an answer nor an error")
    return _make_error(entry.error, 422)


def _make_error(error: _Error, status: int) -> RequestError:
    return RequestError(500 if error.code in _SERVER_CODES else status, error.code, error.message)
