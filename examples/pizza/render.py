"""Pixels of a scene: numpy only, the same bytes for the same plan.

Responsible for the picture and its depth map. Must not decide what a scene contains (``scenes``).
Shapes are signed distances in pixels, so edges are smooth without drawing at a larger size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.pizza.scenes import CENTRE, KINDS, SIZE, Scene, Topping

Plane = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]

DEPTH_GRID = SIZE // 8  # cells of the depth map on each side

_COLOURS = {
    "olive": (58, 52, 66),
    "tomato": (205, 52, 40),
    "basil": (52, 128, 48),
    "cheese": (244, 236, 208),
    "mushroom": (186, 160, 132),
    "pepper": (226, 170, 30),
}
_TABLES = {"wood": (128, 88, 54), "stone": (112, 114, 120), "cloth": (150, 164, 186)}
_SAUCE = (214, 148, 84)
_CRUST = (168, 108, 56)
_RADIUS = {"thin": 44.0, "thick": 46.0}
_RIM = {"thin": 3.0, "thick": 7.0}

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def render_scene(scene: Scene) -> tuple[Pixels, Pixels]:
    """Draw a scene.

    Returns the picture, uint8 [SIZE,SIZE,3] RGB, and its depth map, uint8 [DEPTH_GRID,DEPTH_GRID]:
    0 is the table, 255 the topping on top, each cell the mean of what is seen in it.
    """
    grain = make_grain(scene.texture)
    picture = _colour(_TABLES[scene.table]) * (0.75 + 0.5 * grain[..., None])
    depth = np.zeros((SIZE, SIZE), np.float32)
    distance = np.hypot(_COLUMNS - CENTRE, _ROWS - CENTRE)
    dough = _cover(distance - _RADIUS[scene.crust])
    inside = _cover(distance - _RADIUS[scene.crust] + _RIM[scene.crust])
    patches = make_grain(scene.texture, offset=1)[..., None]
    for colour, cover in ((_CRUST, dough), (_SAUCE, inside)):
        picture += cover[..., None] * (_colour(colour) * (0.85 + 0.3 * patches) - picture)
    depth += dough * (1.0 - depth) * 0.25
    step = 0.75 / len(KINDS)
    for order, topping in enumerate(scene.toppings):
        _lay_topping(picture, depth, topping, 0.4 + step * (order + 1))
    picture *= scene.brightness
    noise = np.random.default_rng([7, scene.noise_seed]).standard_normal(
        picture.shape, dtype=np.float32
    )
    picture += scene.noise * noise
    cells = depth.reshape(DEPTH_GRID, 8, DEPTH_GRID, 8).mean(axis=(1, 3))
    return (
        np.clip(picture, 0, 255).astype(np.uint8),
        np.clip(cells * 255, 0, 255).astype(np.uint8),
    )


@lru_cache(maxsize=512)
def make_grain(texture: int, offset: int = 0) -> Plane:
    """The surface of one texture number: smooth noise of two sizes, float32 [SIZE,SIZE] in 0..1."""
    rng = np.random.default_rng([11, texture, offset])
    coarse = _enlarge(rng.random((7, 7), dtype=np.float32))
    fine = _enlarge(rng.random((25, 25), dtype=np.float32))
    weight = np.float32(rng.uniform(0.3, 0.7))
    return weight * coarse + (1 - weight) * fine


def _enlarge(small: Plane) -> Plane:
    """Bilinear, by one small matrix per side."""
    cells = small.shape[0] - 1
    at = np.linspace(0, cells, SIZE, dtype=np.float32)
    low = np.minimum(at.astype(np.int64), cells - 1)
    matrix = np.zeros((SIZE, cells + 1), np.float32)
    matrix[np.arange(SIZE), low] = 1 - (at - low)
    matrix[np.arange(SIZE), low + 1] += at - low
    enlarged: Plane = matrix @ small @ matrix.T
    return enlarged


@lru_cache(maxsize=2048)
def _make_tint(kind: str, texture: int) -> Plane:
    """A texture's own shade of a topping, float32 [3]."""
    rng = np.random.default_rng([13, KINDS.index(kind), texture])
    return _colour(_COLOURS[kind]) * rng.uniform(0.8, 1.2) + rng.normal(0, 8, 3).astype(np.float32)


