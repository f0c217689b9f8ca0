"""`config.json` of an artifact: what the model takes and gives. Read only after verification.

It is what the server trusts. Files of a public model's own format lie beside it in `hf/` and are asked only
how the network is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from sluice_inference.errors import LoadError

MAX_BYTES = 4 * 1024 * 1024


class ImageConfig(msgspec.Struct, frozen=True):
    """Images are `size` x `size` RGB; mean and std are per channel, for values in 0..1.

    `fit` is what becomes of a picture of another shape: `stretch` scales it whatever its ratio, `crop` scales
    the shorter side to `edge` and cuts out the middle, `keep` leaves the shape and bounds the longer side by
    `edge`. Where `edge` is 0 it is `size`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["stretch", "crop", "keep"] = "stretch"
    edge: int = 0
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


class EmbeddingConfig(msgspec.Struct, frozen=True):
    space: str
    dimension: int


class TextConfig(msgspec.Struct, frozen=True):
    """Token ids are cut and padded to `max_length` with `pad_id`, on the right unless `pad_left`.

    `lowercase` and `drop_punctuation` (ASCII) are done before the tokenizer's own rules. `template` makes a
    text of a label (its `{}`) where labels are told apart by their texts.
    """

    max_length: int
    pad_id: int = 0
    pad_left: bool = False
    lowercase: bool = False
    drop_punctuation: bool = False
    template: str = "a photo of a {}"


class WordsConfig(msgspec.Struct, frozen=True):
    """How a model that answers in words is asked.

    `prompts` are by task, `{question}` in them is the client's text; `max_new_tokens` bounds an answer.
    """

    prompts: dict[str, str]
    max_new_tokens: int = 64


class ArtifactConfig(msgspec.Struct, frozen=True):
    """Everything the server must know of a model before it loads one."""

    schema: int
    architecture: str
    image: ImageConfig
    embedding: EmbeddingConfig | None = None
    labels: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    text: TextConfig | None = None
    words: WordsConfig | None = None
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
    _check(config)
    return config


def _check(config: ArtifactConfig) -> None:
    """Raises LoadError with the field, its value and what is allowed."""
    image, text, words = config.image, config.text, config.words
    bounds = [
        ("image.size", image.size, 1, 4096),
        ("image.edge", image.edge or image.size, image.size if image.fit == "crop" else 1, 8192),
    ]
    if text is not None:
        bounds.append(("text.max_length", text.max_length, 1, 65536))
    if words is not None:
        bounds.append(("words.max_new_tokens", words.max_new_tokens, 1, 4096))
    for field, value, low, high in bounds:
        if not low <= value <= high:
            raise LoadError(f"config.json: {field} {value} is not within {low} and {high}")
    if not all(image.std):
        raise LoadError(
            f"config.json: image.std {list(image.std)} has a 0; pixels are divided by it"
        )
    if text is not None and config.labels and "{}" not in text.template:
        raise LoadError(f"config.json: text.template {text.template!r} has no {{}} for the label")
