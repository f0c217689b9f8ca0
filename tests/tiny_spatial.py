"""A small, untrained SpatialDualEncoder on disk: quick to write, to load and to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from sluice_inference.models.spatial import SpatialDualEncoder

SIZE = 32
CONFIG: dict[str, Any] = {
    "schema": 1,
    "architecture": "SpatialDualEncoder",
    "image": {"size": SIZE, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "embedding": {"space": "test-1", "dimension": 8},
    "labels": ["left", "right"],
    "tasks": ["ImageEmbedding", "TextEmbedding", "Classification"],
    "text": {"max_length": 6, "pad_id": 0},
    "model": {
        "vocabulary": 3,
        "semantic_channels": [4, 4, 4],
        "geometry_channels": [4, 4],
        "fused_width": 8,
        "text_width": 8,
        "text_heads": 2,
        "text_layers": 1,
        "geometry": True,
    },
}


def write_artifact(folder: Path) -> SpatialDualEncoder:
    """The artifact without a manifest, always the same; gives the network, in evaluation mode."""
    torch.manual_seed(7)
    model = SpatialDualEncoder.from_config(CONFIG).eval()
    save_file(model.state_dict(), str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "one": 1, "two": 2}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