def _colour(rgb: tuple[int, int, int]) -> Plane:
    return np.array(rgb, np.float32)


def _cover(distance: Plane) -> Plane:
    """How much of each pixel a shape covers, from the signed distance of its middle to the edge."""
    cover: Plane = np.clip(0.5 - distance, 0.0, 1.0)
    return cover


def _lay_topping(picture: Plane, depth: Plane, topping: Topping, height: float) -> None:
    """Blend one topping, and the shadow it casts, into ``picture`` and ``depth``, in place."""
    reach = int(topping.radius * 1.2) + 3
    top, left = max(0, int(topping.y) - reach), max(0, int(topping.x) - reach)
    window = np.s_[top : int(topping.y) + reach + 1, left : int(topping.x) + reach + 1]
    x, y = _COLUMNS[window] - topping.x, _ROWS[window] - topping.y
    grain = make_grain(topping.texture, offset=2)[window]
    cos, sin = np.cos(topping.angle), np.sin(topping.angle)
    u, v = (cos * x + sin * y) / topping.radius, (cos * y - sin * x) / topping.radius
    edge, shade = _SHAPES[topping.kind](u.astype(np.float32), v.astype(np.float32))
    shadow = 0.35 * np.clip(0.5 - edge * topping.radius / 3.0, 0.0, 1.0)[..., None]
    picture[window] *= 1 - shadow
    cover = _cover(edge * topping.radius)
    surface = _make_tint(topping.kind, topping.texture) * (shade * (0.8 + 0.4 * grain))[..., None]
    picture[window] += cover[..., None] * (surface - picture[window])
    depth[window] += cover * (height - depth[window])


# Each shape: coordinates in radii -> signed distance to its edge in radii, and brightness (1: plain).


def _shape_olive(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    r = np.hypot(u, v)
    return np.maximum(r - 0.95, 0.38 - r), 1.0 + 0.5 * (r < 0.55)


def _shape_tomato(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    r, turn = np.hypot(u, v), np.arctan2(v, u)
    pockets = (np.abs(r - 0.55) < 0.18) & (np.cos(6 * turn) > 0.2)
    return r - 1.0, 1.0 + 0.35 * pockets - 0.2 * (r > 0.85)


def _shape_basil(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    leaf = np.maximum(np.hypot(u, v - 0.55), np.hypot(u, v + 0.55)) - 1.15
    return leaf, 1.0 + 0.45 * (np.abs(v) < 0.07) - 0.15 * (np.cos(14 * u) > 0.6)


def _shape_cheese(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    r, turn = np.hypot(u, v), np.arctan2(v, u)
    rim = 0.9 + 0.1 * np.cos(3 * turn) + 0.06 * np.cos(5 * turn + 1.0)
    return r - rim, 1.0 - 0.12 * (r > 0.7)


def _shape_mushroom(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    cap = np.maximum(np.hypot(u, v) - 1.0, v - 0.1)
    stem = np.maximum(np.abs(u) - 0.32, np.abs(v - 0.4) - 0.6)
    return np.minimum(cap, stem), 1.0 - 0.4 * (np.abs(v - 0.02) < 0.1) + 0.15 * (v > 0.15)


def _shape_pepper(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    r = np.hypot(u, v)
    ring = np.abs(r - 0.74) - 0.26
    return np.maximum(ring, -(v + 0.35 * np.abs(u) + 0.75)), 1.0 + 0.25 * (np.abs(r - 0.8) < 0.08)


_SHAPES = {
    "olive": _shape_olive,
    "tomato": _shape_tomato,
    "basil": _shape_basil,
    "cheese": _shape_cheese,
    "mushroom": _shape_mushroom,
    "pepper": _shape_pepper,
}
