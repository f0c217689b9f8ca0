"""torch: our own architectures, weights from safetensors, never pickle."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from sluice_inference.artifact.config import ArtifactConfig
from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload
from sluice_inference.errors import LoadError, RunError
from sluice_inference.models.artifact_model import (
    make_facts,
    make_tokenizer,
    open_artifact,
    tokenize,
    warm_up,
)
from sluice_inference.models.outputs import make_outputs
from sluice_inference.settings.model import ModelSettings

ARCHITECTURES = ("SpatialDualEncoder",)
# After one of these every later call on the device fails until the process is another one.
_FATAL = ("CUDA error", "illegal memory access", "device-side assert", "ECC error")


class TorchBackend:
    """Serves an artifact of format Safetensors."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._model: Any = None
        self._torch: Any = None
        self._tokenizer: Any = None
        self._device = "cpu"
        self._broken = ""
        self._config: ArtifactConfig
        self._facts: ModelFacts

    def load(self) -> ModelFacts:
        self._config = open_artifact(self._settings)
        path = self._settings.path / "model.safetensors"
        if not path.is_file():
            raise LoadError(
                "model.safetensors is missing; an artifact of format Safetensors needs it"
            )
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self._torch = torch
        torch.set_num_threads(self._settings.compute_threads)
        self._device = self._choose_device()
        try:
            model = _make_architecture(self._config)
            model.load_state_dict(load_file(str(path)), strict=True)
        except (SafetensorError, RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())  # torch writes a page; a report is one line
            raise LoadError(f"model.safetensors: {text}") from error
        self._model = model.to(self._device).eval()
        self._tokenizer = make_tokenizer(self._settings, self._config)
        self._facts = make_facts(self._settings, self._config, "torch", self._device)
        return self._facts

    def warmup(self) -> None:
        warm_up(self, self._settings, self._config, self._facts)

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        if kind is Kind.TEXT and self._tokenizer is None:
            return [RunError("the model takes no text") for _ in payloads]
        try:
            return self._run(kind, payloads)
        except RuntimeError as error:
            if any(sign in str(error) for sign in _FATAL):
                self._broken = f"the device failed: {str(error).splitlines()[0]}"
            raise

    def health(self) -> str:
        return self._broken

    def close(self) -> None:
        self._model = self._tokenizer = None

    def _run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        torch = self._torch
        with torch.inference_mode(), self._cast():
            if kind is Kind.TEXT:
                texts = [text for text in payloads if isinstance(text, str)]
                tokens = torch.from_numpy(tokenize(self._tokenizer, texts)).to(self._device)
                return make_outputs(_to_numpy(self._model.encode_text(tokens)), None)
            pixels = np.stack([image for image in payloads if isinstance(image, np.ndarray)])
            batch = torch.from_numpy(pixels).to(self._device)
            embeddings, logits = self._model.encode_image(batch)
            return make_outputs(_to_numpy(embeddings), _to_numpy(logits))

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision where the version asks for it; float32 runs as it is."""
        precision = self._settings.precision
        if precision == "float32":
            return contextlib.nullcontext()
        cast: contextlib.AbstractContextManager[Any] = self._torch.autocast(
            self._device, dtype=getattr(self._torch, precision)
        )
        return cast

    def _choose_device(self) -> str:
        device, precision = self._settings.device, self._settings.precision
        has_cuda = bool(self._torch.cuda.is_available())
        if device == "cuda" and not has_cuda:
            raise LoadError("DEVICE: cuda, but no GPU is visible to this process")
        if precision == "int8":
            raise LoadError("PRECISION: int8 is served from ONNX graphs only")
        return "cuda" if has_cuda and device != "cpu" else "cpu"


def _make_architecture(config: ArtifactConfig) -> Any:
    match config.architecture:
        case "SpatialDualEncoder":
            from sluice_inference.models.spatial import SpatialDualEncoder

            return SpatialDualEncoder.from_config(msgspec.to_builtins(config))
    raise LoadError(
        f"config.json: architecture {config.architecture!r} is not one of "
        f"{', '.join(ARCHITECTURES)}"
    )


def _to_numpy(tensor: Any) -> Any:
    return tensor.float().cpu().numpy()
