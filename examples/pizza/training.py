"""Training: losses, the loop, and what a trained network gets right.

Responsible for weights and measured numbers. Must not write files or talk to people: progress goes to
the callback it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from examples.pizza.dataset import Dataset
from examples.pizza.scenes import LABELS, SIZE
from examples.pizza.versions import ARCHITECTURE, DIMENSION, SPACE, TASKS, Budget
from examples.pizza.vocabulary import MAX_LENGTH, PAD_ID
from sluice_inference.models.spatial import SpatialDualEncoder

THREADS = 1  # part of the result: another number of threads adds up in another order
_TEMPERATURE = 0.07
_BATCH_EVALUATE = 250


@dataclass(frozen=True)
class Measured:
    """What a network got right on a data set, in shares of 1."""

    accuracy: float
    zero_shot_accuracy: float  # the nearest of the labels' prompts, without the classifier head


def make_config(vocabulary: int, geometry: bool = True) -> dict[str, Any]:
    """``config.json`` of a version, as the contract between the images has it."""
    return {
        "schema": 1,
        "architecture": ARCHITECTURE,
        "image": {"size": SIZE, "mean": [0.6, 0.5, 0.4], "std": [0.25, 0.22, 0.2]},
        "embedding": {"space": SPACE, "dimension": DIMENSION},
        "labels": list(LABELS),
        "tasks": list(TASKS),
        "text": {"max_length": MAX_LENGTH, "pad_id": PAD_ID},
        "model": {
            "vocabulary": vocabulary,
            "semantic_channels": [24, 32, 64],
            "geometry_channels": [24, 48],
            "fused_width": 128,
            "text_width": 64,
            "text_heads": 4,
            "text_layers": 1,
            "geometry": geometry,
        },
    }


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Same seed, same machine: same bytes. Leaves torch's settings as they were."""
    threads = torch.get_num_threads()
    mode = torch.get_deterministic_debug_mode()
    torch.set_num_threads(THREADS)
    # use_deterministic_algorithms(True), without the compiler that it imports (ten seconds).
    torch.set_deterministic_debug_mode("error")
    # A tenth of the time, and for nothing: no operation here reads memory it has not written.
    switches: Any = torch.utils.deterministic  # its switch is a property that type checkers miss
    filled = switches.fill_uninitialized_memory
    switches.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        switches.fill_uninitialized_memory = filled
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)


def train_model(
    model: SpatialDualEncoder,
    data: Dataset,
    tokens: NDArray[np.int64],
    prompt_tokens: NDArray[np.int64],
    budget: Budget,
    *,
    text_frozen: bool = False,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> float:
    """Train in place; returns the last epoch's mean loss.

    ``tokens`` int64 [N,L] are the captions of ``data``, ``prompt_tokens`` int64 [C,L] one prompt per
    label; batches take turns between the two, so that both long and short texts find images. With
    ``text_frozen`` the text tower stays what it is, and images learn to lie where it puts their
    captions: that keeps an embedding space.
    """
    for parameter in model.text.parameters():
        parameter.requires_grad_(not text_frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=budget.learning_rate, weight_decay=0.02)
    steps = budget.epochs * (len(data) // budget.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=budget.learning_rate, total_steps=steps, pct_start=0.2
    )
    # Equal captions are one text: each is the right answer for all of its images.
    _, captions = np.unique(np.array(data.captions), return_inverse=True)
    order = torch.Generator().manual_seed(budget.seed)
    mean = 0.0
    model.train()
    for epoch in range(budget.epochs):
        shuffled = torch.randperm(len(data), generator=order).numpy()
        losses = []
        for start in range(0, len(data) - budget.batch + 1, budget.batch):
            rows = shuffled[start : start + budget.batch]
            labels = data.labels[rows]
            if (start // budget.batch) % 2:
                words, texts = prompt_tokens[labels], labels
            else:
                words, texts = tokens[rows], captions[rows]
            loss = measure_loss(
                model,
                torch.from_numpy(data.pixels[rows]),
                torch.from_numpy(words),
                torch.from_numpy(labels),
                torch.from_numpy(data.depth[rows]),
                torch.from_numpy(texts),
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        mean = sum(losses) / len(losses)
        report(epoch + 1, mean)
    model.eval()
    return mean


def measure_loss(
    model: SpatialDualEncoder,
    pixels: Tensor,
    tokens: Tensor,
    labels: Tensor,
    depth: Tensor,
    texts: Tensor,
) -> Tensor:
    """Classification + image-text contrast (CLIP's, both ways) + depth; a scalar.

    pixels uint8 [N,H,W,3], tokens int64 [N,L], labels int64 [N], depth uint8 [N,G,G], texts int64 [N]:
    equal numbers mean equal texts.
    """
    embedding, logits, seen_depth = model.see(pixels)
    similar = embedding @ model.encode_text(tokens).T / _TEMPERATURE
    same = (texts[:, None] == texts[None, :]).to(similar.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    contrast = functional.cross_entropy(similar, target) + functional.cross_entropy(
        similar.T, target
    )
    loss = functional.cross_entropy(logits, labels) + 0.25 * contrast
    if seen_depth is not None:
        loss = loss + 4.0 * functional.mse_loss(seen_depth, depth.to(seen_depth.dtype) / 255.0)
    return loss


@torch.inference_mode()
def encode_images(
    model: SpatialDualEncoder, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images uint8 [N,H,W,3] -> embeddings float32 [N,D] and logits float32 [N,C], in batches."""
    parts = [
        model.encode_image(torch.from_numpy(pixels[start : start + _BATCH_EVALUATE]))
        for start in range(0, len(pixels), _BATCH_EVALUATE)
    ]
    return (
        torch.cat([embedding for embedding, _ in parts]).numpy(),
        torch.cat([logits for _, logits in parts]).numpy(),
    )


@torch.inference_mode()
def measure_accuracy(
    model: SpatialDualEncoder, data: Dataset, prompt_tokens: NDArray[np.int64]
) -> Measured:
    """Measure on ``data``. ``prompt_tokens`` int64 [C,L] hold one prompt per label, in LABELS' order."""
    embeddings, logits = encode_images(model, data.pixels)
    prompts = model.encode_text(torch.from_numpy(prompt_tokens)).numpy()
    return score_answers(embeddings, logits, prompts, data.labels)


def score_answers(
    embeddings: NDArray[np.float32],
    logits: NDArray[np.float32],
    prompts: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Measured:
    """What is right of embeddings [N,D] and logits [N,C]; ``prompts`` [C,D] are in LABELS' order."""
    return Measured(
        accuracy=float((logits.argmax(axis=1) == labels).mean()),
        zero_shot_accuracy=float(((embeddings @ prompts.T).argmax(axis=1) == labels).mean()),
    )
