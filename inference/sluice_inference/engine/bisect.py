"""Run a batch; if the whole of it fails, halve it until only the culprits fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_inference.engine.backend import Output, Payload
from sluice_inference.engine.faults import DeviceLostError, Fault, classify_fault
from sluice_inference.errors import RunError
from sluice_inference.logs import log

Run = Callable[[Sequence[Payload]], Sequence[Output | RunError]]


_MOST_IN_A_ROW = 3
"""So many single items one after the other without memory: perhaps not the items are too large."""


def _keep(payload: Payload) -> Payload:
    return payload


@dataclass(slots=True)
class Shortage:
    """Single items in a row that there was no memory for, over all of an engine's batches.

    That may be the items' fault, where pictures keep the size that the client chose, however many come
    in a row. So in the end the device is asked with an item of the same sort that is as small as can be:
    `shrink` makes it.
    """

    in_a_row: int = 0
    shrink: Callable[[Payload], Payload] = _keep


@dataclass(slots=True)
class Trouble:
    """What one batch met on its way. `too_large` is the smallest run of several items without memory.

    A single item says nothing of how many can run together, so it leaves `too_large` at 0.
    """

    extra_runs: int = 0
    too_large: int = 0
    out_of_memory: int = 0


def run_isolated(
    run: Run,
    payloads: Sequence[Payload],
    trouble: Trouble | None = None,
    shortage: Shortage | None = None,
) -> list[Output | RunError]:
    """One outcome for each payload. At most 2n-1 runs, and one when all is well.

    Raises DeviceLostError where no run can succeed any more: a failed device, or no memory for three
    single items in a row nor for the smallest one after them. All else stays with its item; this is an
    outermost edge.
    """
    trouble = trouble if trouble is not None else Trouble()
    shortage = shortage if shortage is not None else Shortage()
    try:
        outcomes = list(run(payloads))
    except Exception as error:
        fault = classify_fault(error)
        if fault is Fault.DEVICE:
            raise DeviceLostError(f"the device failed: {_shorten(error)}") from error
        if fault is Fault.MEMORY:
            trouble.out_of_memory += 1
        if len(payloads) == 1:
            if fault is Fault.MEMORY:
                shortage.in_a_row += 1
                if shortage.in_a_row >= _MOST_IN_A_ROW:
                    _ask_for_room(run, shortage.shrink(payloads[0]))
                    shortage.in_a_row = 0
            log("error", "the model failed on an item", exc_info=True)
            return [RunError(type(error).__name__)]
        if fault is Fault.MEMORY:
            trouble.too_large = min(trouble.too_large or len(payloads), len(payloads))
            log("warning", "no memory for a batch; halving it", items=len(payloads))
        middle = len(payloads) // 2
        trouble.extra_runs += 2
        first = run_isolated(run, payloads[:middle], trouble, shortage)
        return first + run_isolated(run, payloads[middle:], trouble, shortage)
    shortage.in_a_row = 0
    if len(outcomes) != len(payloads):
        log("error", "the model gave another number of outputs", got=len(outcomes))
        return [RunError("wrong number of outputs") for _ in payloads]
    return outcomes


def _ask_for_room(run: Run, payload: Payload) -> None:
    """Whether the device can still run anything; DeviceLostError if it can't."""
    try:
        run([payload])
    except Exception as error:
        match classify_fault(error):
            case Fault.MEMORY:
                items = f"{_MOST_IN_A_ROW} single items in a row"
                message = f"there was no memory for {items}, nor for a small one"
                raise DeviceLostError(message) from error
            case Fault.DEVICE:
                raise DeviceLostError(f"the device failed: {_shorten(error)}") from error
            case Fault.INPUT:
                return  # there was room for it, whatever the model made of it


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
