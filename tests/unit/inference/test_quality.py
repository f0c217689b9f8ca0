"""What is measured on pictures that were made to be good or bad in one way."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sluice_inference.imaging.quality import (
    Quality,
    RecentPictures,
    find_issues,
    find_refusal,
    is_alike,
    measure_quality,
)
from sluice_inference.settings import read_settings

Pixels = NDArray[np.uint8]
WANTED = read_settings({}).quality
GOOD = Quality(500, 0.5, 0, 0, 640, 480, 1)


def make_scene(seed: int = 1, width: int = 224, height: int = 224) -> Pixels:
    """Blotches of many sizes, as in a photograph, over the whole range of brightness."""
    random = np.random.default_rng(seed)
    scene = np.zeros((height, width, 3))
    for cells in (4, 16, 64):
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        scene += np.asarray(layer)
    return (scene / 3).astype(np.uint8)


def blur(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def scale_light(pixels: Pixels, by: float, plus: float = 0) -> Pixels:
    return (pixels.astype(np.float32) * by + plus).clip(0, 255).astype(np.uint8)


SCENE = make_scene()


@pytest.mark.parametrize(
    ("pixels", "size", "issues"),
    [
        pytest.param(SCENE, (500, 375), [], id="a good one"),
        pytest.param(blur(SCENE, 4), (500, 375), ["blur"], id="out of focus"),
        pytest.param(np.full_like(SCENE, 128), (500, 375), ["blur"], id="plain grey"),
        pytest.param(scale_light(SCENE, 0.12), (500, 375), ["blur", "exposure"], id="too dark"),
        pytest.param(
            scale_light(SCENE, 0.2, 210), (500, 375), ["blur", "exposure"], id="too bright"
        ),
        pytest.param(
            scale_light(SCENE.mean(axis=2, keepdims=True).repeat(3, axis=2), 20, -2550),
            (500, 375),
            ["exposure"],
            id="nothing but black and white",
        ),
        pytest.param(SCENE, (60, 375), ["size", "aspect"], id="a small strip"),
        pytest.param(SCENE, (2000, 499), ["aspect"], id="a panorama"),
        pytest.param(SCENE, (64, 64), [], id="just large enough"),
    ],
)
def test_what_is_wrong_with_a_picture(
    pixels: Pixels, size: tuple[int, int], issues: list[str]
) -> None:
    quality = measure_quality(pixels, *size)
    assert [one.name for one in find_issues(quality, WANTED)] == issues


def test_sharpness_falls_as_blur_grows() -> None:
    values = [
        measure_quality(blur(SCENE, radius), 224, 224).sharpness for radius in (0, 1, 2, 4, 8)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 5 * values[-1]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.zeros((5, 5, 3), dtype=np.uint8)
    grey[2, 2] = 255
    laplacian = np.zeros((3, 3))
    laplacian[1, 1], laplacian[0, 1] = 4 * 255, -255
    laplacian[2, 1] = laplacian[1, 0] = laplacian[1, 2] = -255
    assert measure_quality(grey, 5, 5).sharpness == pytest.approx(laplacian.var(), rel=1e-5)


@pytest.mark.parametrize(
    ("colour", "brightness", "dark", "bright"),
    [
        pytest.param((0, 0, 0), 0, 1, 0, id="black"),
        pytest.param((255, 255, 255), 1, 0, 1, id="white"),
        pytest.param((255, 0, 0), 0.298, 0, 0, id="red is darker than it is bright"),
        pytest.param((0, 255, 0), 0.584, 0, 0, id="green is bright"),
    ],
)
def test_exposure(
    colour: tuple[int, int, int], brightness: float, dark: float, bright: float
) -> None:
    pixels = np.full((32, 32, 3), colour, dtype=np.uint8)
    quality = measure_quality(pixels, 32, 32)
    assert quality.brightness == pytest.approx(brightness, abs=0.004)
    assert (quality.dark, quality.bright) == (dark, bright)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        pytest.param(SCENE, True, id="itself"),
        pytest.param(scale_light(SCENE, 0.8, 10), True, id="darker"),
        pytest.param(blur(SCENE, 2), True, id="blurred"),
        pytest.param(
            np.asarray(Image.fromarray(SCENE).resize((112, 112), Image.Resampling.BICUBIC)),
            True,
            id="half the size",
        ),
        pytest.param(make_scene(2), False, id="another scene"),
        pytest.param(SCENE[:, ::-1], False, id="mirrored"),
    ],
)
def test_alike_is_what_people_call_the_same_picture(other: Pixels, is_same: bool) -> None:
    one = measure_quality(SCENE, 224, 224).fingerprint
    two = measure_quality(np.ascontiguousarray(other), 224, 224).fingerprint
    assert is_alike(one, two, WANTED.duplicate_bits) == is_same


def test_plain_pictures_are_like_no_other() -> None:
    plain = measure_quality(np.full((64, 64, 3), 9, dtype=np.uint8), 64, 64).fingerprint
    assert (plain, is_alike(plain, plain, 64)) == (0, False)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 3), id="a point"),
        pytest.param((2, 9, 3), id="two rows"),
        pytest.param((1, 3000, 3), id="a line"),
        pytest.param((1500, 2000, 3), id="a large one"),
    ],
)
def test_every_size_is_measured(shape: tuple[int, int, int]) -> None:
    quality = measure_quality(np.full(shape, 255, dtype=np.uint8), shape[1], shape[0])
    assert (quality.sharpness, quality.brightness, quality.bright) == (0, 1, 1)


def test_a_large_picture_is_measured_as_its_smaller_self() -> None:
    large = make_scene(3, 1024, 1024)
    half = large.reshape(512, 2, 512, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    one, two = (measure_quality(pixels, 1024, 1024) for pixels in (large, half))
    assert one.brightness == pytest.approx(two.brightness, abs=0.01)
    assert one.sharpness == pytest.approx(two.sharpness, rel=0.15)
    assert is_alike(one.fingerprint, two.fingerprint, 1)


def test_only_what_is_enforced_is_refused_and_the_numbers_are_told() -> None:
    quality = replace(GOOD, sharpness=12.345, width=20)
    assert find_refusal(quality, WANTED) is None
    assert find_refusal(GOOD, replace(WANTED, enforce=("blur", "size"))) is None
    refusal = find_refusal(quality, replace(WANTED, enforce=("blur", "exposure")))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (422, "IMAGE_QUALITY")
    assert "sharpness 12.3, at least 50 is needed (QUALITY_MIN_SHARPNESS)" in refusal.message
    assert "size" not in refusal.message


def test_recent_pictures_are_those_of_earlier_calls_within_the_window() -> None:
    recent = RecentPictures(bits=1, window=3)
    one, two, three, four = (1 << 60 | bits for bits in (0b1, 0b111, 0b11111, 0b1111111))
    assert recent.note([one, one]) == [False, False], "one request's own are not recent"
    assert recent.note([one ^ 1 << 40, two, 0]) == [True, False, False]
    assert recent.note([three, four]) == [False, False]
    assert recent.note([one]) == [False], "it went when newer ones came"
    assert recent.note([0]) == [False]


def test_it_costs_less_than_half_a_millisecond() -> None:
    """With room for a slow and busy machine; the docs have the figure of a quiet one."""
    seconds = []
    for _ in range(20):
        started = time.thread_time()
        measure_quality(SCENE, 500, 375)
        seconds.append(time.thread_time() - started)
    assert min(seconds) < 0.002


@pytest.mark.parametrize(
    ("env", "says"),
    [
        pytest.param({"QUALITY_ENFORCE": "blur,beauty"}, "QUALITY_ENFORCE: 'beauty'", id="unknown"),
        pytest.param({"QUALITY_MIN_BRIGHTNESS": "0.95"}, "no picture would be", id="no range"),
    ],
)
def test_settings_that_can_not_be_meant(env: dict[str, str], says: str) -> None:
    with pytest.raises(Exception, match=says):
        read_settings(env)
