"""Which backend serves: BACKEND, or the artifact's format. Imports only the one that is chosen."""

from __future__ import annotations

from sluice_inference.engine.backend import Backend
from sluice_inference.settings.model import ModelSettings

_BY_FORMAT = {"Safetensors": "torch", "ONNX": "onnx"}


def choose_backend(settings: ModelSettings) -> str:
    """torch, onnx or fake."""
    return _BY_FORMAT[settings.format] if settings.backend == "auto" else settings.backend


def make_backend(settings: ModelSettings) -> Backend:
    """The backend, not loaded yet."""
    match choose_backend(settings):
        case "torch":
            from sluice_inference.models.torch_backend import TorchBackend

            return TorchBackend(settings)
        case "onnx":
            from sluice_inference.models.onnx_backend import OnnxBackend

            return OnnxBackend(settings)
        case _:
            from sluice_inference.models.fake_backend import FakeBackend

            return FakeBackend(settings)
