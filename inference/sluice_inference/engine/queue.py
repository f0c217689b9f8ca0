"""The bounded queue between the event loop and the engine's threads.

Responsible for room, order and waking up. Which items make the next batch, and whether it pays to wait
for more, is the batcher's decision. All or nothing: a request's items enter together or not at all.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sluice_inference.engine.backend import Kind, Payload
from sluice_inference.errors import EngineStoppedError, QueueFullError

# How much a new arrival counts in the mean time between arrivals.
_WEIGHT = 0.2


@dataclass(slots=True)
class Item:
    """One input on its way: what it is, until when it is wanted, and where its answer goes.

    Only items of one kind and bucket can share a run. `size` is in bytes.
    """

    kind: Kind
    payload: Payload
    deadline: float
    entered: float
    ticket: Any
    index: int
    bucket: Hashable = None
    size: int = 0


@dataclass(slots=True)
class Lane:
    """The items that can share a run, oldest first. `passed_over`: a younger batch went before it."""

    kind: Kind
    items: deque[Item] = field(default_factory=deque)
    passed_over: bool = False


@dataclass(slots=True)
class Coming:
    """Items of one kind that are announced: being decoded, not yet here.

    `gap_s` is the mean time between arrivals while more were on their way; infinite until known.
    """

    count: int = 0
    gap_s: float = float("inf")
    _since: float = 0.0

    def announce(self, count: int, now: float) -> None:
        if not self.count:
            self._since = now
        self.count += count

    def arrive(self, count: int, now: float) -> None:
        gap = (now - self._since) / count
        self.gap_s = (
            gap if self.gap_s == float("inf") else self.gap_s + _WEIGHT * (gap - self.gap_s)
        )
        self._since = now
        self.count -= count

    def withdraw(self, count: int) -> None:
        self.count -= count


class Chooser(Protocol):
    """What the queue asks the batcher. Called with the queue's lock held: must be quick."""

    def choose(self, lanes: Sequence[Lane], now: float) -> Lane:
        """Whose turn it is. There is at least one lane, and none is empty."""

    def count(self, lane: Lane, now: float) -> int:
        """How many items of the lane to run together; at least 1."""

    def is_full(self, lane: Lane) -> bool:
        """Would more items change nothing?"""

    def get_patience(self, lane: Lane, coming: Coming, waited_s: float, now: float) -> float:
        """Seconds that waiting for more pays; 0 means run now."""


