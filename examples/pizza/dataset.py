"""Rendered scenes as arrays, for training and for measuring.

Responsible for turning seeds into pixels, depth maps, labels and captions, on all processes it is
given. Must not know about the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from examples.pizza.render import DEPTH_GRID, render_scene
from examples.pizza.scenes import LABELS, SIZE, Split, draw_scene, read_label, write_caption

HOLDOUT_NAME = "pizza-holdout-2026-11"
HOLDOUT_SIZE = 1000
_CHUNK = 250  # scenes per piece of work of a rendering process


@dataclass(frozen=True)
class Dataset:
    """N scenes: pixels uint8 [N,SIZE,SIZE,3], depth uint8 [N,G,G], labels int64 [N], N captions."""

    pixels: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    labels: NDArray[np.int64]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, count: int) -> Dataset:
        """The first ``count`` scenes."""
        return Dataset(
            self.pixels[:count], self.depth[:count], self.labels[:count], self.captions[:count]
        )


def make_dataset(split: Split, count: int, processes: int = 1) -> Dataset:
    """Render the scenes 0..count-1 of a split; the same arrays whatever ``processes`` is."""
    pieces = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if processes == 1:
        parts = [_render_range(split, piece) for piece in pieces]
    else:
        # Spawned, not forked: the parent may already run torch's threads.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_render_range, [split] * len(pieces), pieces))
    return Dataset(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.depth for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(caption for part in parts for caption in part.captions),
    )


def _render_range(split: Split, seeds: Sequence[int]) -> Dataset:
    pixels = np.empty((len(seeds), SIZE, SIZE, 3), np.uint8)
    depth = np.empty((len(seeds), DEPTH_GRID, DEPTH_GRID), np.uint8)
    labels = np.empty(len(seeds), np.int64)
    captions = []
    for row, seed in enumerate(seeds):
        scene = draw_scene(split, seed)
        pixels[row], depth[row] = render_scene(scene)
        labels[row] = LABELS.index(read_label(scene))
        captions.append(write_caption(scene))
    return Dataset(pixels, depth, labels, tuple(captions))
