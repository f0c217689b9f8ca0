"""Scenes: which toppings lie where, in which depth order, and what that is called.

Responsible for drawing a scene's plan from a seed, and for its label and caption, both of which are
read from the plan's geometry and from nothing else. Must not make pixels (``render``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

SIZE = 96  # pixels, both sides
CENTRE = (SIZE - 1) / 2
REACH = 33.0  # pixels from the centre within which a topping's centre lies

# A label is about exactly one of these pairs; a scene never holds both members of a second one.
PAIRS = (("olive", "tomato"), ("basil", "cheese"), ("mushroom", "pepper"))
KINDS = tuple(kind for pair in PAIRS for kind in pair)
RELATIONS = ("left of", "over")
LABELS = tuple(
    f"{first} {relation} {second}"
    for one, other in PAIRS
    for relation in RELATIONS
    for first, second in ((one, other), (other, one))
)
TABLES = ("wood", "stone", "cloth")
CRUSTS = ("thin", "thick")


class Split(Enum):
    """Where a scene belongs. Seeds and texture numbers of the two splits have nothing in common."""

    TRAIN = "train"
    HOLDOUT = "holdout"

    @property
    def textures(self) -> range:
        """The texture numbers this split may use."""
        return range(64) if self is Split.TRAIN else range(1000, 1032)

    @property
    def stream(self) -> int:
        """The first word of every seed of this split, so that equal numbers give other scenes."""
        return 1 if self is Split.TRAIN else 2


@dataclass(frozen=True)
class Topping:
    """One topping: centre (x to the right, y down) and radius in pixels, angle in radians."""

    kind: str
    x: float
    y: float
    radius: float
    angle: float
    texture: int


@dataclass(frozen=True)
class Scene:
    """A plan of one picture. ``toppings`` are in depth order: the last lies on top."""

    toppings: tuple[Topping, ...]
    table: str
    crust: str
    texture: int
    brightness: float
    noise: float
    noise_seed: int


def draw_scene(split: Split, seed: int) -> Scene:
    """Draw the scene number ``seed`` (>= 0) of a split; the same numbers give the same scene."""
    rng = np.random.default_rng([split.stream, seed])
    pair = PAIRS[rng.integers(len(PAIRS))]
    if rng.random() < 0.5:
        pair = (pair[1], pair[0])
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    textures = split.textures
    first, second = _place_pair(rng, pair, relation, textures)
    placed = [second, first] if relation == "over" else [first, second]
    if relation == "left of" and rng.random() < 0.5:
        placed.reverse()
    others = [rest for rest in PAIRS if pair[0] not in rest]
    for choice in others[: rng.integers(len(others) + 1)]:
        extra = _place_beside(rng, choice[rng.integers(2)], placed, textures)
        if extra is not None:
            placed.insert(int(rng.integers(2)) * len(placed), extra)
    return Scene(
        toppings=tuple(placed),
        table=TABLES[rng.integers(len(TABLES))],
        crust=CRUSTS[rng.integers(len(CRUSTS))],
        texture=_pick(rng, textures),
        brightness=float(rng.uniform(0.75, 1.2)),
        noise=float(rng.uniform(4.0, 16.0)),
        noise_seed=int(rng.integers(2**31)),
    )


def read_label(scene: Scene) -> str:
    """Name the relation of the scene's pair, from positions and depth order alone; one of LABELS."""
    for one, other in PAIRS:
        depth = {topping.kind: order for order, topping in enumerate(scene.toppings)}
        if one not in depth or other not in depth:
            continue
        a, b = scene.toppings[depth[one]], scene.toppings[depth[other]]
        if is_overlapping(a, b):
            upper, lower = (one, other) if depth[one] > depth[other] else (other, one)
            return f"{upper} over {lower}"
        left, right = (one, other) if a.x < b.x else (other, one)
        return f"{left} left of {right}"
    raise ValueError(
        f"scene has the toppings {[topping.kind for topping in scene.toppings]}; "
        f"a label needs both of one of the pairs {PAIRS}"
    )


def write_caption(scene: Scene) -> str:
    """Say in words what the scene shows; about 20 words of a closed vocabulary."""
    label = read_label(scene)
    extras = sorted(
        topping.kind for topping in scene.toppings if topping.kind not in label.split(" ")
    )
    beside = " and ".join(extras) if extras else "nothing else"
    return f"a {scene.crust} pizza on {scene.table} with {label} and {beside}"


def write_prompt(label: str) -> str:
    """The shortest caption that says a label: what a client searches with."""
    return f"a pizza with {label}"


def is_overlapping(a: Topping, b: Topping) -> bool:
    """Whether one of the two covers a part of the other."""
    return math.hypot(a.x - b.x, a.y - b.y) < 0.9 * (a.radius + b.radius)


def flip_scene(scene: Scene) -> Scene:
    """The scene in a mirror: left and right change places."""
    return replace(
        scene,
        toppings=tuple(
            replace(topping, x=2 * CENTRE - topping.x, angle=-topping.angle)
            for topping in scene.toppings
        ),
    )


def restack_scene(scene: Scene) -> Scene:
    """The scene with its depth order turned round: what lay on top lies below."""
    return replace(scene, toppings=scene.toppings[::-1])


def _pick(rng: np.random.Generator, numbers: range) -> int:
    return numbers[int(rng.integers(len(numbers)))]


def _make_topping(
    rng: np.random.Generator, kind: str, x: float, y: float, radius: float, textures: range
) -> Topping:
    return Topping(
        kind=kind,
        x=x,
        y=y,
        radius=radius,
        angle=float(rng.uniform(0, 2 * math.pi)),
        texture=_pick(rng, textures),
    )


def _place_pair(
    rng: np.random.Generator, pair: tuple[str, str], relation: str, textures: range
) -> tuple[Topping, Topping]:
    """Two toppings that stand in ``relation``, both on the pizza."""
    while True:
        radii = rng.uniform(8.0, 12.5, size=2)
        total = float(radii.sum())
        if relation == "over":
            distance = total * rng.uniform(0.4, 0.65)
            direction = rng.uniform(0, 2 * math.pi)
        else:
            distance = total + rng.uniform(1.0, 26.0)
            direction = rng.uniform(-1.0, 1.0)
        middle = rng.uniform(-REACH, REACH, size=2)
        half = distance / 2 * np.array([math.cos(direction), math.sin(direction)])
        ends = np.stack([middle - half, middle + half])
        if np.hypot(ends[:, 0], ends[:, 1]).max() <= REACH:
            first, second = (
                _make_topping(
                    rng, kind, CENTRE + float(x), CENTRE + float(y), float(radius), textures
                )
                for kind, (x, y), radius in zip(pair, ends, radii, strict=True)
            )
            return first, second


def _place_beside(
    rng: np.random.Generator, kind: str, placed: list[Topping], textures: range
) -> Topping | None:
    """A further topping that touches none of those placed; None when there is no room."""
    for _ in range(20):
        x, y = CENTRE + rng.uniform(-REACH, REACH, size=2)
        if math.hypot(x - CENTRE, y - CENTRE) > REACH:
            continue
        topping = _make_topping(
            rng, kind, float(x), float(y), float(rng.uniform(7.0, 10.0)), textures
        )
        if all(
            math.hypot(topping.x - other.x, topping.y - other.y) > topping.radius + other.radius
            for other in placed
        ):
            return topping
    return None
