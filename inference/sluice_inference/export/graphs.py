"""From a network to ONNX graphs as the contract has them. Imports torch: import it where that is wanted.

Responsible for the graphs' names, shapes and operators. Must not load weights, quantise or compare.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from sluice_inference.export.errors import ExportError

OPSET = 18


@dataclass(frozen=True)
class Entrances:
    """A network's two entrances; `text` is None where it takes none.

    `image`: pixels uint8 [N,size,size,3] -> the tensors that `outputs` names, in that order: `embedding`
    [N,D], `logits` [N,C], one of them or both. `text`: tokens int64 [N,L] -> embedding [N,D], L up to
    `text_length`; only that very L where `is_fixed`.
    """

    size: int
    outputs: Sequence[str]
    image: nn.Module
    text: nn.Module | None = None
    text_length: int = 0
    is_fixed: bool = False


def write_graphs(entrances: Entrances, folder: Path) -> None:
    """Write `image.onnx`, and `text.onnx` where there is text: float32, for any N."""
    size, outputs = entrances.size, entrances.outputs
    pixels = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    free = {name: {0: "batch"} for name in ("pixels", *outputs)}
    _write(entrances.image, pixels, folder / "image.onnx", "pixels", outputs, free)
    if entrances.text is None:
        return
    length = entrances.text_length if entrances.is_fixed else max(1, entrances.text_length // 2)
    tokens = torch.full((2, length), 2, dtype=torch.int64)
    free = {"tokens": {0: "batch"}, "embedding": {0: "batch"}}
    if not entrances.is_fixed:
        free["tokens"][1] = "length"
    _write(entrances.text, tokens, folder / "text.onnx", "tokens", ["embedding"], free)


def _write(
    module: nn.Module,
    example: Tensor,
    path: Path,
    takes: str,
    gives: Sequence[str],
    free: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings():
        # The tracing exporter is asked for on purpose: the one that replaces it takes 40 s a graph
        # (this one 0.3 s) and gives two values of the text graph the same name.
        warnings.filterwarnings("ignore", "You are using the legacy", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        # What a trace may have frozen shows when the graph is held to the network, for every export.
        warnings.filterwarnings("ignore", "Exporting aten::index operator", UserWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            torch.onnx.export(
                module.eval(),
                (example,),
                str(path),
                dynamo=False,
                input_names=[takes],
                output_names=list(gives),
                dynamic_axes=free,
                opset_version=OPSET,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]  # the rest is whole tensors
            raise ExportError(f"{path.name}: torch can't write this network: {reason}") from error
    onnx.checker.check_model(onnx.load(path), full_check=True)
