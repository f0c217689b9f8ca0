"""CUDA graphs: one recorded forward pass for each batch size, replayed with one call.

A small batch on a fast GPU takes longer to launch, kernel by kernel, than to compute. Other batches run in
the next larger recording, filled up. Only for CUDA; nothing here runs on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sluice_inference.logs import log

Forward = Callable[[Any], tuple[Any, Any]]
Record = Callable[[Forward, Any], Callable[[], tuple[Any, Any]]]


class GraphedForward:
    """`forward`, recorded for the batch sizes in `sizes` and replayed from then on.

    A recording that fails, or computes something else than the plain pass, is left out: that size then
    runs as it always did.
    """

    def __init__(self, forward: Forward, record: Record) -> None:
        self._forward = forward
        self._record = record
        self._recordings: dict[int, tuple[Any, Callable[[], tuple[Any, Any]]]] = {}

    def prepare(self, sample: Any, sizes: Sequence[int]) -> None:
        """Record each size, the largest first: smaller ones then share its memory."""
        for size in sorted(set(sizes), reverse=True):
            held = sample.expand(size, *sample.shape[1:]).clone()
            wanted = self._forward(held)
            try:
                replay = self._record(self._forward, held)
                if not _is_close(replay(), wanted):
                    raise RuntimeError("the replayed values differ from the computed ones")
            except RuntimeError as error:
                log(
                    "warning", "no CUDA graph for a batch size", size=size, problem=str(error)[:300]
                )
                continue
            self._recordings[size] = (held, replay)

    def __call__(self, batch: Any) -> tuple[Any, Any]:
        """As `forward`, for a batch of any size."""
        count = len(batch)
        size = min((one for one in self._recordings if one >= count), default=0)
        if not size:
            return self._forward(batch)
        held, replay = self._recordings[size]
        held[:count].copy_(batch, non_blocking=True)
        # The recording's memory is written again by the next replay: what is given out is a copy.
        first, second = (None if one is None else one[:count].clone() for one in replay())
        return first, second


def record_cuda_graph(forward: Forward, held: Any) -> Callable[[], tuple[Any, Any]]:
    """Record `forward(held)`; the returned call replays it on whatever `held` then holds."""
    import torch

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it bare
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose their kernels in the first passes
            forward(held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = forward(held)

    def replay() -> tuple[Any, Any]:
        graph.replay()
        return outputs

    return replay


def _is_close(given: tuple[Any, Any], wanted: tuple[Any, Any]) -> bool:
    """Do both agree to what half precision can tell?"""
    for one, other in zip(given, wanted, strict=True):
        if (one is None) != (other is None):
            return False
        if one is not None:
            limit = 0.02 * max(1.0, float(other.abs().max()))
            if not float((one.float() - other.float()).abs().max()) <= limit:
                return False
    return True
