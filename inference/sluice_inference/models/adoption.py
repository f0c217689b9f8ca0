"""Makes an artifact of a public model's folder: `sluice-inference adopt`.

For whoever publishes a version; a server never runs this. What transformers' processors would do to a
picture is written down in our own config.json once, and refused where our image plan can't say it, so that
nothing has to be guessed while serving.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sluice_inference.artifact.config import (
    ArtifactConfig,
    EmbeddingConfig,
    ImageConfig,
    TextConfig,
    WordsConfig,
)
from sluice_inference.artifact.push import write_manifest
from sluice_inference.errors import LoadError
from sluice_inference.models.pretrained import import_transformers, load_processor, read_family
from sluice_inference.settings.model import WORD_TASKS

_ARCHITECTURES = {
    "clip": "CLIP",
    "siglip": "SigLIP",
    "vision-text-dual-encoder": "VisionTextDualEncoder",
}
_EMBEDS = ("ImageEmbedding", "TextEmbedding", "Similarity")
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_PROMPTS = {
    "Captioning": "Describe this picture in one sentence.",
    "VisualQuestionAnswering": "{question}",
    "OCR": "Read out the text in this picture.",
}
# The longest side that a model of any size is given; larger pictures are scaled down to it first.
_KEEP_EDGE = 1536
# What lies in a published folder and is no part of a model, or would be refused by `fetch`.
_LEFT_OUT = frozenset({".bin", ".pt", ".pth", ".h5", ".msgpack", ".py", ".md", ".onnx", ".ot"})
# Steps that some processors have and our plan does not.
_UNKNOWN_STEPS = (
    "do_flip_channel_order",
    "rescale_offset",
    "include_top",
    "do_pad",
    "do_thumbnail",
)


def adopt(source: Path, into: Path, *, space: str, labels: tuple[str, ...] = ()) -> str:
    """Write an artifact for the model in `source` into the folder `into`, and return its digest.

    `space` names the embedding space of a dual encoder; `labels` make it a classifier too. Raises
    LoadError with what can't be served, before anything is written.
    """
    config = make_config(source, space, labels)
    (into / "hf").mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _LEFT_OUT:
            shutil.copyfile(path, into / "hf" / path.name)
    (into / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    return write_manifest(into)


def make_config(source: Path, space: str, labels: tuple[str, ...]) -> ArtifactConfig:
    """Our config.json for the model in `source`. Raises LoadError with what can't be served."""
    family = read_family(source)
    transformers = import_transformers()
    config = _open(transformers.AutoConfig, source, "the model's config")
    if family in _ARCHITECTURES:
        if not space:
            raise LoadError("a dual encoder needs --space, the name of its embedding space")
        return ArtifactConfig(
            schema=1,
            architecture=_ARCHITECTURES[family],
            image=_read_image_processor(source),
            embedding=EmbeddingConfig(space, find_dimension(config)),
            labels=labels,
            tasks=(*_EMBEDS, "Classification") if labels else _EMBEDS,
            text=_make_text(source, family, int(config.text_config.max_position_embeddings)),
        )
    named = [str(name) for name in config.architectures or ()]
    if any(name.endswith("ForImageClassification") for name in named):
        return ArtifactConfig(
            schema=1,
            architecture="CNN",
            image=_read_image_processor(source),
            labels=labels or tuple(config.id2label[index] for index in sorted(config.id2label)),
            tasks=("Classification",),
        )
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise LoadError(
            f"hf/config.json: model_type {family!r} ({', '.join(named)}) is none of "
            f"{', '.join(_ARCHITECTURES)}, no image classifier and no image-text-to-text model"
        )
    load_processor(source)  # its absence is better known now
    return ArtifactConfig(
        schema=1,
        architecture="ImageTextToText",
        # The model's own processor scales and normalises.
        image=ImageConfig(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit="keep", edge=_KEEP_EDGE),
        tasks=WORD_TASKS,
        words=WordsConfig(prompts=_PROMPTS),
    )


def read_image(processor: Mapping[str, Any]) -> ImageConfig:
    """An image processor's settings (`to_dict()`) in our words. Raises LoadError for other steps."""
    if unknown := [step for step in _UNKNOWN_STEPS if processor.get(step)]:
        raise LoadError(f"the image processor has {', '.join(unknown)}; no plan of ours does that")
    rescales = processor.get("do_rescale", True)
    if not rescales or abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise LoadError("the image processor does not rescale by 1/255; pixels are taken as 0..1")
    filter_ = _FILTERS.get(int(processor.get("resample", 3)))
    if filter_ is None or not processor.get("do_resize", True):
        raise LoadError("the image processor resizes by none of bilinear, bicubic, lanczos")
    size = {name: int(value) for name, value in (processor.get("size") or {}).items() if value}
    crop = {name: int(value) for name, value in (processor.get("crop_size") or {}).items() if value}
    crops = bool(processor.get("do_center_crop"))
    shortest = size.get("shortest_edge", 0)
    edge = 0
    if crops and shortest:
        width, height, edge = crop["width"], crop["height"], shortest
    elif shortest and (share := processor.get("crop_pct")):
        # ConvNeXt and ResNet: below 384 a margin is cut off, from there on the picture is stretched.
        width = height = shortest
        edge = int(shortest / share) if shortest < 384 else 0
    elif not crops and "height" in size:
        width, height = size["width"], size["height"]
    else:
        raise LoadError(f"the image processor's size {size}, crop {crop} is no plan of ours")
    if width != height:
        raise LoadError(f"the model takes {width} x {height} pixels; only squares are served")
    normalises = processor.get("do_normalize", True)
    mean = tuple(processor["image_mean"]) if normalises else (0.0, 0.0, 0.0)
    std = tuple(processor["image_std"]) if normalises else (1.0, 1.0, 1.0)
    return ImageConfig(width, mean, std, "crop" if edge else "stretch", edge, filter_)  # type: ignore[arg-type]


def read_text(family: str, longest: int, tokenizer: Any, kind: str) -> TextConfig:
    """How texts are cut, padded and cleaned, from a tokenizer of transformers.

    `longest` is the network's number of positions, `kind` the class that the tokenizer was saved as.
    """
    is_siglip = family == "siglip"
    return TextConfig(
        max_length=min(longest, int(tokenizer.model_max_length)),
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_left=tokenizer.padding_side == "left",
        # Both generations of SigLIP were trained on lower case, the first one without punctuation.
        lowercase=is_siglip,
        drop_punctuation=is_siglip and kind == "SiglipTokenizer",
    )


def find_dimension(config: Any) -> int:
    """The length of a dual encoder's embeddings."""
    if config.model_type == "siglip":
        return int(config.text_config.projection_size)
    return int(config.projection_dim)


def _make_text(source: Path, family: str, longest: int) -> TextConfig:
    if not (source / "tokenizer.json").is_file():
        raise LoadError("tokenizer.json is missing; texts are read by the tokenizers library alone")
    tokenizer = _open(import_transformers().AutoTokenizer, source, "the tokenizer")
    path = source / "tokenizer_config.json"
    saved = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.is_file() else {}
    return read_text(family, longest, tokenizer, str(saved.get("tokenizer_class", "")))


def _read_image_processor(source: Path) -> ImageConfig:
    kind = import_transformers().AutoImageProcessor
    return read_image(_open(kind, source, "the image processor", backend="pil").to_dict())


def _open(kind: Any, source: Path, what: str, **options: Any) -> Any:
    """One of transformers' parts, from this disk alone. Raises LoadError."""
    try:
        return kind.from_pretrained(
            str(source), local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        raise LoadError(f"{what} can't be loaded: {text}") from error
