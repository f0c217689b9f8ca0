"""Pictures that behave as photographs do, without one."""

from __future__ import annotations

import numpy as np
from PIL import Image


def make_photo(width: int, height: int) -> Image.Image:
    """Structure at several scales, as photographs have it; the same each time."""
    random = np.random.default_rng(width * height)
    total = np.zeros((height, width, 3))
    for scale, share in ((4, 0.2), (16, 0.3), (64, 0.5)):
        shape = (max(2, height // scale), max(2, width // scale), 3)
        noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        total += share * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(total.astype(np.uint8))
