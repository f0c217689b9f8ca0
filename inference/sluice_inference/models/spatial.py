"""The architecture ``SpatialDualEncoder``: image and text into one embedding space.

Responsible for the network alone: two image towers (what is there, where it is), the connector that
fuses them, the text tower and the classifier head. Embeddings leave here L2-normalised in float32.
Must not read files, train, export, or know about requests; importing it imports torch, so callers
import it only where a torch backend is wanted.

Shapes: N images or texts, H and W pixels (square, ``image.size``), L tokens, D the embedding's
dimension, C the number of labels, G the side of the depth grid (``image.size`` / 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

# The strides of the geometry tower before its depth grid (4 * 2) and before its fused grid (* 2).
DEPTH_STRIDE = 8
GRID_STRIDE = 16


@dataclass(frozen=True)
class SpatialConfig:
    """What the network is built from: ``config.json`` of an artifact, checked and typed."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dimension: int
    labels: int
    max_length: int
    pad_id: int
    vocabulary: int
    semantic_channels: tuple[int, int, int]
    geometry_channels: tuple[int, int]
    fused_width: int
    text_width: int
    text_heads: int
    text_layers: int
    geometry: bool

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Self:
        """Read an artifact's whole ``config.json``; ``ValueError`` names the field and the reason."""
        try:
            image, text, model = config["image"], config["text"], config["model"]
            made = cls(
                image_size=int(image["size"]),
                mean=_read_triple(image["mean"], "image.mean"),
                std=_read_triple(image["std"], "image.std"),
                dimension=int(config["embedding"]["dimension"]),
                labels=len(config["labels"]),
                max_length=int(text["max_length"]),
                pad_id=int(text["pad_id"]),
                vocabulary=int(model["vocabulary"]),
                semantic_channels=_read_channels(model["semantic_channels"], 3),
                geometry_channels=_read_channels(model["geometry_channels"], 2),
                fused_width=int(model["fused_width"]),
                text_width=int(model["text_width"]),
                text_heads=int(model["text_heads"]),
                text_layers=int(model["text_layers"]),
                geometry=bool(model["geometry"]),
            )
        except KeyError as error:
            raise ValueError(
                f"config.json: field {error.args[0]!r} is missing; architecture SpatialDualEncoder needs it"
            ) from error
        if made.image_size % GRID_STRIDE:
            raise ValueError(
                f"config.json: image.size is {made.image_size}; it must be a multiple of {GRID_STRIDE}"
            )
        if made.text_width % made.text_heads:
            raise ValueError(
                f"config.json: model.text_width is {made.text_width}; "
                f"it must be a multiple of model.text_heads ({made.text_heads})"
            )
        return made


def _read_triple(values: Any, field: str) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"config.json: {field} has {len(values)} numbers; it needs 3 (R, G, B)")
    return float(values[0]), float(values[1]), float(values[2])


def _read_channels(values: Any, count: int) -> Any:
    if len(values) != count:
        raise ValueError(
            f"config.json: model has {list(values)} where {count} channel counts belong"
        )
    return tuple(int(value) for value in values)


