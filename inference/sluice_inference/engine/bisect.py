"""Run a batch; if the whole of it fails, halve it until only the culprits fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_inference.engine.backend import Output, Payload
from sluice_inference.engine.faults import DeviceLostError, Fault, classify_fault
from sluice_inference.errors import RunError
from sluice_inference.logs import log

Run = Callable[[Sequence[Payload]], Sequence[Output | RunError]]


@dataclass(slots=True)
class Trouble:
    """What one batch met on its way. `too_large` is the smallest run that had no memory, or 0."""

    extra_runs: int = 0
    too_large: int = 0
    out_of_memory: int = 0


def run_isolated(
    run: Run, payloads: Sequence[Payload], trouble: Trouble | None = None
) -> list[Output | RunError]:
    """One outcome for each payload. At most 2n-1 runs, and one when all is well.

    Raises DeviceLostError where no run can succeed any more: a failed device, or no memory for a single
    item. All else stays with its item; this is an outermost edge.
    """
    trouble = trouble if trouble is not None else Trouble()
    try:
        outcomes = list(run(payloads))
    except Exception as error:
        fault = classify_fault(error)
        if fault is Fault.DEVICE:
            raise DeviceLostError(f"the device failed: {_shorten(error)}") from error
        if fault is Fault.MEMORY:
            trouble.out_of_memory += 1
            trouble.too_large = min(trouble.too_large or len(payloads), len(payloads))
            log("warning", "no memory for a batch; halving it", items=len(payloads))
        if len(payloads) == 1:
            if fault is Fault.MEMORY:
                raise DeviceLostError("there is no memory for a single item") from error
            log("error", "the model failed on an item", exc_info=True)
            return [RunError(type(error).__name__)]
        middle = len(payloads) // 2
        trouble.extra_runs += 2
        first = run_isolated(run, payloads[:middle], trouble)
        return first + run_isolated(run, payloads[middle:], trouble)
    if len(outcomes) != len(payloads):
        log("error", "the model gave another number of outputs", got=len(outcomes))
        return [RunError("wrong number of outputs") for _ in payloads]
    return outcomes


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
