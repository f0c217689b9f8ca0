"""The pictures and texts that an export is calibrated on and held to its source by.

Responsible for finding, decoding and dividing them. Must not run a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice_inference.errors import RequestError
from sluice_inference.export.errors import ExportError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.plan import ImagePlan

Pixels = NDArray[np.uint8]

LABELS = "labels.jsonl"
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
# Fewer pictures than this are not worth dividing: all of them do both.
_WORTH_DIVIDING = 64
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Picture:
    """A picture at the model's size, uint8 [H,W,3]; `label` is what is true, "" where nobody said."""

    name: str
    pixels: Pixels
    label: str = ""


@dataclass(frozen=True)
class Samples:
    """What is calibrated on, and what is compared. `is_shared`: the same pictures do both."""

    calibration: Sequence[Pixels]
    pictures: Sequence[Picture]
    texts: Sequence[str]
    is_shared: bool = False


class _Line(msgspec.Struct, frozen=True):
    """A line of labels.jsonl; other fields are passed over."""

    image: str
    label: str


def divide(pictures: Sequence[Picture], calibrate: int, texts: Sequence[str]) -> Samples:
    """Take `calibrate` of the pictures, evenly spread and at most half, for calibration.

    The others are compared. Few pictures do both, and the samples say so.
    """
    if len(pictures) < _WORTH_DIVIDING:
        return Samples([one.pixels for one in pictures], pictures, texts, is_shared=True)
    count = min(calibrate, len(pictures) // 2)
    taken = {int(at) for at in np.linspace(0, len(pictures) - 1, count)}
    return Samples(
        [pictures[at].pixels for at in sorted(taken)],
        [one for at, one in enumerate(pictures) if at not in taken],
        texts,
    )


def read_golden(folder: Path, plan: ImagePlan) -> tuple[list[Picture], list[str]]:
    """Pictures and texts of an artifact's golden samples; nothing where it has none."""
    samples = read_golden_file(folder).get("samples", [])
    pictures = [
        Picture(one["image"], _decode(folder / one["image"], plan))
        for one in samples
        if one.get("image")
    ]
    return pictures, [one["text"] for one in samples if one.get("text") and not one.get("image")]


def read_golden_file(folder: Path) -> dict[str, Any]:
    """`golden/golden.json` as it stands; empty where there is none."""
    path = folder / "golden" / "golden.json"
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ExportError(f"golden/golden.json: {error}") from error


def read_pictures(folder: Path, plan: ImagePlan) -> list[Picture]:
    """All JPEG and PNG files of a folder, by name; with the labels of its `labels.jsonl`, if any.

    Raises ExportError where there is none, or one can't be read.
    """
    labels = _read_labels(folder / LABELS)
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ExportError(f"{folder}: there is no .jpg, .jpeg or .png file in this folder")
    return [Picture(path.name, _decode(path, plan), labels.get(path.name, "")) for path in paths]


def _read_labels(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        lines = msgspec.json.Decoder(_Line).decode_lines(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ExportError(
            f"{path}: {error}; a line is an object with 'image' (a file's name) and 'label'"
        ) from error
    return {line.image: line.label for line in lines}


def _decode(path: Path, plan: ImagePlan) -> Pixels:
    try:
        data = path.read_bytes()
        return decode_image(data, plan, max_bytes=_MAX_BYTES, max_pixels=_MAX_BYTES)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from error
    except RequestError as problem:
        raise ExportError(f"{path}: {problem.message}") from problem
