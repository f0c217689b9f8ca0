"""`config.json` of an artifact: what the model takes and gives. Read only after verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sluice_inference.errors import LoadError

MAX_BYTES = 4 * 1024 * 1024


class ImageConfig(msgspec.Struct, frozen=True):
    """Images are `size` x `size` RGB; mean and std are per channel, for values in 0..1."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class EmbeddingConfig(msgspec.Struct, frozen=True):
    space: str
    dimension: int


class TextConfig(msgspec.Struct, frozen=True):
    """Token ids are padded with `pad_id` to `max_length`."""

    max_length: int
    pad_id: int = 0


class ArtifactConfig(msgspec.Struct, frozen=True):
    """Everything the server must know of a model before it loads one."""

    schema: int
    architecture: str
    image: ImageConfig
    embedding: EmbeddingConfig | None = None
    labels: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    text: TextConfig | None = None
    model: dict[str, Any] = {}


def read_config(folder: Path) -> ArtifactConfig:
    """The folder's config. Raises LoadError with the field that is wrong."""
    path = folder / "config.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(f"config.json can't be read from {folder}: {error.strerror}") from error
    try:
        config = msgspec.json.decode(data[: MAX_BYTES + 1], type=ArtifactConfig)
    except msgspec.DecodeError as error:
        raise LoadError(f"config.json: {error}") from error
    if config.schema != 1:
        raise LoadError(f"config.json: schema {config.schema} is not 1, the only one known")
    if not 1 <= config.image.size <= 4096:
        raise LoadError(f"config.json: image.size {config.image.size} is not within 1 and 4096")
    return config
