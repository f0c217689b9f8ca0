"""The recorder: Kubernetes events (events.k8s.io/v1) about objects, sent in the background.

An event's name follows from the object, the reason and the note, so that the same thing happening
again, even after a restart, counts up a series instead of making another event. It never makes a
caller wait and never fails one: under pressure events are dropped, and the drops are counted.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from sluice.errors import AlreadyExists, ApiError, Invalid, NotFound
from sluice.runtime.bucket import Bucket
from sluice.runtime.clock import Clock, Timer, format_time
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.metrics import Metrics

logger = logging.getLogger(__name__)

EVENT = Kind("events.k8s.io", "v1", "events", "Event")
INTERVAL = 60.0
"""Seconds between two writes of one series."""
SERIES_KEPT = 4096
QUEUE_SIZE = 4096
SENDERS = 4
BURST, RATE = 25, 1 / 60
"""New events about one object: so many at once, and so many a second after that."""
NOTE_LENGTH = 1024

Level = Literal["Normal", "Warning"]


class EventApi(Protocol):
    """What the recorder needs of the API port."""

    async def create(self, kind: Kind, obj: Obj) -> Obj: ...
    async def apply(self, kind: Kind, obj: Obj) -> Obj: ...


@dataclass(slots=True)
class _Series:
    event: Obj  # as it is created
    last: datetime
    count: int = 1
    sent: int = 0  # the count that the server has
    sent_at: float = 0.0
    queued: bool = False
    timer: Timer | None = None


def make_reference(obj: Obj) -> dict[str, str]:
    """The ObjectReference of an object, pinned to its uid."""
    metadata = obj["metadata"]
    reference = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
    }
    return {key: value for key, value in reference.items() if value}


class Recorder:
    """Sends events as ``component`` of ``instance`` (the process' identity)."""

    def __init__(
        self, api: EventApi, clock: Clock, metrics: Metrics, *, component: str, instance: str
    ) -> None:
        self._api = api
        self._clock = clock
        self._dropped = metrics.events_dropped
        self._component = component
        self._instance = instance[:128]
        self._series: OrderedDict[str, _Series] = OrderedDict()
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(QUEUE_SIZE)

    def event(
        self,
        about: Obj,
        level: Level,
        reason: str,
        note: str,
        *,
        action: str = "Reconcile",
        related: Obj | None = None,
    ) -> None:
        """Tell of something that happened to ``about`` (an object, or an ObjectReference).

        ``reason`` and ``action`` are CamelCase words; ``note`` is for people, at most 1 kB of it is
        kept.
        """
        regarding: dict[str, str] = make_reference(about) if "metadata" in about else about
        if len(note.encode()) > NOTE_LENGTH:
            note = note.encode()[: NOTE_LENGTH - 3].decode(errors="ignore") + "…"
        identity = "\0".join((regarding.get("uid") or regarding["name"], level, reason, note))
        name = f"{regarding['name'][:200]}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        now = self._clock.now()
        series = self._series.get(name)
        if series is not None:
            self._series.move_to_end(name)
            series.count += 1
            series.last = now
            self._send_later(series)
            return
        if not self._bucket(regarding.get("uid", "")).try_acquire():
            self._dropped.labels("spam").inc()
            return
        event: dict[str, Any] = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            # Events about what has no namespace live in "default", where kubectl looks for them.
            "metadata": {"name": name, "namespace": regarding.get("namespace") or "default"},
            "eventTime": format_time(now),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "type": level,
            "note": note,
            "regarding": regarding,
        }
        if related is not None:
            event["related"] = make_reference(related) if "metadata" in related else related
        series = self._series[name] = _Series(event, now)
        if len(self._series) > SERIES_KEPT:
            _, oldest = self._series.popitem(last=False)
            if oldest.timer is not None:
                oldest.timer.cancel()
        self._put(series)

    async def run(self) -> None:
        """Send, for ever."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(self._send_all())

    async def flush(self, seconds: float) -> None:
        """Send what waits, counts of series included, for at most ``seconds``. To be
        called once ``run`` has ended."""
        for series in self._series.values():
            if series.timer is not None:
                series.timer.cancel()
                series.timer = None
            if series.count > series.sent:
                self._put(series)
        try:
            async with asyncio.timeout(seconds):
                while not self._queue.empty():
                    await self._send(self._queue.get_nowait())
        except TimeoutError:
            self._dropped.labels("full").inc(self._queue.qsize() + 1)

    async def _send_all(self) -> None:
        while True:
            await self._send(await self._queue.get())

    def _bucket(self, uid: str) -> Bucket:
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = self._buckets[uid] = Bucket(RATE, BURST, self._clock)
            if len(self._buckets) > SERIES_KEPT:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(uid)
        return bucket

    def _send_later(self, series: _Series) -> None:
        """Have the series written when its interval is over."""
        if series.queued or series.timer is not None:
            return
        wait = series.sent_at + INTERVAL - self._clock.monotonic()
        series.timer = self._clock.call_later(max(wait, 0.0), lambda: self._put(series))

    def _put(self, series: _Series) -> None:
        series.timer = None
        if series.queued:
            return
        try:
            self._queue.put_nowait(series)
        except asyncio.QueueFull:
            self._dropped.labels("full").inc()
        else:
            series.queued = True

    async def _send(self, series: _Series) -> None:
        series.queued = False
        count = series.count
        series.sent_at = self._clock.monotonic()
        try:
            if series.sent:
                await self._send_series(series)
            else:
                try:
                    await self._api.create(EVENT, series.event)
                except AlreadyExists:
                    # Told of before a restart. The count begins anew, two is the least there is.
                    count = series.count = max(count, 2)
                    await self._send_series(series)
                else:
                    if count > 1:
                        self._send_later(series)
                    count = 1
        except ApiError as error:
            self._dropped.labels("error").inc()
            # A namespace that goes away takes no events, and nobody will look for them there.
            is_going = error.has_cause("NamespaceTerminating")
            logger.log(
                logging.DEBUG if is_going else logging.WARNING,
                "event not sent",
                extra={"reason": series.event["reason"], "detail": error.message},
            )
            return
        series.sent = count

    async def _send_series(self, series: _Series) -> None:
        update: Obj = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": series.event["metadata"],
            "series": {"count": series.count, "lastObservedTime": format_time(series.last)},
        }
        try:
            await self._api.apply(EVENT, update)
        except (NotFound, Invalid):
            # The server forgets events after an hour. This is then the first one again.
            series.event["eventTime"] = format_time(series.last)
            await self._api.create(EVENT, series.event)
            series.count = 1
