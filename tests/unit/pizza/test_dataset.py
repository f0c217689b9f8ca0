"""Arrays of scenes."""

from __future__ import annotations

import numpy as np

from examples.pizza.dataset import make_dataset
from examples.pizza.scenes import LABELS, Split, draw_scene, read_label, write_caption


def test_rows_are_the_scenes_of_their_numbers() -> None:
    data = make_dataset(Split.TRAIN, 5)
    assert data.pixels.shape == (5, 96, 96, 3)
    assert data.depth.shape == (5, 12, 12)
    for row in range(5):
        scene = draw_scene(Split.TRAIN, row)
        assert LABELS[data.labels[row]] == read_label(scene)
        assert data.captions[row] == write_caption(scene)


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    large, small = make_dataset(Split.HOLDOUT, 6), make_dataset(Split.HOLDOUT, 4)
    assert np.array_equal(large.take(4).pixels, small.pixels)
    assert large.take(4).captions == small.captions
    assert len(large.take(4)) == 4


def test_the_two_splits_show_different_pictures() -> None:
    train, holdout = make_dataset(Split.TRAIN, 4), make_dataset(Split.HOLDOUT, 4)
    assert not {row.tobytes() for row in train.pixels} & {row.tobytes() for row in holdout.pixels}
