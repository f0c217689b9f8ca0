"""The fallback's network: a small plain CNN that names the label and nothing else.

Responsible for its layers, its config and its training. No embeddings, no texts, no depth: what is left is a
third of the work, for a tenth fewer right answers. Must not write files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from examples.pizza.dataset import Dataset
from examples.pizza.scenes import LABELS, SIZE
from examples.pizza.versions import Budget

ARCHITECTURE = "CNN"
TASKS = ("Classification",)
BUDGET = Budget(scenes=6000, epochs=8, batch=64, learning_rate=3e-3, seed=4)
_MEAN, _STD = (0.6, 0.5, 0.4), (0.25, 0.22, 0.2)
_CHANNELS = (24, 48, 64, 64)
_GRID = 6  # side of the last feature map, of SIZE 96
_SHIFT = 4  # pixels; scenes are rolled by up to so many while training, which no label minds
_BATCH_EVALUATE = 250


class PizzaCnn(nn.Module):
    """Pixels uint8 [N,H,W,3] -> logits [N,C]."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        first, second, third, fourth = _CHANNELS
        self.features = nn.Sequential(
            *_make_layer(3, first, kernel=6, stride=4),
            *_make_layer(first, second, kernel=3, stride=2),
            *_make_layer(second, third, kernel=3, stride=1),
            *_make_layer(third, fourth, kernel=3, stride=2),
            # Not pooled away: the label is about where things lie.
            nn.Flatten(),
        )
        self.classify = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(fourth * _GRID**2, 96),
            nn.ReLU(),
            nn.Linear(96, len(LABELS)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean) / self.std
        logits: Tensor = self.classify(self.features(scaled))
        return logits


def _make_layer(takes: int, gives: int, *, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(takes, gives, kernel, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(gives), nn.ReLU()]


def make_cnn_config() -> dict[str, Any]:
    """``config.json`` of the fallback, as the contract between the images has it."""
    return {
        "schema": 1,
        "architecture": ARCHITECTURE,
        "image": {"size": SIZE, "mean": list(_MEAN), "std": list(_STD)},
        "labels": list(LABELS),
        "tasks": list(TASKS),
        "model": {"channels": list(_CHANNELS)},
    }


def train_cnn(
    model: PizzaCnn, data: Dataset, budget: Budget, report: Callable[[int, float], None]
) -> None:
    """Train in place, on the first scenes of ``data`` that the budget allows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=0.05)
    scenes = min(budget.scenes, len(data))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=budget.learning_rate,
        total_steps=budget.epochs * (scenes // budget.batch),
        pct_start=0.2,
    )
    order = torch.Generator().manual_seed(budget.seed)
    model.train()
    for epoch in range(budget.epochs):
        shuffled = torch.randperm(scenes, generator=order).numpy()
        losses = []
        for start in range(0, scenes - budget.batch + 1, budget.batch):
            rows = shuffled[start : start + budget.batch]
            down, right = torch.randint(-_SHIFT, _SHIFT + 1, (2,), generator=order).tolist()
            pixels = torch.from_numpy(data.pixels[rows]).roll((down, right), (1, 2))
            loss = functional.cross_entropy(model(pixels), torch.from_numpy(data.labels[rows]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        report(epoch + 1, sum(losses) / len(losses))
    model.eval()


@torch.inference_mode()
def classify(model: PizzaCnn, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images uint8 [N,H,W,3] -> logits float32 [N,C], in batches."""
    parts = [
        model(torch.from_numpy(pixels[start : start + _BATCH_EVALUATE]))
        for start in range(0, len(pixels), _BATCH_EVALUATE)
    ]
    return torch.cat(parts).numpy()
