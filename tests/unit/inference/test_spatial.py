"""SpatialDualEncoder: shapes, lengths, what each tower may know, and clear errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sluice_inference.models.spatial import SemanticTower, SpatialDualEncoder, normalize

CONFIG: dict[str, Any] = {
    "schema": 1,
    "architecture": "SpatialDualEncoder",
    "image": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "embedding": {"space": "tiny-1", "dimension": 8},
    "labels": ["left", "right", "over"],
    "tasks": ["ImageEmbedding", "TextEmbedding", "Classification"],
    "text": {"max_length": 6, "pad_id": 0},
    "model": {
        "vocabulary": 11,
        "semantic_channels": [4, 6, 8],
        "geometry_channels": [4, 6],
        "fused_width": 16,
        "text_width": 8,
        "text_heads": 2,
        "text_layers": 2,
        "geometry": True,
    },
}


def make_config(**changes: Any) -> dict[str, Any]:
    """CONFIG with changes by section: ``model={"geometry": False}``."""
    config = copy.deepcopy(CONFIG)
    for section, values in changes.items():
        config[section].update(values)
    return config


def make_model(**changes: Any) -> SpatialDualEncoder:
    torch.manual_seed(3)
    return SpatialDualEncoder.from_config(make_config(**changes)).eval()


def make_pixels(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 3], ids=["one-image", "three-images"])
@pytest.mark.parametrize("geometry", [True, False], ids=["with-geometry", "without-geometry"])
def test_images_become_embeddings_of_length_one_and_logits(count: int, geometry: bool) -> None:
    model = make_model(model={"geometry": geometry})
    embedding, logits = model.encode_image(make_pixels(count))
    assert (embedding.shape, embedding.dtype) == ((count, 8), torch.float32)
    assert logits.shape == (count, 3)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(count))


def test_depth_is_one_cell_for_eight_pixels_and_absent_without_geometry() -> None:
    depth = make_model().see(make_pixels(2))[2]
    assert depth is not None
    assert depth.shape == (2, 4, 4)
    assert bool(((depth >= 0) & (depth <= 1)).all())
    assert make_model(model={"geometry": False}).see(make_pixels(2))[2] is None


def test_texts_become_embeddings_and_padding_changes_nothing() -> None:
    model = make_model()
    alone = model.encode_text(torch.tensor([[4, 5]]))
    padded = model.encode_text(torch.tensor([[4, 5, 0, 0], [6, 7, 8, 9]]))
    assert padded.shape == (2, 8)
    torch.testing.assert_close(alone[0], padded[0])
    torch.testing.assert_close(padded.norm(dim=1), torch.ones(2))


def test_the_order_of_words_changes_a_text() -> None:
    model = make_model()
    one, other = model.encode_text(torch.tensor([[4, 5, 6], [6, 5, 4]]))
    assert float((one - other).detach().abs().max()) > 1e-3


def test_a_text_of_padding_alone_has_finite_numbers() -> None:
    assert bool(
        torch.isfinite(make_model().encode_text(torch.zeros((1, 4), dtype=torch.int64))).all()
    )


def test_the_semantic_tower_is_blind_to_place_and_the_whole_model_is_not() -> None:
    """A small thing moved by the tower's stride: what is there stays, where it is changes."""
    pixels = torch.full((2, 64, 64, 3), 90, dtype=torch.uint8)
    pixels[0, 24:28, 24:28] = 250
    pixels[1, 24:28, 32:36] = 250
    tower = SemanticTower((4, 6, 8)).eval()
    meaning = tower(pixels.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(meaning[0], meaning[1])
    seen, _ = make_model(image={"size": 64}).encode_image(pixels)
    assert float((seen[0] - seen[1]).detach().abs().max()) > 1e-3
    blind, _ = make_model(image={"size": 64}, model={"geometry": False}).encode_image(pixels)
    torch.testing.assert_close(blind[0], blind[1])


def test_weights_carry_a_model_over_exactly() -> None:
    one, other = make_model(), SpatialDualEncoder.from_config(CONFIG).eval()
    other.load_state_dict(one.state_dict())
    for mine, theirs in zip(
        one.encode_image(make_pixels(2)), other.encode_image(make_pixels(2)), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_vectors_of_half_precision_are_normalised_in_float32() -> None:
    vectors = normalize(torch.full((1, 64), 3.0, dtype=torch.bfloat16))
    assert vectors.dtype == torch.float32
    assert vectors.norm().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"image": {"size": 40}}, "image.size is 40.*multiple of 16", id="odd-size"),
        pytest.param({"image": {"mean": [0.5]}}, "image.mean has 1 numbers", id="one-mean"),
        pytest.param(
            {"model": {"text_heads": 3}}, "text_width is 8.*multiple of .*3", id="heads-do-not-fit"
        ),
        pytest.param(
            {"model": {"geometry_channels": [4]}}, r"\[4\] where 2 channel", id="channels-missing"
        ),
    ],
)
def test_a_wrong_config_says_which_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialDualEncoder.from_config(make_config(**changes))


def test_a_missing_field_is_named() -> None:
    config = make_config()
    del config["model"]["fused_width"]
    with pytest.raises(ValueError, match="'fused_width' is missing"):
        SpatialDualEncoder.from_config(config)
