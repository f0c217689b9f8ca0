"""The bounded queue between the event loop and the engine's thread.

All or nothing: a request's items enter together or not at all. No timer: whoever takes gets what is
there, up to a full batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sluice_inference.engine.backend import Kind, Payload
from sluice_inference.errors import EngineStoppedError, QueueFullError


@dataclass(slots=True)
class Item:
    """One input on its way: what it is, until when it is wanted, and where its answer goes."""

    kind: Kind
    payload: Payload
    deadline: float
    entered: float
    ticket: Any
    index: int


class WorkQueue:
    """First in, first out; at most `limit` items."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[Item]) -> None:
        """Add all items. Raises QueueFullError, or EngineStoppedError after `close`."""
        with self._changed:
            if self._closed:
                raise EngineStoppedError
            if len(self._items) + len(items) > self._limit:
                raise QueueFullError
            self._items.extend(items)
            self._changed.notify()

    def take(self, most: int, is_wanted: Callable[[Item], bool]) -> list[Item]:
        """Wait for work, then take up to `most` items of the kind that waits longest.

        Items nobody wants any more (time over, client gone) are dropped on the way. An empty list
        means that the queue is closed and empty.
        """
        with self._changed:
            while True:
                while not self._items and not self._closed:
                    self._changed.wait()
                batch: list[Item] = []
                kept: deque[Item] = deque()
                while self._items and len(batch) < most:
                    item = self._items.popleft()
                    if not is_wanted(item):
                        continue
                    if batch and item.kind != batch[0].kind:
                        kept.append(item)
                    else:
                        batch.append(item)
                self._items.extendleft(reversed(kept))
                if batch or self._closed:
                    return batch

    def close(self) -> list[Item]:
        """Take no more work; returns what was waiting."""
        with self._changed:
            self._closed = True
            left = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return left
