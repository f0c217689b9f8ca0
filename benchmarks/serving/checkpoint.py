"""The model all servers serve: a real architecture at its real size with seeded random weights.

How fast a model runs does not depend on what it has learned, so nothing is downloaded. Written once
under build/ in the layout of Hugging Face, which all other servers read; `artifact.py` makes ours from it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.venvs import BUILD
from testbed.progress import Progress

SEED = 20261121


@dataclass(frozen=True, slots=True)
class Tower:
    """One encoder: width, layers, heads, MLP width."""

    width: int
    layers: int
    heads: int
    mlp: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A dual encoder as its publishers configured it. `vocabulary` counts tokens."""

    family: str
    image_size: int
    patch: int
    vision: Tower
    text: Tower
    dimension: int
    vocabulary: int
    max_length: int


_CLIP_TEXT = Tower(512, 12, 8, 2048)
# Sizes as in the config.json files that OpenAI and Google published with the models.
SHAPES: dict[str, Shape] = {
    "clip-tiny": Shape("clip", 32, 16, Tower(32, 2, 2, 64), Tower(32, 2, 2, 64), 16, 49408, 77),
    "clip-vit-b32": Shape("clip", 224, 32, Tower(768, 12, 12, 3072), _CLIP_TEXT, 512, 49408, 77),
    "clip-vit-b16": Shape("clip", 224, 16, Tower(768, 12, 12, 3072), _CLIP_TEXT, 512, 49408, 77),
    "clip-vit-l14": Shape(
        "clip", 224, 14, Tower(1024, 24, 16, 4096), Tower(768, 12, 12, 3072), 768, 49408, 77
    ),
    "siglip-tiny": Shape("siglip", 32, 16, Tower(32, 2, 2, 64), Tower(32, 2, 2, 64), 32, 32000, 64),
    "siglip-so400m-14-384": Shape(
        "siglip", 384, 14, Tower(1152, 27, 16, 4304), Tower(1152, 27, 16, 4304), 1152, 32000, 64
    ),
}


def make_checkpoint(model: str, progress: Progress) -> Path:
    """The folder of `model`: config.json, preprocessor_config.json, tokenizer, model.safetensors."""
    folder = BUILD / "models" / f"{model}-{SEED}"
    if (folder / ".made").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shape = SHAPES[model]
    with progress.step(f"make {model} with random weights"):
        _save_model(shape, folder)
        _save_tokenizer(shape, folder)
        _save_processor(shape, folder)
    (folder / ".made").touch()
    return folder


def _save_model(shape: Shape, folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    vision = _describe(shape.vision) | {
        "image_size": shape.image_size,
        "patch_size": shape.patch,
    }
    text = _describe(shape.text) | {
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.max_length,
        "bos_token_id": shape.vocabulary - 2,
        "eos_token_id": shape.vocabulary - 1,
        "pad_token_id": shape.vocabulary - 1,
    }
    torch.manual_seed(SEED)
    model: Any
    if shape.family == "clip":
        model = CLIPModel(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.dimension)
        )
    else:
        model = SiglipModel(
            SiglipConfig(
                text_config={**text, "projection_size": shape.dimension}, vision_config=vision
            )
        )
    model.eval().save_pretrained(folder, safe_serialization=True)


def _describe(tower: Tower) -> dict[str, int]:
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp,
    }


def _save_tokenizer(shape: Shape, folder: Path) -> None:
    """A byte-level BPE without merges and with a vocabulary of the model's size.

    Every server wants one to start with; no text is asked here.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    start, end = "<|startoftext|>", "<|endoftext|>"
    alphabet = sorted(ByteLevel.alphabet())
    names = [*alphabet, *(f"{one}</w>" for one in alphabet)]
    names += [f"<unused{at}>" for at in range(shape.vocabulary - 2 - len(names))] + [start, end]
    vocabulary = {name: at for at, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary, [], unk_token=end, end_of_word_suffix="</w>", continuing_subword_prefix=""
        )
    )
    tokenizer.normalizer = normalizers.Lowercase()
    words = Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer"
            if shape.family == "clip"
            else "PreTrainedTokenizerFast",
            "bos_token": start,
            "eos_token": end,
            "pad_token": end,
            "unk_token": end,
            "model_max_length": shape.max_length,
        },
    )


def _save_processor(shape: Shape, folder: Path) -> None:
    """How pictures are prepared, as the publishers of the two families do it."""
    if shape.family == "clip":
        what = {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "CLIPProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": shape.image_size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": shape.image_size, "width": shape.image_size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        }
    else:
        what = {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": shape.image_size, "width": shape.image_size},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
    _write(folder / "preprocessor_config.json", what)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
