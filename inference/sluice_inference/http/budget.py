"""The bound on the bytes of request bodies that are held at the same time, over all requests.

Counts only; who is over it is told so by the envelope. Event loop only.
"""

from __future__ import annotations


class BodyBudget:
    """At most `limit` bytes; `held` is what requests have taken and not given back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int, own: int) -> bool:
        """Take `size` bytes more for a request that holds `own` already; False where that is too much.

        A request that is alone is always served: refused, it could never be answered at all.
        """
        if self.held > own and self.held + size > self.limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size
