"""Which backend serves: BACKEND, or the artifact's format. Imports only the one that is chosen."""

from __future__ import annotations

from sluice_inference.engine.backend import Backend
from sluice_inference.settings import Settings

_BY_FORMAT = {"Safetensors": "torch", "ONNX": "onnx"}


def choose_backend(settings: Settings) -> str:
    """torch, onnx or fake."""
    return _BY_FORMAT[settings.model_format] if settings.backend == "auto" else settings.backend


def make_backend(settings: Settings) -> Backend:
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
