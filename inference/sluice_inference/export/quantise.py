"""INT8 graphs from float32 ones: static for what sees pictures, dynamic for what reads texts.

Responsible for one graph at a time. Must not choose the pictures it is calibrated on, or judge the result.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from sluice_inference.export.errors import ExportError

Pixels = NDArray[np.uint8]

# Without VNNI, x86 adds pairs of 8-bit products up in 16 bits, which saturates: 7 bits of weight can't.
# The same artifact then says the same on every CPU, for a loss that does not show in the report.
_SEVEN_BITS = True
_BATCH = 8


def quantise_static(source: Path, target: Path, pictures: Sequence[Pixels]) -> None:
    """Weights by channel and activations in 8 bits, their ranges as seen on `pictures` [H,W,3].

    Raises ExportError where nothing in the graph can be quantised.
    """
    with _prepared(source) as prepared:
        quantize_static(
            prepared,
            target,
            _Pictures(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=_SEVEN_BITS,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _check_quantised(target, "QuantizeLinear")


def quantise_dynamic(source: Path, target: Path) -> None:
    """Weights of matrix products in 8 bits, activations by what each run brings: needs no samples.

    Raises ExportError where the graph has no such product.
    """
    with _prepared(source) as prepared:
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=_SEVEN_BITS,
            weight_type=QuantType.QInt8,
        )
    _check_quantised(target, "MatMulInteger")


class _Pictures(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """The pictures in batches, as the calibrator asks for them."""

    def __init__(self, pictures: Sequence[Pixels]) -> None:
        self._batches = iter(
            [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": np.stack(batch)}


@contextlib.contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The graph folded and with its shapes written down: what the quantiser wants to read."""
    with tempfile.TemporaryDirectory(prefix="sluice-export-") as scratch, _silent():
        path = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, path, skip_symbolic_shape=True)
        yield path


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The quantiser talks through the root logger, about steps that were taken or are not needed."""
    root = logging.getLogger()
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled


def _check_quantised(path: Path, operator: str) -> None:
    if not any(node.op_type == operator for node in onnx.load(path).graph.node):
        path.unlink()
        raise ExportError(
            f"{path.name}: nothing in this graph can be quantised; export it without --int8"
        )
