"""torch: our own architecture and the public families, weights from safetensors, never pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sluice_inference.artifact.config import ArtifactConfig
from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.faults import Fault, classify_fault
from sluice_inference.engine.stack import stack_images
from sluice_inference.errors import LoadError, NoDeviceError, RunError
from sluice_inference.models.artifact_model import (
    batch_sizes,
    make_facts,
    make_tokenizer,
    open_artifact,
    tokenize_with_mask,
    warm_up,
)
from sluice_inference.models.outputs import make_outputs
from sluice_inference.models.torch_graphs import GraphedForward, record_cuda_graph
from sluice_inference.models.zero_shot import compute_zero_shot
from sluice_inference.settings.model import ModelSettings

if TYPE_CHECKING:
    from sluice_inference.models.networks import Network
    from sluice_inference.models.words import WordModel

ARCHITECTURES = (
    "SpatialDualEncoder",
    "CLIP",
    "SigLIP",
    "VisionTextDualEncoder",
    "CNN",
    "ImageTextToText",
)
_LABELS_AT_ONCE = 64
_TEXT_STEP = 8  # texts are cut to a multiple of it: fewer shapes, and the same kernels


class TorchBackend:
    """Serves an artifact of format Safetensors."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._network: Any = None  # a Network, once it is loaded
        self._words: WordModel | None = None
        self._torch: Any = None
        self._tokenizer: Any = None
        self._encode_image: Any = None
        self._labels: Any = None
        self._device = "cpu"
        self._broken = ""
        self._config: ArtifactConfig
        self._facts: ModelFacts

    def load(self) -> ModelFacts:
        self._config = open_artifact(self._settings)
        if self._config.architecture not in ARCHITECTURES:
            raise LoadError(
                f"config.json: architecture {self._config.architecture!r} is not one of "
                f"{', '.join(ARCHITECTURES)}"
            )
        import torch

        self._torch = torch
        torch.set_num_threads(self._settings.compute_threads)
        self._device = self._choose_device()
        self._facts = make_facts(self._settings, self._config, "torch", self._device)
        with torch.inference_mode():
            self._load(getattr(torch, self._settings.precision))
        return self._facts

    def warmup(self) -> None:
        if isinstance(self._encode_image, GraphedForward):
            side = self._config.image.size
            sample = self._torch.zeros(
                (1, side, side, 3), dtype=self._torch.uint8, device=self._device
            )
            with self._torch.inference_mode():
                self._encode_image.prepare(sample, list(batch_sizes(self._settings.batch_size)))
        warm_up(self, self._settings, self._config, self._facts)

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        try:
            with self._torch.inference_mode():
                return self._run(kind, payloads)
        except RuntimeError as error:
            if classify_fault(error) is Fault.DEVICE:
                self._broken = f"the device failed: {str(error).splitlines()[0]}"
            raise

    def make_array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Memory for a batch of images; for a GPU in pages that it can copy from by itself."""
        torch, is_pinned = self._torch, self._device == "cuda"
        array: NDArray[np.uint8] = torch.empty(
            shape, dtype=torch.uint8, pin_memory=is_pinned
        ).numpy()
        return array

    def health(self) -> str:
        return self._broken

    def close(self) -> None:
        self._network = self._words = self._tokenizer = self._encode_image = self._labels = None

    def _load(self, dtype: Any) -> None:
        settings, config, device = self._settings, self._config, self._device
        folder = settings.path / "hf"
        if config.architecture == "ImageTextToText":
            from sluice_inference.models.words import WordModel

            self._words = WordModel(folder, config.words, self._facts.tasks, dtype, device)
            return
        from sluice_inference.models import networks

        match config.architecture:
            case "SpatialDualEncoder":
                path = settings.path / "model.safetensors"
                network: Network = networks.SpatialNetwork(path, config, dtype, device)
            case "CNN":
                network = networks.Classifier(folder, config, dtype, device)
            case _:
                network = networks.DualEncoder(folder, config, dtype, device)
        self._network = network
        self._tokenizer = make_tokenizer(settings, config)
        self._facts = dataclasses.replace(
            self._facts, logit_scale=network.logit_scale, logit_bias=network.logit_bias
        )
        self._encode_image = network.encode_image
        if device == "cuda":
            forward = network.encode_image
            if settings.compile:
                forward = self._torch.compile(forward, dynamic=False)
            self._encode_image = GraphedForward(forward, record_cuda_graph)
        if config.labels and network.logit_scale:
            self._labels = self._embed_labels()

    def _embed_labels(self) -> Any:
        """One text embedding for each label [C,D]: what a dual encoder classifies by."""
        if self._config.text is None or self._tokenizer is None:
            raise LoadError("config.json: labels of a dual encoder need text, to be told apart")
        texts = [self._config.text.template.replace("{}", one) for one in self._config.labels]
        parts = [
            self._encode_text(texts[start : start + _LABELS_AT_ONCE])
            for start in range(0, len(texts), _LABELS_AT_ONCE)
        ]
        return np.concatenate(parts)

    def _run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        match kind:
            case Kind.PROMPT if self._words is not None:
                prompts = [one for one in payloads if isinstance(one, Prompt)]
                return [Output(None, None, text) for text in self._words.answer(prompts)]
            case Kind.TEXT if self._tokenizer is not None:
                texts = [text for text in payloads if isinstance(text, str)]
                return make_outputs(self._encode_text(texts), None)
            case Kind.IMAGE if self._encode_image is not None:
                return self._see(stack_images(payloads))
        return [RunError(f"the model takes no {kind}") for _ in payloads]

    def _see(self, pixels: Any) -> Sequence[Output | RunError]:
        batch = self._torch.from_numpy(pixels)
        if self._device == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        embeddings, logits = (_to_numpy(one) for one in self._encode_image(batch))
        if self._labels is None:
            return make_outputs(embeddings, logits)
        facts = self._facts
        scores = compute_zero_shot(embeddings, self._labels, facts.logit_scale, facts.logit_bias)
        return make_outputs(embeddings, None, scores)

    def _encode_text(self, texts: Sequence[str]) -> Any:
        tokens, keep = tokenize_with_mask(self._tokenizer, texts)
        if self._network.masks and not keep[:, -1].any():
            longest = int(keep.sum(axis=1).max())
            length = min(tokens.shape[1], -(-longest // _TEXT_STEP) * _TEXT_STEP)
            tokens, keep = tokens[:, :length], keep[:, :length]
        give = self._torch.from_numpy
        return _to_numpy(
            self._network.encode_text(give(tokens).to(self._device), give(keep).to(self._device))
        )

    def _choose_device(self) -> str:
        device, precision = self._settings.device, self._settings.precision
        has_cuda = bool(self._torch.cuda.is_available())
        if device == "cuda" and not has_cuda:
            raise NoDeviceError("DEVICE: cuda, but no GPU is visible to this process")
        if precision == "int8":
            raise LoadError("PRECISION: int8 is served from ONNX graphs only")
        return "cuda" if has_cuda and device != "cpu" else "cpu"


def _to_numpy(tensor: Any) -> Any:
    return None if tensor is None else tensor.float().cpu().numpy()
