"""The networks of Safetensors artifacts, with the entrances that their graphs get. Imports torch.

Must not write files. Weights are read by `models.networks`, so that an export starts from exactly what a
server runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sluice_inference.artifact.config import ArtifactConfig
from sluice_inference.errors import LoadError
from sluice_inference.export.errors import ExportError
from sluice_inference.export.graphs import Entrances
from sluice_inference.models import networks
from sluice_inference.models.artifact_model import make_tokenizer, tokenize
from sluice_inference.settings.model import ModelSettings

ARCHITECTURES = ("SpatialDualEncoder", *networks.DUAL_ENCODERS, "CNN")


class _Image(nn.Module):
    """Pixels uint8 [N,H,W,3] -> what the network gives of embedding and logits.

    With `labels` [C,D], texts of length 1, logits are how near each of them is.
    """

    def __init__(self, network: networks.Network, labels: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.labels = network, labels
        self.weights = _find_weights(network)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        embedding, logits = self.network.encode_image(pixels)
        if self.labels is not None and embedding is not None:
            logits = self.network.logit_scale * (embedding @ self.labels.T)
        return tuple(one for one in (embedding, logits) if one is not None)


class _Text(nn.Module):
    """Tokens int64 [N,L] -> embedding [N,D]. Without `pad_id` nothing is masked."""

    def __init__(self, network: networks.Network, pad_id: int | None) -> None:
        super().__init__()
        self.network, self.pad_id = network, pad_id
        self.weights = _find_weights(network)

    def forward(self, tokens: Tensor) -> Tensor:
        keep = torch.ones_like(tokens) if self.pad_id is None else (tokens != self.pad_id).long()
        return self.network.encode_text(tokens, keep)


def _find_weights(network: networks.Network) -> nn.ModuleList:
    """The torch modules behind a network, so that the exporter knows weights when it sees them."""
    return nn.ModuleList(one for one in vars(network).values() if isinstance(one, nn.Module))


@dataclass(frozen=True)
class Loaded:
    """An artifact's network: its entrances, and what the graphs can't say (`ModelFacts`)."""

    entrances: Entrances
    logit_scale: float
    logit_bias: float | None


def load_network(settings: ModelSettings, config: ArtifactConfig) -> Loaded:
    """The network of the artifact in `settings.path`, in float32 on the CPU. Raises ExportError."""
    try:
        network = _load(settings.path, config)
        labels = _embed_labels(network, settings, config)
    except LoadError as error:
        raise ExportError(str(error)) from error
    outputs = [
        *(["embedding"] if config.embedding else []),
        *(["logits"] if config.labels else []),
    ]
    text = config.text
    entrances = Entrances(
        size=config.image.size,
        outputs=outputs,
        image=_Image(network, labels),
        text=_Text(network, _find_pad(config)) if text else None,
        text_length=text.max_length if text else 0,
        is_fixed=config.architecture in networks.DUAL_ENCODERS,
    )
    return Loaded(entrances, network.logit_scale, network.logit_bias)


def _load(folder: Path, config: ArtifactConfig) -> networks.Network:
    match config.architecture:
        case "SpatialDualEncoder":
            path = folder / "model.safetensors"
            return networks.SpatialNetwork(path, config, torch.float32, "cpu")
        case "CNN":
            return networks.Classifier(folder / "hf", config, torch.float32, "cpu")
        case name if name in networks.DUAL_ENCODERS:
            return networks.DualEncoder(folder / "hf", config, torch.float32, "cpu")
    raise ExportError(
        f"config.json: architecture {config.architecture!r} can't be exported from Safetensors; "
        f"{', '.join(ARCHITECTURES)} can, and any one that has ONNX graphs of its own"
    )


def _find_pad(config: ArtifactConfig) -> int | None:
    """The id that is masked, where padding would be read otherwise.

    CLIP looks at nothing behind its end token, SigLIP reads its padding, and the spatial encoder masks for
    itself.
    """
    if config.architecture == "VisionTextDualEncoder" and config.text is not None:
        return config.text.pad_id
    return None


def _embed_labels(
    network: networks.Network, settings: ModelSettings, config: ArtifactConfig
) -> Tensor | None:
    """The labels' texts [C,D] of a dual encoder that classifies by them; None for any other."""
    if not config.labels or not network.logit_scale or config.text is None:
        return None
    if network.logit_bias is not None:
        raise ExportError(
            f"config.json: {config.architecture} scores each label by itself, which graphs of ours can't "
            "say; export a version without labels"
        )
    texts = [config.text.template.replace("{}", one) for one in config.labels]
    tokens = torch.from_numpy(np.asarray(tokenize(make_tokenizer(settings, config), texts)))
    with torch.inference_mode():
        embedded: Tensor = _Text(network, _find_pad(config))(tokens)
    return embedded.clone()
