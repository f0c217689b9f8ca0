"""From inputs to outcomes: decode images in the pool, queue everything, wait until the deadline.

Between HTTP and the engine; knows neither routes nor models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sluice_inference.engine.backend import Output, Payload
from sluice_inference.engine.engine import Engine
from sluice_inference.errors import EngineStoppedError, QueueFullError, RequestError, RunError
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.metrics import Metrics

Outcome = Output | RequestError


class Predictor:
    """Answers lists of inputs."""

    def __init__(self, engine: Engine, pool: DecodePool, metrics: Metrics) -> None:
        self._engine = engine
        self._pool = pool
        self._metrics = metrics

    async def answer(
        self, inputs: Sequence[bytes | str | RequestError], size: int, deadline: float
    ) -> list[Outcome]:
        """One outcome for each input, in order. `deadline` is on the event loop's clock.

        Raises RequestError 503 when there is no room; a cancelled call drops what it queued.
        """
        payloads = await asyncio.gather(*(self._prepare(one, size) for one in inputs))
        outcomes: list[Outcome | None] = [
            one if isinstance(one, RequestError) else None for one in payloads
        ]
        chosen = {at: one for at, one in enumerate(payloads) if not isinstance(one, RequestError)}
        if chosen:
            future = self._submit(list(chosen.values()), deadline)
            try:
                for at, outcome in zip(chosen, await future, strict=True):
                    outcomes[at] = self._explain(outcome)
            finally:
                future.cancel()
        return [one for one in outcomes if one is not None]

    async def _prepare(self, one: bytes | str | RequestError, size: int) -> Payload | RequestError:
        return await self._pool.decode(one, size) if isinstance(one, bytes) else one

    def _submit(
        self, payloads: Sequence[Payload], deadline: float
    ) -> asyncio.Future[list[Output | RunError]]:
        try:
            return self._engine.submit(payloads, deadline)
        except QueueFullError:
            self._metrics.rejected_total.labels("queue_full").inc()
            raise RequestError(
                503,
                "OVERLOADED",
                "the queue is full (QUEUE_MAX_ITEMS); try again after Retry-After",
                retry_after_s=self._engine.estimate_wait_s(),
            ) from None
        except EngineStoppedError:
            raise RequestError(
                503, "STOPPING", "this server is going away; try again", retry_after_s=1
            ) from None

    def _explain(self, outcome: Output | RunError) -> Outcome:
        if isinstance(outcome, Output):
            return outcome
        return RequestError(
            500, "MODEL_FAILED", "the model could not answer this input; see its log"
        )
