"""ONNX Runtime: graphs `image.onnx` and `text.onnx`, on CPU or CUDA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluice_inference.artifact.config import ArtifactConfig
from sluice_inference.engine.backend import Kind, ModelFacts, Output, Payload, Prompt
from sluice_inference.engine.stack import stack_images
from sluice_inference.errors import LoadError, NoDeviceError, RunError
from sluice_inference.models.artifact_model import (
    make_facts,
    make_tokenizer,
    open_artifact,
    tokenize,
    warm_up,
)
from sluice_inference.models.outputs import make_outputs
from sluice_inference.models.text_reader import TextReader
from sluice_inference.settings.model import ModelSettings

_CUDA = "CUDAExecutionProvider"


class OnnxBackend:
    """Serves an artifact of format ONNX. Precision is the graphs' own.

    Which of `embedding` and `logits` the image graph gives follows from config.json.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._outputs: list[str] = []
        self._reader: TextReader | None = None
        self._image: Any = None
        self._text: Any = None
        self._tokenizer: Any = None
        self._config: ArtifactConfig
        self._facts: ModelFacts

    def load(self) -> ModelFacts:
        self._config = open_artifact(self._settings)
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        # No calls home, whatever the build's default is.
        onnxruntime.disable_telemetry_events()
        providers = _choose_providers(self._settings.device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        # The library counts the machine's cores, not the container's share of them.
        options.intra_op_num_threads = self._settings.compute_threads
        options.inter_op_num_threads = 1
        # Threads that spin between runs eat the container's CPU quota while there is nothing to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        folder = self._settings.path
        if self._config.architecture == "TextReader":
            self._reader = TextReader(folder, self._settings.compute_threads)
            self._facts = make_facts(self._settings, self._config, "onnx", "cpu")
            return self._facts
        self._image = _open(onnxruntime, folder / "image.onnx", options, providers)
        _check_device(self._image, self._settings.device)
        promised = _list_outputs(self._config)
        given = _check_names(self._image, "image.onnx", "pixels", promised)
        # Logits that no label names are asked for, too: warm-up then tells what is wrong with them.
        wanted = ["logits"] if self._config.embedding is None else ["embedding", "logits"]
        self._outputs = [name for name in wanted if name in given]
        if self._config.text is not None:
            self._tokenizer = make_tokenizer(self._settings, self._config)
            self._text = _open(onnxruntime, folder / "text.onnx", options, providers)
            _check_device(self._text, self._settings.device)
            _check_names(self._text, "text.onnx", "tokens", {"embedding"})
        device = "cuda" if _CUDA in self._image.get_providers() else "cpu"
        facts = make_facts(self._settings, self._config, "onnx", device)
        model = self._config.model
        self._facts = dataclasses.replace(
            facts, logit_scale=model.get("logit_scale", 0.0), logit_bias=model.get("logit_bias")
        )
        return self._facts

    def warmup(self) -> None:
        warm_up(self, self._settings, self._config, self._facts)

    def run(self, kind: Kind, payloads: Sequence[Payload]) -> Sequence[Output | RunError]:
        if (self._reader is None) is (kind is Kind.PROMPT):
            return [RunError(f"the model takes no {kind}") for _ in payloads]
        if self._reader is not None:
            prompts = [one for one in payloads if isinstance(one, Prompt)]
            return [Output(None, None, self._reader.read(one.pixels)) for one in prompts]
        if kind is Kind.TEXT:
            texts = [text for text in payloads if isinstance(text, str)]
            if self._text is None:
                return [RunError("the model takes no text") for _ in payloads]
            tokens = tokenize(self._tokenizer, texts)
            (embeddings,) = self._text.run(["embedding"], {"tokens": tokens})
            return make_outputs(embeddings, None)
        pixels = stack_images(payloads)
        given = dict(
            zip(self._outputs, self._image.run(self._outputs, {"pixels": pixels}), strict=True)
        )
        return make_outputs(given.get("embedding"), given.get("logits"))

    def health(self) -> str:
        return ""

    def close(self) -> None:
        self._image = self._text = self._tokenizer = self._reader = None


def _choose_providers(device: str, available: Sequence[str]) -> list[str]:
    if device == "cuda" and _CUDA not in available:
        raise LoadError("DEVICE: cuda, but this image's ONNX Runtime has no CUDA provider")
    wanted = [_CUDA] if device != "cpu" and _CUDA in available else []
    return [*wanted, "CPUExecutionProvider"]


def _open(onnxruntime: Any, path: Path, options: Any, providers: list[str]) -> Any:
    if not path.is_file():
        raise LoadError(f"{path.name} is missing; an artifact of format ONNX needs it")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise LoadError(f"{path.name}: {error}") from error


def _check_device(session: Any, device: str) -> None:
    """The library drops a provider that can't start, and goes on with the CPU without a word."""
    if device == "cuda" and _CUDA not in session.get_providers():
        raise NoDeviceError(
            "DEVICE: cuda, but no GPU is visible to this process that ONNX Runtime can use; give the "
            "container a GPU, or set DEVICE to auto or cpu"
        )


def _list_outputs(config: ArtifactConfig) -> set[str]:
    """What the image graph must give for config.json to be true."""
    outputs = {"embedding"} if config.embedding is not None else set()
    if config.labels or not outputs:
        outputs.add("logits")
    return outputs


def _check_names(session: Any, file: str, wanted: str, outputs: set[str]) -> set[str]:
    """Names of a graph's outputs, once it takes and gives what it must. Raises LoadError."""
    inputs = [one.name for one in session.get_inputs()]
    given = {one.name for one in session.get_outputs()}
    if inputs != [wanted] or not outputs <= given:
        raise LoadError(
            f"{file}: takes {', '.join(inputs)} and gives {', '.join(sorted(given))}; it must take "
            f"{wanted} and give {', '.join(sorted(outputs))}"
        )
    return given