class SemanticTower(nn.Module):
    """What is there. A bag of small patches, blind to where each of them lies.

    No padding (a border would tell where a patch is) and a receptive field of 20 pixels, pooled over
    the whole image by mean and maximum. [N,3,H,W] -> [N, 2 * channels[2]].
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = channels
        self.patches = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=4, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, bias=False),
            nn.BatchNorm2d(third),
            nn.ReLU(),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patches(pixels).flatten(2)
        return torch.cat([patches.mean(dim=2), patches.amax(dim=2)], dim=1)


class GeometryTower(nn.Module):
    """Where it is. Sees each pixel's coordinates and keeps a grid; predicts depth on the way.

    [N,3,H,W] -> features [N, width] and depth [N,G,G] (0 far, 1 near; the depth is a training
    target that makes the grid know which thing lies on top, and no output of the service).
    """

    coordinates: Tensor

    def __init__(self, channels: tuple[int, int], width: int, image_size: int) -> None:
        super().__init__()
        first, second = channels
        axis = torch.linspace(-1.0, 1.0, image_size)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer(
            "coordinates", torch.stack([rows, columns]).unsqueeze(0), persistent=False
        )
        self.stem = nn.Sequential(
            nn.Conv2d(5, first, 6, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
        )
        self.depth = nn.Conv2d(second, 1, 1)
        self.grid = nn.Sequential(
            nn.Conv2d(second, second, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * (image_size // GRID_STRIDE) ** 2, width),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        places = self.coordinates.expand(pixels.shape[0], -1, -1, -1)
        seen = self.stem(torch.cat([pixels, places], dim=1))
        return self.grid(seen), torch.sigmoid(self.depth(seen)).squeeze(1)


class Connector(nn.Module):
    """Fuses both towers: the semantic vector, corrected by what the geometry adds to it.

    semantic [N,S], geometry [N,F] -> [N,F], F being ``fused_width``.
    """

    def __init__(self, semantic_width: int, width: int) -> None:
        super().__init__()
        self.semantic = nn.Linear(semantic_width, width)
        self.fuse = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, semantic: Tensor, geometry: Tensor) -> Tensor:
        meaning = self.semantic(semantic)
        fused: Tensor = self.norm(meaning + self.fuse(torch.cat([meaning, geometry], dim=1)))
        return fused


class TextBlock(nn.Module):
    """One pre-norm transformer block. [N,L,W] and keep [N,L] (true where a token is) -> [N,L,W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.before_mix = nn.LayerNorm(width)
        self.mix = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, states: Tensor, keep: Tensor) -> Tensor:
        length, width = states.shape[1], states.shape[2]
        query, key, value = (
            part.reshape(-1, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(self.before_attention(states)).chunk(3, dim=2)
        )
        # Written out, not scaled_dot_product_attention: the same few nodes in ONNX on every version.
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        scores = scores.masked_fill(~keep[:, None, None, :], -1e9)
        seen = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(-1, length, width)
        states = states + self.merge(seen)
        mixed: Tensor = states + self.mix(self.before_mix(states))
        return mixed


class TextTower(nn.Module):
    """Tokens to one vector: transformer blocks, then the mean over the tokens that are not padding.

    tokens int64 [N,L], L at most ``max_length`` -> [N,D], not normalised.
    """

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        self.tokens = nn.Embedding(config.vocabulary, config.text_width)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.text_width) * 0.1)
        self.blocks = nn.ModuleList(
            TextBlock(config.text_width, config.text_heads) for _ in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(config.text_width)
        self.out = nn.Linear(config.text_width, config.dimension)

    def forward(self, tokens: Tensor) -> Tensor:
        keep = tokens != self.pad_id
        states = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            states = block(states, keep)
        weights = keep.to(states.dtype).unsqueeze(2)
        # A text of nothing but padding has no tokens to average: it gets the zero vector, no NaN.
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        out: Tensor = self.out(self.norm(pooled))
        return out


class SpatialDualEncoder(nn.Module):
    """The whole model. Built by :meth:`from_config`, weights from ``model.safetensors``."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: SpatialConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.semantic = SemanticTower(config.semantic_channels)
        self.geometry = (
            GeometryTower(config.geometry_channels, config.fused_width, config.image_size)
            if config.geometry
            else None
        )
        self.connector = Connector(2 * config.semantic_channels[2], config.fused_width)
        self.project = nn.Linear(config.fused_width, config.dimension)
        self.classify = nn.Linear(config.fused_width, config.labels)
        self.text = TextTower(config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build the network for a whole ``config.json``, untrained; ``ValueError`` when it is wrong."""
        return cls(SpatialConfig.from_dict(config))

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pixels uint8 [N,H,W,3] -> embedding [N,D], logits [N,C], depth [N,G,G] (None: no geometry)."""
        scaled = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        scaled = (scaled - self.mean) / self.std
        meaning = self.semantic(scaled)
        if self.geometry is None:
            where, depth = meaning.new_zeros(meaning.shape[0], self.config.fused_width), None
        else:
            where, depth = self.geometry(scaled)
        fused = self.connector(meaning, where)
        return normalize(self.project(fused)), self.classify(fused), depth

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [N,H,W,3] -> embedding float32 [N,D] of length 1, logits [N,C]."""
        embedding, logits, _ = self.see(pixels)
        return embedding, logits

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens int64 [N,L] (padded with ``pad_id``) -> embedding float32 [N,D] of length 1."""
        return normalize(self.text(tokens))


def normalize(vectors: Tensor) -> Tensor:
    """Give each row [N,D] length 1 in float32, whatever the precision it was computed in."""
    return functional.normalize(vectors.float(), dim=1)
