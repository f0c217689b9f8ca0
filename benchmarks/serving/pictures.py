"""Distinct JPEG files that are about as hard to decode and to compress as photographs.

Made from a seed, so that every run has the same ones. No photograph is downloaded.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 85


def make_picture(seed: int, width: int = 500, height: int = 375) -> NDArray[np.uint8]:
    """Noise whose amplitude falls with the frequency, as in natural images: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    down = np.fft.fftfreq(height)[:, None]
    across = np.fft.rfftfreq(width)[None, :]
    # 1/f amplitude, steeper where the eye (and a lens) sees less: between a blur and white noise.
    falloff = 1 / np.maximum(np.hypot(down, across), 1 / max(width, height)) ** 1.15
    shared = random.standard_normal((height, width))
    channels = []
    for _ in range(3):
        noise = 0.8 * shared + 0.35 * random.standard_normal((height, width))
        plane = np.fft.irfft2(np.fft.rfft2(noise) * falloff, s=(height, width))
        plane = (plane - plane.mean()) / plane.std()
        channels.append(random.uniform(90, 160) + random.uniform(38, 60) * plane)
    picture: NDArray[np.uint8] = np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)
    return picture


def make_jpeg(seed: int, width: int = 500, height: int = 375) -> bytes:
    """The picture of `seed` as a JPEG file (4:2:0, quality 85)."""
    buffer = io.BytesIO()
    Image.fromarray(make_picture(seed, width, height)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def make_jpegs(count: int, width: int = 500, height: int = 375) -> list[bytes]:
    """`count` files, no two of them alike."""
    return [make_jpeg(seed, width, height) for seed in range(count)]
