"""From a trained network to the two ONNX graphs of the contract, checked against torch.

Responsible for ``image.onnx`` and ``text.onnx``. Must not train, and must not write anything but the
two files it is asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.pizza.training import encode_images
from sluice_inference.export.graphs import Entrances, write_graphs
from sluice_inference.models.spatial import SpatialDualEncoder

MIN_COSINE = 0.9999  # float32, torch against ONNX Runtime


class ExportDiffersError(RuntimeError):
    """The exported graph does not say what the network says."""


class _ImageGraph(nn.Module):
    """pixels uint8 [N,H,W,3] -> embedding [N,D], logits [N,C]."""

    def __init__(self, model: SpatialDualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode_image(pixels)


class _TextGraph(nn.Module):
    """tokens int64 [N,L] -> embedding [N,D]."""

    def __init__(self, model: SpatialDualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def export_graphs(model: SpatialDualEncoder, folder: Path) -> None:
    """Write ``image.onnx`` and ``text.onnx`` (float32, any N, any L up to the longest) to ``folder``."""
    write_graphs(
        Entrances(
            size=model.config.image_size,
            outputs=("embedding", "logits"),
            image=_ImageGraph(model),
            text=_TextGraph(model),
            text_length=model.config.max_length,
        ),
        folder,
    )


def open_graph(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU provider."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_images(
    session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images uint8 [N,H,W,3], ``batch`` at a time -> embeddings [N,D], logits [N,C]."""
    parts = [
        session.run(["embedding", "logits"], {"pixels": pixels[start : start + batch]})
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def compare_rows(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The smallest cosine of two sets of vectors [N,D], row by row."""
    products = (one.astype(np.float64) * other).sum(axis=1)
    lengths = np.linalg.norm(one.astype(np.float64), axis=1) * np.linalg.norm(other, axis=1)
    return float((products / lengths).min())


def check_export(
    model: SpatialDualEncoder,
    folder: Path,
    pixels: NDArray[np.uint8],
    tokens: NDArray[np.int64],
) -> float:
    """Hold the graphs in ``folder`` to the network, at batches of 1 and 8.

    Returns the smallest cosine seen; raises ExportDiffersError below MIN_COSINE or where a label
    differs.
    """
    image, text = open_graph(folder / "image.onnx"), open_graph(folder / "text.onnx")
    embeddings, logits = encode_images(model, pixels)
    with torch.inference_mode():
        spoken = model.encode_text(torch.from_numpy(tokens)).numpy()
    worst = 1.0
    for batch in (1, 8):
        seen, scores = run_images(image, pixels, batch)
        said = np.concatenate(
            [
                text.run(["embedding"], {"tokens": tokens[start : start + batch]})[0]
                for start in range(0, len(tokens), batch)
            ]
        )
        lowest = min(compare_rows(embeddings, seen), compare_rows(spoken, said))
        moved = int((scores.argmax(axis=1) != logits.argmax(axis=1)).sum())
        if lowest < MIN_COSINE or moved:
            raise ExportDiffersError(
                f"{folder}: ONNX against torch at batches of {batch}: smallest cosine {lowest:.6f} "
                f"(at least {MIN_COSINE}), {moved} of {len(pixels)} labels differ (none may)"
            )
        worst = min(worst, lowest)
    return worst
