"""From a model's raw tensors to outputs: unit-length fp32 embeddings, probabilities, no NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import Output
from sluice_inference.errors import RunError

Floats = NDArray[np.float32]


def make_outputs(
    embeddings: Floats | None, logits: Floats | None, scores: Floats | None = None
) -> list[Output | RunError]:
    """One output for each row of embeddings [N,D] and logits [N,C], whichever there are.

    `scores` [N,C] stand for logits where a model has its own way to probabilities. A row with a value that
    is not finite, or an embedding of length 0, is a RunError.
    """
    units = None if embeddings is None else normalise(embeddings)
    scores = scores if logits is None else compute_softmax(logits)
    given = units if units is not None else scores
    count = 0 if given is None else len(given)
    outputs: list[Output | RunError] = []
    for row in range(count):
        unit = None if units is None else units[row]
        score = None if scores is None else scores[row]
        if any(values is not None and not np.isfinite(values).all() for values in (unit, score)):
            outputs.append(RunError("the model gave values that are not finite"))
        else:
            outputs.append(Output(embedding=unit, scores=score))
    return outputs


def normalise(embeddings: Floats) -> Floats:
    """Rows [N,D] of length 1, in float32. A row of zeros becomes NaN."""
    wide = np.asarray(embeddings, dtype=np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)


def compute_softmax(logits: Floats) -> Floats:
    """Probabilities by row [N,C], in float32."""
    wide = np.asarray(logits, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
