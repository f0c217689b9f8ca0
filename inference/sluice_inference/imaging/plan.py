"""How a picture becomes a model's pixels: what is done to it before the model sees it.

Plain values. Mean and standard deviation are the model's own affair: pixels stay uint8 until they are on
its device.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fit(enum.StrEnum):
    """What becomes of a picture that has another shape than the model's input."""

    STRETCH = "stretch"  # scaled to width x height, whatever its own ratio
    CROP = "crop"  # the shorter side is scaled to `edge`, then the middle is cut out
    KEEP = "keep"  # as it is, but no side longer than `edge`: the model takes any size


class Filter(enum.StrEnum):
    """How pixels are resampled."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """Pixels come out as uint8 [height, width, 3] RGB; with `Fit.KEEP` in the picture's own size."""

    width: int
    height: int
    fit: Fit = Fit.STRETCH
    edge: int = 0
    filter: Filter = Filter.BICUBIC

    @classmethod
    def square(cls, size: int) -> ImagePlan:
        """The whole picture, scaled to `size` x `size`."""
        return cls(size, size)
