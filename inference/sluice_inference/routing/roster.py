"""The models of a process: their start and end, and what their states mean for the process as a whole.

Decides when the process is ready and when it can't go on. Must not look at requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.logs import log
from sluice_inference.predictor import Answerer
from sluice_inference.routing.fallback import WithFallback
from sluice_inference.routing.member import LocalModel, Member
from sluice_inference.routing.remote import RemoteModel
from sluice_inference.routing.truth import find_mixture

_ON_THE_WAY = (State.LOADING, State.WARMING, State.READY)


class Roster:
    """The primary model, perhaps a fallback, perhaps a second model with a share of the requests.

    Ready when it is settled for each of the two that share whether it can be served, and the primary
    can or its fallback stands in. `on_failed` is told why, once, when nothing can be served (any more).
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        answerer: Answerer,
        primary: LocalModel,
        *,
        routers: dict[str, WithFallback],
        fallback: Member | None,
        second: LocalModel | None,
        on_failed: Callable[[str], None],
    ) -> None:
        self.answerer = answerer
        self.primary = primary
        self._lifecycle = lifecycle
        self._routers = routers
        self._fallback = fallback
        self._second = second
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.Task[None] | None = None
        self._was_standing_in = False
        for one in self.list_local():
            one.lifecycle.on_change(lambda _: self._call_soon())

    def start(self) -> None:
        """Load everything, side by side. Event loop only."""
        for one in self.list_local():
            one.engine.start()
        if isinstance(self._fallback, RemoteModel):
            self._fallback.on_change = self.settle
            self._watching = asyncio.create_task(self._fallback.watch())

    def settle(self) -> None:
        """Bring the process's state in line with its models'."""
        if self._lifecycle.state in (State.FAILED, State.STOPPED):
            return
        if problem := self._find_end():
            if self._lifecycle.enter(State.FAILED, problem):
                self._on_failed(problem)
            return
        target = self._find_target()
        for state in _ON_THE_WAY[: _ON_THE_WAY.index(target) + 1]:
            self._lifecycle.enter(state)  # False for those that are behind us
        self._tell()

    def find_fault(self) -> str:
        """Why the process should be replaced, or an empty string. A fallback that answers hides it."""
        if fault := self.primary.find_fault():
            return "" if self._is_standing_in() else fault
        second = self._second
        if second is not None and second.lifecycle.state is not State.FAILED:
            return second.find_fault()
        return ""

    def is_fallback_active(self) -> bool:
        """Does a fallback carry traffic?"""
        return any(one.is_active() for one in self._routers.values())

    def describe(self) -> dict[str, Any]:
        """What /status says of the models."""
        parts: dict[str, Member | None] = {
            "primary": self.primary,
            "second": self._second,
            "fallback": self._fallback,
        }
        models = []
        for part, one in parts.items():
            if one is None:
                continue
            said = {"part": part, **one.describe()}
            if part in self._routers:
                said["breaker"] = self._routers[part].breaker_state.name.lower()
            models.append(said)
        return {"fallback_active": self.is_fallback_active(), "models": models}

    def get_router(self, part: str) -> WithFallback:
        """Who asks for `primary` or `second`. Raises KeyError where there is no fallback."""
        return self._routers[part]

    def list_local(self) -> list[LocalModel]:
        """The models of this process."""
        parts = (self.primary, self._second, self._fallback)
        return [one for one in parts if isinstance(one, LocalModel)]

    async def close(self) -> None:
        """End all of them; what still waits is told so."""
        if self._watching is not None:
            self._watching.cancel()
        for one in self.list_local():
            one.engine.close(timeout_s=1.0)
        if isinstance(self._fallback, RemoteModel):
            await self._fallback.close()

    def _call_soon(self) -> None:
        """From an engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self.settle)
        except RuntimeError:
            log("debug", "a model changed after the event loop had closed")

    def _is_standing_in(self) -> bool:
        router = self._routers.get("primary")
        return router is not None and router.is_standing_in()

    def _may_stand_in(self) -> bool:
        """Could the fallback still answer for a primary that failed?"""
        router, fallback = self._routers.get("primary"), self._fallback
        if router is None or not router.is_wanted_for(self.primary.get_reason()):
            return False
        return not (isinstance(fallback, LocalModel) and fallback.lifecycle.state is State.FAILED)

    def _find_end(self) -> str:
        """Why nothing can be served, or an empty string."""
        if self.primary.lifecycle.state is State.FAILED and not self._may_stand_in():
            return self.primary.lifecycle.reason
        first, second = self.primary.facts, self._second.facts if self._second else None
        if first is not None and second is not None:
            return find_mixture(first, second)
        return ""

    def _find_target(self) -> State:
        """How far the process as a whole has come."""
        state = self.primary.lifecycle.state
        if state is State.FAILED:
            is_served = self._is_standing_in()
        elif state is State.READY:
            is_served = True
        else:
            return state if state in _ON_THE_WAY else State.LOADING
        is_settled = self._second is None or self._second.is_settled
        return State.READY if is_served and is_settled else State.WARMING

    def _tell(self) -> None:
        """Say once that the fallback has taken over, and once that it no longer has to."""
        is_standing_in = self._is_standing_in()
        if is_standing_in and not self._was_standing_in:
            log(
                "error",
                "the fallback answers: the model can't be served",
                model=self.primary.settings.title,
                reason=self.primary.find_fault(),
            )
        self._was_standing_in = is_standing_in
