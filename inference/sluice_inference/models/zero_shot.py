"""Which of some texts an image goes with: scores from embeddings alone, for classes that nobody trained.

Pure numbers. Softmax as in CLIP (arXiv 2103.00020, section 3.1.2); with a bias, a sigmoid for each class as
in SigLIP (arXiv 2303.15343, section 3.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sluice_inference.models.outputs import compute_softmax

Floats = NDArray[np.float32]


def compute_zero_shot(images: Floats, labels: Floats, scale: float, bias: float | None) -> Floats:
    """Scores float32 [N,C] of images [N,D] against labels' texts [C,D], all of length 1.

    `scale` and `bias` are the model's (`ModelFacts.logit_scale`, `logit_bias`). Without a bias a row
    adds up to 1; with one, each score is a probability of its own.
    """
    logits = np.asarray(scale * (images @ labels.T), dtype=np.float32)
    if bias is None:
        return compute_softmax(logits)
    # Clipped where float32 has long said 0 or 1, so that exp can't overflow. NaN stays NaN.
    return np.asarray(1 / (1 + np.exp(-np.clip(logits + bias, -80, 80))), dtype=np.float32)
