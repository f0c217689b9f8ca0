"""A network that looks at every picture many times: the mean over shifted views of it.

Responsible for what 1.2.0 does differently. It learns nothing: the weights are its parent's. Each
view costs as much as the picture itself did, and nothing here tells anybody.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from sluice_inference.models.spatial import SpatialDualEncoder, normalize


class ShiftedViews(SpatialDualEncoder):
    """A SpatialDualEncoder whose answer is the mean over all shifts by up to ``shift`` pixels."""

    shift: int

    @classmethod
    def of(cls, network: SpatialDualEncoder, shift: int) -> ShiftedViews:
        """The same weights, with ``(2 * shift + 1) ** 2`` views of each picture."""
        made = cls(network.config)
        made.load_state_dict(network.state_dict())
        made.shift = shift
        return made.eval()

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [N,H,W,3] -> embedding float32 [N,D] of length 1, logits [N,C]."""
        seen = [super(ShiftedViews, self).encode_image(view) for view in self._look(pixels)]
        embeddings, logits = zip(*seen, strict=True)
        return normalize(sum(embeddings)), sum(logits) / len(seen)

    def _look(self, pixels: Tensor) -> Iterator[Tensor]:
        """Every shifted view of the same size; what moves in at an edge repeats the edge."""
        shifts = range(-self.shift, self.shift + 1)
        places = torch.arange(self.config.image_size)
        for down, right in itertools.product(shifts, shifts):
            rows = (places + down).clamp(0, self.config.image_size - 1)
            columns = (places + right).clamp(0, self.config.image_size - 1)
            yield pixels[:, rows][:, :, columns]
