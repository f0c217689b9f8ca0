"""A model of this process as routing sees it: can it answer, how busy is it, what is its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sluice_inference.engine.backend import ModelFacts
from sluice_inference.engine.engine import Engine
from sluice_inference.engine.faults import DeviceLostError
from sluice_inference.errors import NoDeviceError
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.predictor import Answerer, Job, ModelName, Reply
from sluice_inference.settings.model import ModelSettings
from sluice_inference.settings.routing import ERROR, NO_GPU


class Member(Protocol):
    """A place to ask: a model of this process, or another server."""

    @property
    def name(self) -> ModelName | None:
        """None while it is not known."""

    @property
    def facts(self) -> ModelFacts | None: ...

    def is_up(self) -> bool:
        """Is it worth asking?"""

    async def answer(self, job: Job) -> Reply:
        """As `Answerer` has it."""

    def describe(self) -> Mapping[str, Any]:
        """What /status says of it."""


class LocalModel:
    """One model: its settings, its own life, its engine, and what answers with it."""

    def __init__(
        self,
        settings: ModelSettings,
        lifecycle: Lifecycle,
        engine: Engine,
        answerer: Answerer,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.engine = engine
        self._answerer = answerer
        self._routed = metrics.routed_total.labels(settings.title)

    @property
    def name(self) -> ModelName:
        return self.settings

    @property
    def facts(self) -> ModelFacts | None:
        return self.engine.facts

    @property
    def is_settled(self) -> bool:
        """Is it known whether it can be served?"""
        return self.lifecycle.state in (State.READY, State.FAILED)

    def is_up(self) -> bool:
        return self.lifecycle.state is State.READY and not self.engine.health()

    def find_fault(self) -> str:
        """Why it can't answer any more, or an empty string; also while it loads."""
        if self.lifecycle.state is State.FAILED:
            return self.lifecycle.reason
        return self.engine.health()

    def get_reason(self) -> str:
        """Where it is down: why its fallback answers."""
        is_device = isinstance(self.engine.failure, NoDeviceError | DeviceLostError)
        return NO_GPU if is_device else ERROR

    def get_fill(self) -> float:
        """The share (0..1) of its queue that is taken."""
        return self.engine.queued / self.settings.queue_items

    async def answer(self, job: Job) -> Reply:
        reply = await self._answerer.answer(job)
        self._routed.inc()
        return reply

    def describe(self) -> dict[str, Any]:
        facts = self.facts
        return {
            "model": self.settings.name,
            "version": self.settings.version,
            "digest": self.settings.digest,
            "state": str(self.lifecycle.state),
            "fault": self.find_fault(),
            "backend": facts.backend if facts else "",
            "device": facts.device if facts else "",
            "tasks": list(facts.tasks) if facts else [],
            "queue_items": self.engine.queued,
        }
