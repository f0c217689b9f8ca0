"""Do two answers to one request agree? Pure: no I/O, no counters.

The same top label for every input; and where both give embeddings in one space, a cosine of at least
the bound for every input. Embeddings of different spaces say nothing about each other and are left out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sluice_inference.compare.answer import Failed, Kind, Parts, Prediction, TrackAnswer, Vector


class Outcome(enum.StrEnum):
    """What became of one mirrored request."""

    AGREE = "agree"
    DISAGREE = "disagree"
    STABLE_FAILED = "stable_failed"
    CANDIDATE_FAILED = "candidate_failed"
    BOTH_FAILED = "both_failed"
    SKIPPED = "skipped"


@dataclass(slots=True)
class Comparison:
    """An outcome and what led to it: one entry for each input that both answered."""

    outcome: Outcome
    reason: str = ""
    top1: list[bool] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)  # share of stable's top-k labels, 0..1
    cosines: list[float] = field(default_factory=list)


def compare_answers(stable: TrackAnswer, candidate: TrackAnswer, min_cosine: float) -> Comparison:
    """The comparison of two answers. What stable refuses can't be compared, whoever else answers."""
    match stable.kind, candidate.kind:
        case Kind.FAILED, Kind.FAILED:
            return Comparison(Outcome.BOTH_FAILED)
        case Kind.FAILED, _:
            return Comparison(Outcome.STABLE_FAILED)
        case _, Kind.FAILED:
            return Comparison(Outcome.CANDIDATE_FAILED)
        case Kind.REFUSED, _:
            return Comparison(Outcome.SKIPPED, "refused")
        case _, Kind.REFUSED:
            return Comparison(Outcome.CANDIDATE_FAILED)
    return _compare_parts(stable.parts, candidate.parts, min_cosine)


def _compare_parts(stable: Parts, candidate: Parts, min_cosine: float) -> Comparison:
    made = Comparison(Outcome.SKIPPED, "not_comparable")
    verdicts: list[bool] = []
    if stable.predictions is not None:
        verdicts += _compare_labels(stable.predictions, candidate.predictions, made)
    if stable.embeddings is not None:
        if candidate.embeddings is not None and not _is_same_space(stable, candidate):
            made.reason = "other_space"
        else:
            verdicts += _compare_embeddings(
                stable.embeddings, candidate.embeddings, made, min_cosine
            )
    if verdicts:
        made.outcome = Outcome.AGREE if all(verdicts) else Outcome.DISAGREE
        made.reason = ""
    return made


def _is_same_space(stable: Parts, candidate: Parts) -> bool:
    return bool(stable.space) and stable.space == candidate.space


def _compare_labels(
    stable: tuple[Prediction, ...], candidate: tuple[Prediction, ...] | None, made: Comparison
) -> list[bool]:
    """One verdict for each input that stable has a label for."""
    if candidate is None or len(candidate) != len(stable):
        return [False]
    verdicts = []
    for one, other in zip(stable, candidate, strict=True):
        if not one.label:
            continue
        verdicts.append(one.label == other.label)
        if other.label:
            made.top1.append(one.label == other.label)
        if other.label and one.labels:
            made.overlaps.append(len(one.labels & other.labels) / len(one.labels))
    return verdicts


def _compare_embeddings(
    stable: tuple[Vector | Failed, ...],
    candidate: tuple[Vector | Failed, ...] | None,
    made: Comparison,
    min_cosine: float,
) -> list[bool]:
    """One verdict for each input that stable has an embedding for."""
    if candidate is None or len(candidate) != len(stable):
        return [False]
    verdicts = []
    for one, other in zip(stable, candidate, strict=True):
        if isinstance(one, Failed):
            continue
        cosine = None if isinstance(other, Failed) else compute_cosine(one, other)
        if cosine is not None:
            made.cosines.append(cosine)
        verdicts.append(cosine is not None and cosine >= min_cosine)
    return verdicts


def compute_cosine(one: Vector, other: Vector) -> float | None:
    """The cosine of two vectors, -1..1; None where there is none (other lengths, zeros, or too large)."""
    left, right = _read_vector(one), _read_vector(other)
    if len(left) != len(right):
        return None
    with np.errstate(over="ignore"):
        lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    if not 0 < lengths < np.inf:
        return None
    return float(np.clip(left @ right / lengths, -1.0, 1.0))


def _read_vector(vector: Vector) -> NDArray[np.float64]:
    """Numbers as they are, or float32 in little-endian; bytes that are no whole number of them are none."""
    if not isinstance(vector, bytes):
        return np.asarray(vector, dtype=np.float64)
    whole = vector if len(vector) % 4 == 0 else b""
    return np.frombuffer(whole, dtype="<f4").astype(np.float64)
