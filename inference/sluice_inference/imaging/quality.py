"""How good a picture is: numbers measured on its pixels, and what they amount to.

Measured on what the model sees, the decoded and scaled pixels, so that a number means the same for every
camera; size and aspect are the file's own. NumPy only. Refuses nothing by itself: `find_refusal` words it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RequestError
from sluice_inference.settings.quality import QualitySettings

_MAX_SIDE = 512  # larger pixels are averaged down first: a bound on the time
_DARK, _BRIGHT = 4, 251  # grey levels at and beyond which nothing can be told apart
_HASH_ROWS, _HASH_COLUMNS = 8, 9  # 8 differences in each of 8 rows
_PLAIN = 2.0  # grey levels; a picture without larger differences has no fingerprint
_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on one picture.

    `sharpness`: variance of the Laplacian of the grey picture, 0 for a plain one. `brightness`: mean of
    the grey levels, 0 to 1. `dark`, `bright`: shares of pixels without any detail, 0 to 1. `width` and
    `height`: the file's, in pixels. `fingerprint`: 64 bits that few changes of light or scale touch (a
    difference hash: is a spot brighter than its right neighbour?); 0 where the picture is too plain.
    """

    sharpness: float
    brightness: float
    dark: float
    bright: float
    width: int
    height: int
    fingerprint: int

    @property
    def aspect(self) -> float:
        """Longer side by shorter side, at least 1."""
        return max(self.width, self.height) / min(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Issue:
    """One shortcoming: its name, and the measure and threshold in words."""

    name: str
    text: str


def measure_quality(pixels: NDArray[np.uint8], width: int, height: int) -> Quality:
    """The quality of `pixels` (uint8 [H, W, 3] RGB) from a file of `width` x `height` pixels."""
    grey = _shrink(_make_grey(pixels))
    count = grey.size
    return Quality(
        sharpness=_measure_sharpness(grey),
        brightness=float(grey.sum(dtype=np.uint64)) / count / 255,
        dark=int(np.count_nonzero(grey <= _DARK)) / count,
        bright=int(np.count_nonzero(grey >= _BRIGHT)) / count,
        width=width,
        height=height,
        fingerprint=_make_fingerprint(grey),
    )


def find_issues(quality: Quality, wanted: QualitySettings) -> list[Issue]:
    """What is not good enough, in the order of `settings.quality.ISSUES`."""
    issues = []
    if quality.sharpness < wanted.min_sharpness:
        issues.append(
            Issue(
                "blur",
                f"sharpness {quality.sharpness:.1f}, at least {wanted.min_sharpness:g} is needed "
                "(QUALITY_MIN_SHARPNESS)",
            )
        )
    if not wanted.min_brightness <= quality.brightness <= wanted.max_brightness:
        issues.append(
            Issue(
                "exposure",
                f"brightness {quality.brightness:.2f}, wanted is {wanted.min_brightness:g} to "
                f"{wanted.max_brightness:g} (QUALITY_MIN_BRIGHTNESS, QUALITY_MAX_BRIGHTNESS)",
            )
        )
    elif quality.dark + quality.bright > wanted.max_clipped:
        issues.append(
            Issue(
                "exposure",
                f"{quality.dark + quality.bright:.0%} of the pixels are black or white, at most "
                f"{wanted.max_clipped:.0%} may be (QUALITY_MAX_CLIPPED)",
            )
        )
    if min(quality.width, quality.height) < wanted.min_side:
        issues.append(
            Issue(
                "size",
                f"{quality.width} x {quality.height} pixels, the shorter side needs at least "
                f"{wanted.min_side} (QUALITY_MIN_SIDE)",
            )
        )
    if quality.aspect > wanted.max_aspect:
        issues.append(
            Issue(
                "aspect",
                f"sides of {quality.aspect:.1f} to 1, at most {wanted.max_aspect:g} to 1 are taken "
                "(QUALITY_MAX_ASPECT)",
            )
        )
    return issues


def find_refusal(quality: Quality, wanted: QualitySettings) -> RequestError | None:
    """The error for a picture whose shortcomings are enforced, or None."""
    issues = [one for one in find_issues(quality, wanted) if one.name in wanted.enforce]
    if not issues:
        return None
    said = "; ".join(f"{one.name}: {one.text}" for one in issues)
    return RequestError(422, "IMAGE_QUALITY", f"the image is not good enough: {said}")


def is_alike(one: int, other: int, bits: int) -> bool:
    """Do two fingerprints differ in at most `bits` places? A plain picture is like no other."""
    return bool(one and other) and (one ^ other).bit_count() <= bits


class RecentPictures:
    """The fingerprints of the last pictures that were measured; knows nothing else about them."""

    def __init__(self, bits: int, window: int = _WINDOW) -> None:
        self._bits = bits
        self._seen = np.zeros(window, dtype=np.uint64)
        self._next = 0

    def note(self, fingerprints: Sequence[int]) -> list[bool]:
        """For each: was one like it noted by an earlier call? Then all are noted."""
        known = [self._is_known(one) for one in fingerprints]
        for one in fingerprints:
            if one:
                self._seen[self._next] = one
                self._next = (self._next + 1) % len(self._seen)
        return known

    def _is_known(self, fingerprint: int) -> bool:
        if not fingerprint:
            return False
        differences = np.bitwise_count(self._seen ^ np.uint64(fingerprint))
        return bool(np.any((differences <= self._bits) & (self._seen != 0)))


def _make_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels [H, W] with the weights of ITU-R BT.601, in 256ths."""
    grey = pixels[..., 0].astype(np.uint16)
    grey *= 77
    for channel, weight in ((1, 150), (2, 29)):
        part = pixels[..., channel].astype(np.uint16)
        part *= weight
        grey += part
    grey >>= 8
    return grey.astype(np.uint8)


def _shrink(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = grey.shape
    by = -(-max(height, width) // _MAX_SIDE)
    if by == 1 or min(height, width) < by:
        return grey
    cut = grey[: height // by * by, : width // by * by]
    blocks = cut.reshape(height // by, by, width // by, by)
    small: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return small.astype(np.uint8)


def _measure_sharpness(grey: NDArray[np.uint8]) -> float:
    if min(grey.shape) < 3:
        return 0.0
    wide = grey.astype(np.int16)
    laplacian = wide[1:-1, 1:-1] * np.int16(4)
    laplacian -= wide[:-2, 1:-1]
    laplacian -= wide[2:, 1:-1]
    laplacian -= wide[1:-1, :-2]
    laplacian -= wide[1:-1, 2:]
    values = laplacian.astype(np.float32).ravel()
    mean = float(values.mean())
    # Not by BLAS: its threads would be woken for it, beside the model's.
    return max(0.0, float(np.einsum("i,i", values, values)) / values.size - mean * mean)


def _make_fingerprint(grey: NDArray[np.uint8]) -> int:
    height, width = grey.shape
    if height < _HASH_ROWS or width < _HASH_COLUMNS:
        return 0
    tall, wide = height // _HASH_ROWS, width // _HASH_COLUMNS
    strips = grey[: tall * _HASH_ROWS].reshape(_HASH_ROWS, tall, width)
    sums = strips.sum(axis=1, dtype=np.uint32)[:, : wide * _HASH_COLUMNS]
    spots = sums.reshape(_HASH_ROWS, _HASH_COLUMNS, wide).sum(axis=2) / float(tall * wide)
    steps = spots[:, :-1] - spots[:, 1:]
    if np.abs(steps).max() < _PLAIN:
        return 0
    return int.from_bytes(np.packbits(steps > 0).tobytes(), "big")
