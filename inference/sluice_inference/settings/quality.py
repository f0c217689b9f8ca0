"""What counts as a good enough picture, and which shortcomings are refused."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_inference.settings.reader import Reader

ISSUES = ("blur", "exposure", "size", "aspect")


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """Thresholds; the measures they are held against are those of `imaging.quality`.

    `enforce`: the issues for which a picture is refused; the others are only reported.
    """

    enforce: tuple[str, ...]
    min_sharpness: float
    min_brightness: float
    max_brightness: float
    max_clipped: float
    min_side: int
    max_aspect: float
    duplicate_bits: int


def read_quality(read: Reader) -> QualitySettings:
    settings = QualitySettings(
        enforce=read.names("QUALITY_ENFORCE", ISSUES),
        min_sharpness=read.number("QUALITY_MIN_SHARPNESS", 50, 0, 65_025),
        min_brightness=read.number("QUALITY_MIN_BRIGHTNESS", 0.1, 0, 1),
        max_brightness=read.number("QUALITY_MAX_BRIGHTNESS", 0.9, 0, 1),
        max_clipped=read.number("QUALITY_MAX_CLIPPED", 0.5, 0, 1),
        min_side=read.integer("QUALITY_MIN_SIDE", 64, 1, 65_535),
        max_aspect=read.number("QUALITY_MAX_ASPECT", 4, 1, 65_535),
        duplicate_bits=read.integer("QUALITY_DUPLICATE_BITS", 3, 0, 32),
    )
    if settings.min_brightness > settings.max_brightness:
        read.problems.append(
            f"QUALITY_MIN_BRIGHTNESS: {settings.min_brightness:g} is more than "
            f"QUALITY_MAX_BRIGHTNESS {settings.max_brightness:g}; no picture would be good enough"
        )
    return settings
