"""Run a batch; if the whole of it fails, halve it until only the culprits fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sluice_inference.engine.backend import Output, Payload
from sluice_inference.errors import RunError
from sluice_inference.logs import log

Run = Callable[[Sequence[Payload]], Sequence[Output | RunError]]


def run_isolated(run: Run, payloads: Sequence[Payload]) -> list[Output | RunError]:
    """One outcome for each payload. At most 2n-1 runs, and one when all is well.

    This is an outermost edge: whatever a model raises on an input must not end the engine.
    """
    try:
        outcomes = list(run(payloads))
    except Exception as error:
        if len(payloads) == 1:
            log("error", "the model failed on an item", exc_info=True)
            return [RunError(type(error).__name__)]
        middle = len(payloads) // 2
        return run_isolated(run, payloads[:middle]) + run_isolated(run, payloads[middle:])
    if len(outcomes) != len(payloads):
        log("error", "the model gave another number of outputs", got=len(outcomes))
        return [RunError("wrong number of outputs") for _ in payloads]
    return outcomes