class WorkQueue:
    """At most `max_items` items and `max_bytes` bytes, those announced counted among the items."""

    def __init__(
        self,
        max_items: int,
        max_bytes: int,
        chooser: Chooser,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._chooser = chooser
        self._clock = clock
        self._lanes: dict[tuple[Kind, Hashable], Lane] = {}
        self._coming = {kind: Coming() for kind in Kind}
        self._items = 0
        self._bytes = 0
        self._lock = threading.Lock()
        self._for_owner = threading.Condition(self._lock)
        self._for_former = threading.Condition(self._lock)
        self._is_owner_waiting = False
        self._closed = False

    def __len__(self) -> int:
        return self._items

    @property
    def bytes(self) -> int:
        return self._bytes

    def count_waiting(self) -> Mapping[Kind, int]:
        """Items that wait, by kind."""
        counts = dict.fromkeys(Kind, 0)
        with self._lock:
            for lane in self._lanes.values():
                counts[lane.kind] += len(lane.items)
        return counts

    @contextmanager
    def announce(self, kinds: Mapping[Kind, int]) -> Iterator[Announcement]:
        """Room for items that are being prepared, until they enter or the block ends.

        Raises QueueFullError, so that nobody prepares what there is no room for; and
        EngineStoppedError after `close`. Who has the queue to itself always gets room: refused now, it
        would be refused however often it came back.
        """
        announcement = Announcement(kinds)
        with self._lock:
            if self._closed:
                raise EngineStoppedError
            held = self._items + sum(one.count for one in self._coming.values())
            if held and held + sum(kinds.values()) > self._max_items:
                raise QueueFullError
            for kind, count in kinds.items():
                self._coming[kind].announce(count, self._clock())
        try:
            yield announcement
        finally:
            with self._lock:
                self._end(announcement, Coming.withdraw)

    def put(self, items: Sequence[Item], announcement: Announcement | None = None) -> None:
        """Add all items. Raises QueueFullError, or EngineStoppedError after `close`.

        A request that has the queue to itself is never refused.
        """
        with self._lock:
            if self._closed:
                raise EngineStoppedError
            size = sum(item.size for item in items)
            is_too_much = (
                self._items + len(items) > self._max_items or self._bytes + size > self._max_bytes
            )
            if self._items and is_too_much:
                raise QueueFullError
            now = self._clock()
            if announcement is not None:
                self._end(announcement, lambda coming, count: coming.arrive(count, now))
            is_any_full = False
            for item in items:
                lane = self._lanes.setdefault((item.kind, item.bucket), Lane(item.kind))
                lane.items.append(item)
                is_any_full = is_any_full or self._chooser.is_full(lane)
            self._items += len(items)
            self._bytes += size
            if self._is_owner_waiting:
                self._for_owner.notify()
            elif is_any_full:
                self._for_former.notify()

    def hold(self) -> None:
        """The owner is free: nothing more is taken ahead of it, until it has taken or lets go."""
        with self._lock:
            self._is_owner_waiting = True

    def release(self) -> None:
        """The owner has found other work than what is in here."""
        with self._lock:
            self._release()

    def take(self, is_wanted: Callable[[Item], bool]) -> list[Item]:
        """For the owner of the model, which is free: wait for work, then take a batch of one lane.

        Items nobody wants any more (time over, client gone) are dropped on the way. An empty list
        means that the queue is closed.
        """
        with self._lock:
            self._is_owner_waiting = True
            try:
                return self._take_when_due(is_wanted)
            finally:
                self._release()

    def take_full(
        self, is_wanted: Callable[[Item], bool], on_taken: Callable[[], None] = lambda: None
    ) -> list[Item]:
        """For whoever prepares batches while the owner is at one: wait for a batch that is full.

        More items could not change it, so nothing is lost by taking it early. `on_taken` is called with
        the queue's lock held, so that nobody sees the batch gone from here and in nobody's hands. An
        empty list means that the queue is closed.
        """
        with self._lock:
            while not self._closed:
                lane = self._choose() if self._lanes and not self._is_owner_waiting else None
                if lane is None or not self._chooser.is_full(lane):
                    self._for_former.wait()
                elif batch := self._cut(lane, is_wanted):
                    on_taken()
                    return batch
            return []

    def close(self) -> list[Item]:
        """Take no more work; returns what was waiting."""
        with self._lock:
            self._closed = True
            left = [item for lane in self._lanes.values() for item in lane.items]
            self._lanes.clear()
            self._items = self._bytes = 0
            self._for_owner.notify_all()
            self._for_former.notify_all()
            return left

    def _release(self) -> None:
        self._is_owner_waiting = False
        self._for_former.notify()  # there may be a full batch left

    def _take_when_due(self, is_wanted: Callable[[Item], bool]) -> list[Item]:
        began: float | None = None
        while not self._closed:
            if not self._lanes:
                began = None
                self._for_owner.wait()
                continue
            now = self._clock()
            began = now if began is None else began
            lane = self._choose()
            patience = self._chooser.get_patience(lane, self._coming[lane.kind], now - began, now)
            if patience > 0:
                self._for_owner.wait(patience)
            elif batch := self._cut(lane, is_wanted):
                return batch
        return []

    def _choose(self) -> Lane:
        return self._chooser.choose(list(self._lanes.values()), self._clock())

    def _cut(self, lane: Lane, is_wanted: Callable[[Item], bool]) -> list[Item]:
        """Up to a batch off the front of the lane, without what nobody wants."""
        while lane.items and not is_wanted(lane.items[0]):
            self._pop(lane)
        batch: list[Item] = []
        if lane.items:
            most = self._chooser.count(lane, self._clock())
            for other in self._lanes.values():
                if other is not lane and other.items[0].entered < lane.items[0].entered:
                    other.passed_over = True
            while lane.items and len(batch) < most:
                item = self._pop(lane)
                if is_wanted(item):
                    batch.append(item)
            lane.passed_over = False
        self._lanes = {key: one for key, one in self._lanes.items() if one.items}
        return batch

    def _pop(self, lane: Lane) -> Item:
        item = lane.items.popleft()
        self._items -= 1
        self._bytes -= item.size
        return item

    def _end(self, announcement: Announcement, how: Callable[[Coming, int], None]) -> None:
        """What was announced is here, or will not come: the owner may be waiting for it."""
        for kind, count in announcement.kinds.items():
            how(self._coming[kind], count)
        if announcement.kinds and self._is_owner_waiting:
            self._for_owner.notify()
        announcement.kinds = {}


class Announcement:
    """Items that are on their way, by kind; empty once they have entered."""

    def __init__(self, kinds: Mapping[Kind, int]) -> None:
        self.kinds = dict(kinds)
