"""What transformers' processors say, in the words of our own config.json."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sluice_inference.errors import LoadError
from sluice_inference.models.adoption import read_image, read_text

HALF = [0.5, 0.5, 0.5]
CLIP: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": HALF,
    "image_std": HALF,
}
SQUARE = {"do_center_crop": False, "size": {"height": 384, "width": 384}, "crop_size": None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, (224, "crop", 224, "bicubic"), id="CLIP"),
        pytest.param(SQUARE, (384, "stretch", 0, "bicubic"), id="SigLIP"),
        pytest.param(SQUARE | {"resample": 2}, (384, "stretch", 0, "bilinear"), id="ViT, SigLIP2"),
        pytest.param(
            {"size": {"shortest_edge": 256}, "resample": 2},
            (224, "crop", 256, "bilinear"),
            id="MobileNetV2: a margin is cut off",
        ),
        pytest.param(
            {"do_center_crop": None, "crop_size": None, "crop_pct": 0.875},
            (224, "crop", 256, "bicubic"),
            id="ResNet: the margin is a share",
        ),
        pytest.param(
            {"do_center_crop": None, "crop_pct": 0.875, "size": {"shortest_edge": 384}},
            (384, "stretch", 0, "bicubic"),
            id="ConvNeXt from 384 on: stretched",
        ),
        pytest.param({"resample": 1}, (224, "crop", 224, "lanczos"), id="lanczos"),
    ],
)
def test_a_processor_becomes_a_plan(change: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = read_image(CLIP | change)
    assert (found.size, found.fit, found.edge, found.filter) == expected
    assert found.mean == (0.5, 0.5, 0.5)


def test_pixels_that_are_not_normalised_stay_as_they_are() -> None:
    found = read_image(CLIP | {"do_normalize": False})
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"do_flip_channel_order": True}, "do_flip_channel_order", id="BGR"),
        pytest.param({"rescale_offset": True}, "rescale_offset", id="an offset"),
        pytest.param({"rescale_factor": 1 / 127.5}, "by 1/255", id="another range"),
        pytest.param({"do_rescale": False}, "by 1/255", id="no range"),
        pytest.param({"resample": 0}, "none of bilinear", id="nearest"),
        pytest.param({"do_resize": False}, "none of bilinear", id="any size"),
        pytest.param({"size": {"height": 256, "width": 256}}, "no plan of ours", id="both"),
        pytest.param({"size": {"longest_edge": 980}}, "no plan of ours", id="longest edge"),
        pytest.param(
            SQUARE | {"size": {"height": 64, "width": 128}}, "128 x 64", id="not a square"
        ),
    ],
)
def test_a_step_that_is_none_of_ours_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        read_image(CLIP | change)


@pytest.mark.parametrize(
    ("family", "tokenizer", "kind", "expected"),
    [
        pytest.param(
            "clip", (77, 49407, "right"), "CLIPTokenizer", (77, 49407, 0, 0, 0), id="CLIP"
        ),
        pytest.param("siglip", (64, 1, "right"), "SiglipTokenizer", (64, 1, 0, 1, 1), id="SigLIP"),
        pytest.param(
            "siglip", (10**30, 0, "right"), "GemmaTokenizer", (77, 0, 0, 1, 0), id="SigLIP2"
        ),
        pytest.param("clip", (77, None, "left"), "", (77, 0, 1, 0, 0), id="on the left"),
    ],
)
def test_texts_are_cut_padded_and_cleaned_as_the_family_was_trained(
    family: str, tokenizer: tuple[Any, ...], kind: str, expected: tuple[int, ...]
) -> None:
    longest, pad_id, side = tokenizer
    given = SimpleNamespace(model_max_length=longest, pad_token_id=pad_id, padding_side=side)
    found = read_text(family, 77, given, kind)
    flags = (found.pad_left, found.lowercase, found.drop_punctuation)
    assert (found.max_length, found.pad_id, *flags) == expected
