"""The way of an event: from a watch into the cache, and from there to the keys it concerns.

Called for every event of every watched object, so it is quick, does no I/O and cannot fail.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sluice.runtime.cache import Cache
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.queue import Queue

logger = logging.getLogger(__name__)


def is_changed(old: Obj | None, new: Obj | None) -> bool:
    """The predicate that lets every change through."""
    return True


@dataclass(frozen=True, slots=True)
class Pump:
    """What to watch and whom it concerns.

    ``map_to`` gives the keys to reconcile for an object. ``is_relevant(old, new)`` says whether a
    change is worth it; old is None for a new object, new is None for a deleted one. ``optional``
    kinds may be missing from the cluster: their cache then stays empty, and counts as synced.
    """

    kind: Kind
    cache: Cache
    map_to: Callable[[Obj], Iterable[Key]]
    is_relevant: Callable[[Obj | None, Obj | None], bool] = is_changed
    optional: bool = False


class Intake:
    """Takes the events of one pump. ``saw_list`` is called when the watch listed anew."""

    def __init__(
        self,
        pump: Pump,
        queue: Queue,
        metrics: Metrics,
        clock: Clock,
        saw_list: Callable[[], None],
    ) -> None:
        self.pump = pump
        self._queue = queue
        self._clock = clock
        self._saw_list = saw_list
        name = pump.kind.kind
        self._counts = {
            event: metrics.watch_events.labels(name, event or "LISTED")
            for event in (None, "ADDED", "MODIFIED", "DELETED")
        }
        self._errors = metrics.watch_errors.labels(name)
        metrics.cache_objects.labels(name).set_function(pump.cache.__len__)
        metrics.cache_synced.labels(name).set_function(lambda: int(pump.cache.synced))

    def take(self, event: str | None, obj: Obj) -> None:
        """One event of the watch; None is an object of a list. Takes ownership of the object."""
        try:
            self._take(event, obj)
        except Exception:
            # The outermost loop of the watch: what escapes here would end the process. A defect of
            # a mapping or a projection; the resync comes back to the object.
            self._errors.inc()
            logger.exception(
                "event dropped", extra={"kind": self.pump.kind.kind, "object": _name(obj)}
            )

    def forget(self, obj: Obj, version: int) -> None:
        """A deletion that the watch did not tell of: as an event of its own."""
        if self.pump.cache.remove_uid(obj["metadata"]["uid"], version):
            for key in self.pump.map_to(obj):
                self._queue.add(key)

    def _take(self, event: str | None, obj: Obj) -> None:
        self._counts[event].inc()
        cache = self.pump.cache
        metadata = obj["metadata"]
        old = cache.get(metadata.get("namespace") or "", metadata["name"])
        if event == "DELETED":
            if cache.remove(obj) and old is not None and self.pump.is_relevant(old, None):
                self._enqueue(old, None, low=False)
            return
        low = event is None
        if low and cache.synced:
            self._saw_list()
        if not cache.upsert(obj):
            return
        new = cache.get(metadata.get("namespace") or "", metadata["name"])
        if new is not None and self.pump.is_relevant(old, new):
            self._enqueue(old, new, low=low)

    def _enqueue(self, old: Obj | None, new: Obj | None, *, low: bool) -> None:
        # The old one too: an object may have changed hands.
        keys = {key for obj in (old, new) if obj is not None for key in self.pump.map_to(obj)}
        for key in sorted(keys):
            self._queue.add(key, low=low)


def _name(obj: Obj) -> str:
    metadata = obj.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '?')}"
