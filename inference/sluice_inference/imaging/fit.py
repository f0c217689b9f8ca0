"""From a picture of any size to the plan's pixels: scaling and cutting. Opens and decodes nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sluice_inference.imaging.plan import Filter, Fit, ImagePlan

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""

# Up to this many times the wanted pixels, everything is scaled and then cut: the public processors do it
# so, and Pillow rounds in another order otherwise. Of a longer strip only the middle is scaled; all of it
# could be a million pixels long.
_MOST_CUT_OFF = 4
_FILTERS = {
    Filter.BILINEAR: Image.Resampling.BILINEAR,
    Filter.BICUBIC: Image.Resampling.BICUBIC,
    Filter.LANCZOS: Image.Resampling.LANCZOS,
}


def compute_scaled(size: Size, plan: ImagePlan) -> Size:
    """What the whole picture is scaled to, before anything is cut off it.

    With `Fit.CROP` the longer side is rounded down, as the public image processors do it; the shorter
    one is never below the cut-out. With `Fit.KEEP` an edge of 0 bounds nothing.
    """
    width, height = size
    match plan.fit:
        case Fit.STRETCH:
            return plan.width, plan.height
        case Fit.CROP:
            edge = max(plan.edge, plan.width, plan.height)
            if width <= height:
                return edge, int(edge * height / width)
            return int(edge * width / height), edge
        case Fit.KEEP:
            longest = max(width, height)
            if not plan.edge or longest <= plan.edge:
                return size
            return (
                max(1, round(width * plan.edge / longest)),
                max(1, round(height * plan.edge / longest)),
            )


def fit_picture(picture: Image.Image, scaled: Size, plan: ImagePlan) -> Pixels:
    """The plan's pixels of an RGB picture that `scaled` (of `compute_scaled`) was made for.

    The picture may have been decoded smaller than it is; `scaled` is by its true size.
    """
    wanted = scaled if plan.fit is Fit.KEEP else (plan.width, plan.height)
    left, top = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    if scaled[0] * scaled[1] <= _MOST_CUT_OFF * wanted[0] * wanted[1]:
        if picture.size != scaled:
            picture = picture.resize(scaled, _FILTERS[plan.filter])
        if scaled != wanted:
            picture = picture.crop((left, top, left + wanted[0], top + wanted[1]))
        return np.asarray(picture, dtype=np.uint8)
    across, down = picture.width / scaled[0], picture.height / scaled[1]
    right, bottom = left + wanted[0], top + wanted[1]
    # Products of fractions may end a hair outside the picture.
    box = (
        left * across,
        top * down,
        min(right * across, picture.width),
        min(bottom * down, picture.height),
    )
    return np.asarray(picture.resize(wanted, _FILTERS[plan.filter], box=box), dtype=np.uint8)
