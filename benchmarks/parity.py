"""Parity: what the server computes is what transformers' processor and model compute.

One tiny model of each family, random weights (`tiny_models`): pictures as PNG files and texts go through our
decoding, plan and backend on one side, through transformers alone on the other. Prints the lowest cosine of
each family and precision, and one JSON object as the last line of stdout; exit code 1 below the goals.
`--model FOLDER --space NAME` does the same for a real model's folder.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sluice_inference.engine.backend import Kind, Output
from sluice_inference.imaging.decode import decode_image
from sluice_inference.models.adoption import adopt
from sluice_inference.models.pretrained import import_transformers
from sluice_inference.models.torch_backend import TorchBackend
from sluice_inference.settings import read_settings

GOALS = {"float32": 0.9995, "bfloat16": 0.999}
TEXTS = [
    "a photo of pizza",
    "olive left of tomato",
    "what is on the right",
    "two",
    "cheese above cheese",
]
# width x height of the pictures: larger, wider, higher, and smaller than the model's input
_SHAPES = ((96, 96), (150, 100), (80, 200), (48, 40), (500, 375))

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """`lowest`: the worst cosine between ours and theirs. `spread`: the best between different inputs."""

    family: str
    precision: str
    images: float
    texts: float
    spread: float

    def is_met(self) -> bool:
        """Near enough, by a network that tells its inputs apart at all."""
        return min(self.images, self.texts) >= GOALS[self.precision] > self.spread


def measure(family: str, source: Path, precision: str, space: str = "tiny-1") -> Parity:
    """Compare both sides on one model's folder."""
    images, texts = make_images(), TEXTS
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        adopt(source, Path(scratch), space=space)
        ours = run_ours(Path(scratch), images, texts, precision)
    theirs = run_theirs(source, images, texts)
    pictures = compare(ours[0], theirs[0])
    words = compare(ours[1], theirs[1]) if len(theirs[1]) else 1.0
    return Parity(family, precision, pictures, words, find_spread(theirs[0]))


def make_images() -> list[bytes]:
    """PNG files of smooth colours with edges, seeded."""
    random = np.random.default_rng(11)
    files = []
    for width, height in _SHAPES:
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture).copy()
        pixels[height // 4 : height // 2, width // 3 : width // 2] = random.integers(0, 256, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def make_backend(folder: Path, precision: str) -> TorchBackend:
    env = {
        "MODEL_PATH": str(folder),
        "MODEL_FORMAT": "Safetensors",
        "PRECISION": precision,
        "DEVICE": "cpu",
        "BATCH_SIZE": "4",
    }
    return TorchBackend(read_settings(env).model)


def run_ours(
    folder: Path, images: list[bytes], texts: list[str], precision: str
) -> tuple[Floats, Floats]:
    """Embeddings of images and of texts, one batch each; of a classifier its logits, up to a constant."""
    backend = make_backend(folder, precision)
    facts = backend.load()
    pixels = [
        decode_image(one, facts.image, max_bytes=1 << 24, max_pixels=1 << 24) for one in images
    ]
    seen = [_get_values(one) for one in backend.run(Kind.IMAGE, pixels)]
    if not facts.dimension:
        return _centre(np.log(np.stack(seen))), np.empty((0, 0), dtype=np.float32)
    read = [_get_values(one) for one in backend.run(Kind.TEXT, texts)]
    return np.stack(seen), np.stack(read)


def run_theirs(source: Path, images: list[bytes], texts: list[str]) -> tuple[Floats, Floats]:
    """The same by transformers alone, in float32, each input by itself."""
    import torch

    transformers = import_transformers()
    pictures = [Image.open(io.BytesIO(one)).convert("RGB") for one in images]
    processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil")
    config = transformers.AutoConfig.from_pretrained(source)
    pixels = [processor(one, return_tensors="pt")["pixel_values"] for one in pictures]
    with torch.inference_mode():
        if any("ImageClassification" in name for name in config.architectures):
            kind = transformers.AutoModelForImageClassification
            model = kind.from_pretrained(source, dtype="float32").eval()
            logits = [model(pixel_values=one).logits[0].numpy() for one in pixels]
            return _centre(np.stack(logits)), np.empty((0, 0), dtype=np.float32)
        model = getattr(transformers, config.architectures[0]).from_pretrained(
            source, dtype="float32"
        )
        model.eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        seen = [model.get_image_features(pixel_values=one) for one in pixels]
        padding: Any = "max_length" if config.model_type == "siglip" else True
        read = []
        for text in texts:
            tokens = tokenizer(text, padding=padding, truncation=True, return_tensors="pt")
            mask = (
                {}
                if config.model_type == "siglip"
                else {"attention_mask": tokens["attention_mask"]}
            )
            read.append(model.get_text_features(input_ids=tokens["input_ids"], **mask))
    return _stack(seen), _stack(read)


def compare(ours: Floats, theirs: Floats) -> float:
    """The lowest cosine between rows of the same index."""
    return float(min((_normalise(ours) * _normalise(theirs)).sum(axis=1)))


def find_spread(rows: Floats) -> float:
    """The highest cosine between different rows."""
    cosines = _normalise(rows) @ _normalise(rows).T
    return float(cosines[~np.eye(len(rows), dtype=bool)].max())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--model", type=Path, help="a real model's folder instead of the tiny ones")
    parser.add_argument("--space", default="parity", help="name of its embedding space")
    options = parser.parse_args()
    import_transformers()  # quiet from here on
    from benchmarks.tiny_models import CLASSIFIERS, DUAL_ENCODERS

    found = []
    with tempfile.TemporaryDirectory(prefix="parity-models-") as scratch:
        if options.model:
            sources = {options.model.name: options.model}
        else:
            sources = {name: Path(scratch) / name for name in (*DUAL_ENCODERS, *CLASSIFIERS)}
            for name, make in (DUAL_ENCODERS | CLASSIFIERS).items():
                make(sources[name])
        for name, source in sources.items():
            for precision in GOALS:
                one = measure(name, source, precision, options.space)
                found.append(one)
                print(
                    f"{one.family:24} {one.precision:9} images {one.images:.6f} texts {one.texts:.6f} "
                    f"other inputs {one.spread:.4f}",
                    file=sys.stderr,
                )
    ok = all(one.is_met() for one in found)
    lowest = {
        precision: min(min(one.images, one.texts) for one in found if one.precision == precision)
        for precision in GOALS
    }
    families = sorted({one.family for one in found})
    print(json.dumps({"ok": ok, "lowest_cosine": lowest, "goals": GOALS, "families": families}))
    return 0 if ok else 1


def _get_values(outcome: Any) -> Floats:
    assert isinstance(outcome, Output), outcome
    values = outcome.scores if outcome.embedding is None else outcome.embedding
    assert values is not None
    return values


def _stack(outputs: list[Any]) -> Floats:
    return np.concatenate([one.pooler_output.numpy() for one in outputs])


def _centre(rows: Floats) -> Floats:
    return np.asarray(rows - rows.mean(axis=1, keepdims=True), dtype=np.float32)


def _normalise(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
