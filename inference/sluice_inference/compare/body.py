"""Reading a mirrored request's body: bounded in bytes and time, and never left half read."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from sluice_inference.http.budget import BodyBudget


class Body:
    """One body. `reason` says why it can't be compared; then its bytes are read and let go."""

    def __init__(self, budget: BodyBudget, limit: int, reason: str = "") -> None:
        self.reason = reason
        self._budget = budget
        self._limit = limit
        self._pieces: list[bytes] = []
        self._held = 0

    async def read(self, receive: Receive, timeout_s: float) -> bytes:
        """The whole body; empty where there is a reason."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._pull(receive):
                    pass
        except TimeoutError:
            self._refuse("cut_off")
        return b"".join(self._pieces)

    def release(self) -> None:
        """Give the budget back what this body took."""
        self._budget.give_back(self._held)
        self._held = 0

    async def _pull(self, receive: Receive) -> bool:
        """Take the next piece; True while there are more."""
        message = await receive()
        if message["type"] == "http.disconnect":
            self._refuse("cut_off")
            return False
        piece: bytes = message.get("body", b"")
        if not self.reason:
            if self._held + len(piece) > self._limit:
                self._refuse("too_large")
            elif not self._budget.take(len(piece), self._held):
                self._refuse("shed")
            else:
                self._held += len(piece)
                self._pieces.append(piece)
        return bool(message.get("more_body", False))

    def _refuse(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._pieces.clear()
        self.release()
