"""Who gets a batch that two threads are after: never nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sluice_inference.engine.backend import Kind
from sluice_inference.engine.batcher import Batcher
from sluice_inference.engine.former import Batch, Former
from sluice_inference.engine.queue import Item, WorkQueue


def make_item() -> Item:
    return Item(Kind.TEXT, "a", deadline=float("inf"), entered=0, ticket=None, index=0)


class LateQueue(WorkQueue):
    """Batches of one. An item comes at the worst moment: the owner has found nothing formed.

    The other thread is given the time to take it before the owner does.
    """

    def __init__(self) -> None:
        super().__init__(8, 1000, Batcher(1))
        self.is_taken = threading.Event()

    def take(self, is_wanted: Callable[[Item], bool]) -> list[Item]:
        self.put([make_item()])
        self.is_taken.wait(0.2)
        return super().take(is_wanted)

    def take_full(self, *args: Callable[..., bool]) -> list[Item]:
        items = super().take_full(*args)
        self.is_taken.set()
        return items


class SlowQueue(WorkQueue):
    """Batches of one. Whoever takes one ahead of time is held up before it can say so."""

    def __init__(self) -> None:
        super().__init__(8, 1000, Batcher(1))
        self.is_taken = threading.Event()
        self.go_on = threading.Event()

    def take_full(self, *args: Callable[..., bool]) -> list[Item]:
        items = super().take_full(*args)
        self.is_taken.set()
        assert self.go_on.wait(10)
        return items


class Owner(threading.Thread):
    """Asks once for a batch."""

    def __init__(self, former: Former) -> None:
        super().__init__(daemon=True)
        self._former = former
        self.batch: Batch | None = None

    def run(self) -> None:
        self.batch = self._former.next()


def test_what_comes_while_the_owner_looks_is_the_owners() -> None:
    queue = LateQueue()
    former = Former(queue, lambda _: True, None)
    former.start()
    owner = Owner(former)
    owner.start()
    owner.join(5)
    assert owner.batch is not None
    queue.close()
    former.close()


def test_an_owner_waits_for_what_was_just_taken_ahead_of_it() -> None:
    queue = SlowQueue()
    former = Former(queue, lambda _: True, None)
    former.start()
    queue.put([make_item()])
    assert queue.is_taken.wait(5)
    owner = Owner(former)
    owner.start()
    owner.join(0.1)  # it looks now, and finds nothing that is ready
    queue.go_on.set()
    owner.join(5)
    assert owner.batch is not None
    queue.close()
    former.close()
