"""The artifact's folder, as the contract between the images has it.

Responsible for its files and its manifest, the same bytes for the same network. Must not train, and
must not register anything (``registration``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

from examples.pizza.dataset import Dataset
from examples.pizza.export import export_graphs
from examples.pizza.scenes import LABELS, write_prompt
from examples.pizza.training import encode_images
from examples.pizza.vocabulary import encode_texts
from sluice_inference.artifact.manifest import MANIFEST, compute_digest, make_manifest
from sluice_inference.models.spatial import SpatialDualEncoder

GOLDEN_IMAGES = 6
GOLDEN_TEXTS = 4
GOLDEN_MIN_COSINE = "0.999"


def write_artifact(
    folder: Path,
    config: dict[str, Any],
    model: SpatialDualEncoder,
    tokenizer: Tokenizer,
    holdout: Dataset,
) -> str:
    """Write every file of a version into an empty folder; returns the manifest's digest."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
    )
    export_graphs(model, folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    _write_golden(folder / "golden", model, tokenizer, holdout)
    manifest = make_manifest(folder)
    (folder / MANIFEST).write_bytes(manifest)
    return compute_digest(manifest)


def _write_golden(
    folder: Path, model: SpatialDualEncoder, tokenizer: Tokenizer, holdout: Dataset
) -> None:
    """Held-out samples and what this network answers to them."""
    folder.mkdir()
    embeddings, logits = encode_images(model, holdout.pixels)
    samples: list[dict[str, Any]] = []
    for number, row in enumerate(choose_golden(logits, holdout.labels)):
        name = f"{number}.png"
        Image.fromarray(holdout.pixels[row]).save(folder / name)
        samples.append(
            {
                "image": f"golden/{name}",
                "embedding": _round(embeddings[row]),
                "label": LABELS[int(logits[row].argmax())],
            }
        )
    texts = [write_prompt(label) for label in LABELS[:: len(LABELS) // GOLDEN_TEXTS]]
    with torch.inference_mode():
        spoken = model.encode_text(torch.from_numpy(encode_texts(tokenizer, texts))).numpy()
    samples += [
        {"text": text, "embedding": _round(vector)}
        for text, vector in zip(texts, spoken, strict=True)
    ]
    write_json(
        folder / "golden.json", {"schema": 1, "min_cosine": GOLDEN_MIN_COSINE, "samples": samples}
    )


def choose_golden(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[int]:
    """Rows to keep as golden samples: the surest right answers, each of another label.

    A sample near a boundary would fail a server for a difference of rounding. logits [N,C], labels
    int64 [N] -> at most GOLDEN_IMAGES rows.
    """
    ranked = np.sort(logits, axis=1)
    margins = ranked[:, -1] - ranked[:, -2]
    chosen: dict[int, int] = {}
    for row in np.argsort(-margins, kind="stable"):
        label = int(labels[row])
        if label == int(logits[row].argmax()) and label not in chosen:
            chosen[label] = int(row)
        if len(chosen) == GOLDEN_IMAGES:
            break
    return sorted(chosen.values())


def _round(vector: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 6) for value in vector]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """The same bytes for the same value."""
    path.write_text(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
