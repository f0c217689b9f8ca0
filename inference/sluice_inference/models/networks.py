"""The networks that the torch backend runs, one class for each kind, behind one small protocol.

Pixels come as uint8 on the network's device and are normalised there; embeddings leave in float32. Must
not know requests, batches or settings. Importing this imports torch; callers do it when they load.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from sluice_inference.artifact.config import ArtifactConfig, ImageConfig
from sluice_inference.errors import LoadError
from sluice_inference.models.pretrained import load_network, read_family
from sluice_inference.models.spatial import SpatialDualEncoder

# Our architectures over public families: the class in transformers, and the `model_type` it takes.
DUAL_ENCODERS = {
    "CLIP": ("CLIPModel", "clip"),
    "SigLIP": ("SiglipModel", "siglip"),
    "VisionTextDualEncoder": ("VisionTextDualEncoderModel", "vision-text-dual-encoder"),
}


class Network(Protocol):
    """A loaded network. `logit_scale` and `logit_bias` are those of `ModelFacts`.

    `masks` says that text may be cut to its longest row: padding on the right changes nothing.
    """

    logit_scale: float
    logit_bias: float | None
    masks: bool

    def encode_image(self, pixels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Pixels uint8 [N,H,W,3] -> embeddings float32 [N,D], logits float32 [N,C], where it has them."""

    def encode_text(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Tokens int64 [N,L], and 1 where one is no padding -> embeddings float32 [N,D]."""


class SpatialNetwork:
    """Our own architecture, from `model.safetensors`; lower precisions are mixed ones."""

    logit_scale = 0.0
    logit_bias: float | None = None
    masks = False

    def __init__(self, path: Path, config: ArtifactConfig, dtype: torch.dtype, device: str) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise LoadError(
                "model.safetensors is missing; an artifact of format Safetensors needs it"
            )
        try:
            network = SpatialDualEncoder.from_config(msgspec.to_builtins(config))
            network.load_state_dict(load_file(str(path)), strict=True)
        except (SafetensorError, RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())  # torch writes a page; a report is one line
            raise LoadError(f"model.safetensors: {text}") from error
        self._network = network.to(device).eval()
        self._dtype = dtype
        self._device = device

    def encode_image(self, pixels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        with self._cast():
            embeddings, logits = self._network.encode_image(pixels)
        return embeddings, logits.float()

    def encode_text(self, tokens: Tensor, keep: Tensor) -> Tensor:
        with self._cast():
            return self._network.encode_text(tokens)

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device, dtype=self._dtype)


class Pixels:
    """uint8 [N,H,W,3] to what a network was trained on: normalised [N,3,H,W] of its precision.

    Computed in float32, as the reference processors do; only the result is rounded.
    """

    def __init__(self, image: ImageConfig, dtype: torch.dtype, device: str) -> None:
        shape = (1, 3, 1, 1)
        mean = torch.tensor(image.mean, device=device).view(shape)
        std = torch.tensor(image.std, device=device).view(shape)
        self._factor, self._shift = 1 / (255 * std), -mean / std
        self._dtype = dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        planes = pixels.permute(0, 3, 1, 2).float()
        return planes.mul_(self._factor).add_(self._shift).to(self._dtype)


class DualEncoder:
    """CLIP, SigLIP (SigLIP2 of fixed resolution is the same) and VisionTextDualEncoder."""

    def __init__(
        self, folder: Path, config: ArtifactConfig, dtype: torch.dtype, device: str
    ) -> None:
        kind, family = DUAL_ENCODERS[config.architecture]
        if (found := read_family(folder)) != family:
            raise LoadError(
                f"hf/config.json: model_type {found!r}, but architecture {config.architecture} in "
                f"config.json is made of {family!r}"
            )
        self._network = load_network(kind, folder, dtype, device)
        self._pixels = Pixels(config.image, dtype, device)
        self.logit_scale = float(self._network.logit_scale.detach().float().exp())
        bias = getattr(self._network, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias.detach().float())
        # SigLIP reads its last position without a mask: its texts keep the length it was trained on.
        self.masks = family != "siglip"

    def encode_image(self, pixels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features = self._network.get_image_features(pixel_values=self._pixels(pixels))
        return _normalise(features), None

    def encode_text(self, tokens: Tensor, keep: Tensor) -> Tensor:
        mask = {"attention_mask": keep} if self.masks else {}
        return _normalise(self._network.get_text_features(input_ids=tokens, **mask))


class Classifier:
    """Any image classifier of transformers: ResNet, ConvNeXt V2, MobileNet V2, ViT and so on."""

    logit_scale = 0.0
    logit_bias: float | None = None
    masks = False

    def __init__(
        self, folder: Path, config: ArtifactConfig, dtype: torch.dtype, device: str
    ) -> None:
        read_family(folder)
        self._network = load_network("AutoModelForImageClassification", folder, dtype, device)
        self._pixels = Pixels(config.image, dtype, device)

    def encode_image(self, pixels: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return None, self._network(pixel_values=self._pixels(pixels)).logits.float()

    def encode_text(self, tokens: Tensor, keep: Tensor) -> Tensor:
        raise LoadError("config.json: a CNN reads no text; take `text` out")


def _normalise(features: Any) -> Tensor:
    """Rows of length 1 in float32. transformers gives an object around the tensor, or the tensor."""
    vectors = features if isinstance(features, Tensor) else features.pooler_output
    return functional.normalize(vectors.float(), dim=-1)
