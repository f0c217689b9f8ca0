"""How far an export's answers lie from its source's, and what both cost.

Responsible for asking two backends the same and for the arithmetic. Must not decide what is good enough
(`verdict`), nor write anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import Backend, Kind, Output, Payload
from sluice_inference.export.errors import ExportError

Floats = NDArray[np.float32]

BATCH = 32
_RUNS = 30
_SECONDS = 2.0  # and no longer than about this for each pair of figures


@dataclass(frozen=True)
class Answers:
    """A model's answers to N inputs: embeddings [N,D] of length 1, scores [N,C], or one of them."""

    embeddings: Floats | None
    scores: Floats | None


@dataclass(frozen=True)
class Latency:
    """Median time of a run, in ms: one input, and BATCH of them together."""

    single_ms: float
    batch_ms: float


@dataclass(frozen=True)
class Parity:
    """Export against source over `samples` inputs of one kind; shares are 0..1.

    Cosines are of embeddings, or of the scores where a model gives no embedding (`cosine_of` says which).
    Agreement is the share of equal best labels, accuracy that of right ones where labels are known.
    """

    samples: int
    cosine_of: str
    cosine_min: float
    cosine_mean: float
    agreement: float | None
    labelled: int
    accuracy_source: float | None
    accuracy_export: float | None


def ask(backend: Backend, kind: Kind, payloads: Sequence[Payload]) -> Answers:
    """All answers of a backend, BATCH at a time. Raises ExportError where an input has none."""
    outputs: list[Output] = []
    for start in range(0, len(payloads), BATCH):
        for outcome in backend.run(kind, payloads[start : start + BATCH]):
            if not isinstance(outcome, Output):
                raise ExportError(f"the model can't answer a sample ({kind}): {outcome}")
            outputs.append(outcome)
    return Answers(
        _stack([one.embedding for one in outputs]), _stack([one.scores for one in outputs])
    )


def compare(
    source: Answers, export: Answers, labels: Sequence[str], truth: Sequence[str] = ()
) -> Parity:
    """Hold the answers of `export` to those of `source`, input by input.

    `labels` are the model's, in the order of the scores; `truth` has what is right for each input, ""
    where nobody knows.
    """
    use_embeddings = source.embeddings is not None and export.embeddings is not None
    one, other = (
        (source.embeddings, export.embeddings) if use_embeddings else (source.scores, export.scores)
    )
    if one is None or other is None or one.shape != other.shape:
        raise ExportError("source and export do not give the same kinds of answers")
    cosines = compute_cosines(one, other)
    agreement = None
    accuracies: list[float | None] = [None, None]
    known = [row for row, label in enumerate(truth) if label]
    if source.scores is not None and export.scores is not None:
        best = [answers.argmax(axis=1) for answers in (source.scores, export.scores)]
        agreement = float((best[0] == best[1]).mean())
        if known:
            accuracies = [
                sum(labels[int(rows[row])] == truth[row] for row in known) / len(known)
                for rows in best
            ]
    return Parity(
        samples=len(one),
        cosine_of="embeddings" if use_embeddings else "scores",
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        agreement=agreement,
        labelled=len(known),
        accuracy_source=accuracies[0],
        accuracy_export=accuracies[1],
    )


def compute_cosines(one: Floats, other: Floats) -> NDArray[np.float64]:
    """Cosines of two sets of vectors [N,D], row by row -> [N]."""
    products = (one.astype(np.float64) * other).sum(axis=1)
    lengths = np.linalg.norm(one.astype(np.float64), axis=1) * np.linalg.norm(other, axis=1)
    cosines: NDArray[np.float64] = products / lengths
    return cosines


def measure(backends: Sequence[Backend], kind: Kind, payload: Payload) -> list[Latency]:
    """Time each backend on one input and on BATCH, in turns: what else the machine does meets all."""
    singles = _time(backends, kind, [payload])
    batches = _time(backends, kind, [payload] * BATCH)
    return [Latency(one, many) for one, many in zip(singles, batches, strict=True)]


def _time(backends: Sequence[Backend], kind: Kind, payloads: Sequence[Payload]) -> list[float]:
    taken: list[list[float]] = []
    until = time.perf_counter() + _SECONDS
    while len(taken) < _RUNS and (not taken or time.perf_counter() < until):
        turn = []
        for backend in backends:
            backend.run(kind, payloads)  # the caches are the other one's by now
            began = time.perf_counter()
            backend.run(kind, payloads)
            turn.append(time.perf_counter() - began)
        taken.append(turn)
    return [float(value) * 1000 for value in np.median(taken, axis=0)]


def _stack(rows: Sequence[Floats | None]) -> Floats | None:
    there = [row for row in rows if row is not None]
    return np.stack(there) if there else None
