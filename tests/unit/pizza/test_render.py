"""Pictures: the same bytes for the same plan, and the plan can be seen in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples.pizza.render import DEPTH_GRID, make_grain, render_scene
from examples.pizza.scenes import SIZE, Scene, Split, Topping, draw_scene, restack_scene


def make_pair(x: float) -> Scene:
    below = Topping("cheese", 40.0, 48.0, 12.0, 0.0, 3)
    above = Topping("tomato", x, 48.0, 12.0, 0.0, 5)
    return Scene((below, above), "wood", "thin", 1, 1.0, 0.0, 0)


def test_the_same_scene_gives_the_same_bytes() -> None:
    scene = draw_scene(Split.HOLDOUT, 4)
    first, second = render_scene(scene), render_scene(scene)
    assert [part.tobytes() for part in first] == [part.tobytes() for part in second]
    assert (first[0].shape, first[0].dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (first[1].shape, first[1].dtype) == ((DEPTH_GRID, DEPTH_GRID), np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"texture": 2}, id="another-texture"),
        pytest.param({"table": "cloth"}, id="another-table"),
        pytest.param({"crust": "thick"}, id="another-crust"),
        pytest.param({"brightness": 0.8}, id="another-light"),
        pytest.param({"noise": 9.0}, id="more-noise"),
    ],
)
def test_each_part_of_a_plan_shows(change: dict[str, object]) -> None:
    scene = make_pair(48.0)
    plain, _ = render_scene(scene)
    other, _ = render_scene(replace(scene, **change))  # type: ignore[arg-type]
    assert (plain != other).any()


def test_what_lies_on_top_hides_what_lies_below() -> None:
    scene = make_pair(48.0)
    upper, depth_upper = render_scene(scene)
    lower, depth_lower = render_scene(restack_scene(scene))
    middle = (48, 44)  # inside both
    assert upper[middle][2] < 120  # tomato: little blue
    assert lower[middle][2] > 140  # cheese: much blue
    assert depth_upper.max() > depth_upper[0, 0] == 0
    assert (depth_upper != depth_lower).any()


def test_textures_of_different_numbers_differ_and_lie_in_range() -> None:
    grains = [make_grain(texture) for texture in (0, 1, 1000)]
    assert all(0 <= grain.min() < grain.max() <= 1 for grain in grains)
    assert all(np.abs(grains[a] - grains[b]).mean() > 0.05 for a, b in ((0, 1), (0, 2), (1, 2)))
