"""Scenes: labels follow from geometry, and nothing of the held-out set was trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from examples.pizza.scenes import (
    CENTRE,
    LABELS,
    PAIRS,
    REACH,
    Scene,
    Split,
    Topping,
    draw_scene,
    flip_scene,
    is_overlapping,
    read_label,
    restack_scene,
    write_caption,
)


def place(kind: str, x: float, y: float, radius: float = 10.0) -> Topping:
    return Topping(kind=kind, x=x, y=y, radius=radius, angle=0.0, texture=0)


def make_scene(*toppings: Topping) -> Scene:
    return Scene(
        toppings=toppings,
        table="wood",
        crust="thin",
        texture=0,
        brightness=1.0,
        noise=0.0,
        noise_seed=0,
    )


@pytest.mark.parametrize(
    ("toppings", "label"),
    [
        pytest.param(
            [place("olive", 30, 50), place("tomato", 60, 50)],
            "olive left of tomato",
            id="apart-the-one-with-the-smaller-x-is-left",
        ),
        pytest.param(
            [place("tomato", 30, 50), place("olive", 60, 50)],
            "tomato left of olive",
            id="the-same-two-the-other-way-round",
        ),
        pytest.param(
            [place("olive", 60, 50), place("tomato", 30, 50)],
            "tomato left of olive",
            id="apart-depth-order-does-not-matter",
        ),
        pytest.param(
            [place("cheese", 40, 50), place("basil", 46, 50)],
            "basil over cheese",
            id="overlapping-the-later-one-lies-over",
        ),
        pytest.param(
            [place("basil", 46, 50), place("cheese", 40, 50)],
            "cheese over basil",
            id="overlapping-the-other-order",
        ),
        pytest.param(
            [place("basil", 20, 50), place("mushroom", 70, 50), place("pepper", 40, 50)],
            "pepper left of mushroom",
            id="a-third-topping-without-its-partner-changes-nothing",
        ),
    ],
)
def test_the_label_is_read_from_positions_and_depth(toppings: list[Topping], label: str) -> None:
    assert read_label(make_scene(*toppings)) == label


def test_a_scene_without_a_pair_has_no_label_and_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"olive.*basil.*needs both of one of the pairs"):
        read_label(make_scene(place("olive", 30, 50), place("basil", 60, 50)))


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_a_mirror_turns_left_round_and_restacking_turns_over_round(split: Split) -> None:
    for seed in range(50):
        scene = draw_scene(split, seed)
        label = read_label(scene)
        first, second = label.split(" ")[0], label.split(" ")[-1]
        turned = label.replace(first, "?").replace(second, first).replace("?", second)
        by_mirror, by_stack = read_label(flip_scene(scene)), read_label(restack_scene(scene))
        if " left of " in label:
            assert (by_mirror, by_stack) == (turned, label)
        else:
            assert (by_mirror, by_stack) == (label, turned)


@pytest.mark.parametrize("split", list(Split), ids=lambda split: split.value)
def test_drawn_scenes_are_on_the_pizza_hold_one_pair_and_repeat(split: Split) -> None:
    for seed in range(80):
        scene = draw_scene(split, seed)
        assert scene == draw_scene(split, seed)
        kinds = [topping.kind for topping in scene.toppings]
        assert len(set(kinds)) == len(kinds)
        assert sum(one in kinds and other in kinds for one, other in PAIRS) == 1
        for topping in scene.toppings:
            assert (topping.x - CENTRE) ** 2 + (topping.y - CENTRE) ** 2 <= REACH**2 + 1e-6
        touching = [
            {a.kind, b.kind}
            for number, a in enumerate(scene.toppings)
            for b in scene.toppings[number + 1 :]
            if is_overlapping(a, b)
        ]
        named = {read_label(scene).split(" ")[0], read_label(scene).split(" ")[-1]}
        assert touching == ([named] if " over " in read_label(scene) else [])


def test_every_label_is_about_as_frequent_as_the_others() -> None:
    counts = Counter(read_label(draw_scene(Split.HOLDOUT, seed)) for seed in range(480))
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > 20
    assert max(counts.values()) < 65


def test_the_held_out_set_shares_neither_textures_nor_scenes_with_training() -> None:
    assert not set(Split.TRAIN.textures) & set(Split.HOLDOUT.textures)
    scenes = {split: [draw_scene(split, seed) for seed in range(120)] for split in Split}
    for split, drawn in scenes.items():
        seen = {scene.texture for scene in drawn}
        seen |= {topping.texture for scene in drawn for topping in scene.toppings}
        assert seen <= set(split.textures)
    assert not set(scenes[Split.TRAIN]) & set(scenes[Split.HOLDOUT])


def test_a_caption_says_the_label_and_what_else_is_there() -> None:
    scene = make_scene(place("olive", 30, 50), place("tomato", 60, 50), place("basil", 47, 20))
    assert write_caption(scene) == "a thin pizza on wood with olive left of tomato and basil"
    alone = replace(scene, toppings=scene.toppings[:2])
    assert write_caption(alone).endswith("olive left of tomato and nothing else")
