"""Gets the next batch ready: takes it off the queue and lays its pictures out as the model wants them.

While the model is at a batch, one more is formed if it is full already, so that the owner goes from run to
run at saturation. One that isn't full stays open for whoever comes until the model is free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sluice_inference.engine.backend import Kind, Payload
from sluice_inference.engine.queue import Item, WorkQueue
from sluice_inference.engine.stack import ImageStack, Stacker
from sluice_inference.engine.ticket import turn_away
from sluice_inference.logs import log

IsWanted = Callable[[Item], bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that run together, and their payloads as the backend gets them."""

    items: list[Item]
    payloads: Sequence[Payload]

    @property
    def kind(self) -> Kind:
        return self.items[0].kind


class Former:
    """Forms batches for one owner thread. At most two exist at a time: the running and the next."""

    def __init__(self, queue: WorkQueue, is_wanted: IsWanted, stacker: Stacker | None) -> None:
        self._queue = queue
        self._is_wanted = is_wanted
        self._stacker = stacker
        self._changed = threading.Condition()
        self._is_forming = False
        self._is_closed = False
        self._ready: Batch | None = None
        self._thread = threading.Thread(target=self._form_ahead, name="former", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def next(self) -> Batch | None:
        """The next batch, for the owner; None once the queue is closed and nothing is left.

        The queue is held before anything is looked at. Otherwise the thread could still take what comes
        in the meantime, and the owner would sleep at an empty queue while that batch lies here.
        """
        self._queue.hold()
        with self._changed:
            while self._is_forming:
                self._changed.wait()
            batch, self._ready = self._ready, None
            self._changed.notify_all()
        if batch is not None:
            self._queue.release()
            return batch
        items = self._queue.take(self._is_wanted)
        return self._form(items) if items else None

    def finish(self, batch: Batch) -> None:
        """The batch's run is over."""
        if self._stacker is not None and isinstance(batch.payloads, ImageStack):
            self._stacker.give_back(batch.payloads)

    def close(self) -> None:
        """After the queue's: turn away what was formed and will not run, now or when it is formed."""
        with self._changed:
            self._is_closed = True
            batch, self._ready = self._ready, None
            self._changed.notify_all()
        if batch is not None:
            turn_away(batch.items)

    def _form_ahead(self) -> None:
        """The thread: full batches, one at a time."""
        while items := self._queue.take_full(self._is_wanted, self._note_taken):
            batch = self._form(items)
            with self._changed:
                self._is_forming = False
                self._ready = batch
                self._changed.notify_all()
                while self._ready is not None and not self._is_closed:
                    self._changed.wait()
                left, self._ready = self._ready, None
            if left is not None:
                turn_away(left.items)

    def _note_taken(self) -> None:
        """With the queue's lock held. The two locks are only ever taken in this order."""
        with self._changed:
            self._is_forming = True

    def _form(self, items: list[Item]) -> Batch:
        """Never fails: a batch that can't be laid out is given to the backend as single pictures.

        What is wrong, for instance with the device, shows in its run, where failures are dealt with.
        """
        payloads = [item.payload for item in items]
        if self._stacker is None or items[0].kind is not Kind.IMAGE:
            return Batch(items, payloads)
        try:
            return Batch(items, self._stacker.stack(payloads))  # type: ignore[arg-type]
        except Exception:
            log("warning", "a batch could not be laid out", items=len(items), exc_info=True)
            return Batch(items, payloads)
