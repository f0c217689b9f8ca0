"""The auditor: fills the caches at the start, and from then on holds them against the server.

An audit is a list of metadata only. An object that it no longer names was deleted without the watch
telling: it is removed here. A watch that has not brought, in half a minute, what a list named is
deaf, and the process should be restarted. It also has every object looked over from time to time.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial

from sluice.errors import ApiError, Gone
from sluice.runtime.api import Api
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key, Kind, get_uid, get_version
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Intake, Pump
from sluice.runtime.queue import Queue

logger = logging.getLogger(__name__)

AFTER_RELIST = 5.0
DEAF_AFTER = 30.0


class Auditor:
    """Audits the pumps' caches every ``interval`` seconds, resyncs every ``resync`` seconds."""

    def __init__(
        self,
        api: Api,
        pumps: Sequence[Pump],
        queue: Queue,
        metrics: Metrics,
        clock: Clock,
        *,
        interval: float = 600.0,
        resync: float = 3600.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._interval = interval
        self._resync = resync
        self._draw = draw
        self._due: dict[Kind, float] = {}
        self._wake = asyncio.Event()
        self._behind: dict[Kind, tuple[float, dict[str, int]]] = {}
        self.intakes: dict[Kind, Intake] = {}
        for pump in pumps:
            kind = pump.kind
            metrics.watch_behind.labels(kind.kind).set(0)
            self.intakes[kind] = Intake(pump, queue, metrics, clock, partial(self._relisted, kind))

    def deaf_kinds(self) -> list[str]:
        """The kinds whose watch no longer delivers."""
        now = self._clock.monotonic()
        return [kind.kind for kind, (since, _) in self._behind.items() if now - since > DEAF_AFTER]

    async def fill(self, kind: Kind) -> None:
        """List the kind into its cache, which is then synced.

        The watch lists as well, but brings each object singly and an order of magnitude slower. What
        is deleted between its list and this one is found by the audit that follows its list.
        """
        intake = self.intakes[kind]
        while not intake.pump.cache.synced:
            try:
                await self._take_all(kind)
            except Gone:
                continue  # the snapshot expired between two pages
            except ApiError as error:
                logger.warning("cannot list", extra={"kind": kind.kind, "detail": error.message})
                await self._clock.sleep(1.0)
                continue
            intake.pump.cache.synced = True
            self._due[kind] = self._clock.monotonic() + self._jittered(self._interval)

    async def refresh(self, kind: Kind) -> None:
        """Bring the cache up to a list of now, deletions included; ApiError if it can't be had.

        A watch may lag without knowing it. Who takes over the work must not begin from its view.
        """
        await self._take_all(kind)
        await self.audit(kind)

    async def _take_all(self, kind: Kind) -> None:
        intake = self.intakes[kind]
        async for page, _ in self._api.pages(kind):
            for obj in page:
                intake.take(None, obj)

    async def run(self) -> None:
        """Audit and resync, for ever."""
        await asyncio.gather(self._audit_all(), self._resync_all())

    async def audit(self, kind: Kind) -> int:
        """Compare once; how many objects the watch had kept for too long."""
        intake = self.intakes[kind]
        cache = intake.pump.cache
        listed, version = await self._list(kind)
        lost = cache.find_missing(listed, version)
        for obj in lost:
            logger.warning(
                "deletion found by audit",
                extra={"kind": kind.kind, "object": obj["metadata"]["name"], "version": version},
            )
            self._metrics.audit_removed.labels(kind.kind).inc()
            intake.forget(obj, version)
        unseen = {u: v for u, v in listed.items() if not cache.has_seen(u, v)}
        self._note_behind(kind, unseen)
        return len(lost)

    async def _audit_all(self) -> None:
        while True:
            now = self._clock.monotonic()
            for kind in [kind for kind, due in self._due.items() if due <= now]:
                self._due[kind] = now + self._jittered(self._interval)
                try:
                    await self.audit(kind)
                except ApiError as error:
                    logger.warning(
                        "cannot audit", extra={"kind": kind.kind, "detail": error.message}
                    )
                    self._due[kind] = now + min(self._interval, 30.0)
                if kind in self._behind:
                    # Most likely a moment of lag. Look again when it would be more than that.
                    self._due[kind] = min(self._due[kind], now + DEAF_AFTER / 2)
            self._wake.clear()
            wait = min(self._due.values(), default=now + 3600.0) - self._clock.monotonic()
            timer = self._clock.call_later(max(wait, 0.05), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def _resync_all(self) -> None:
        """Every key once per ``resync`` seconds, evenly spread, behind everything that happens."""
        while True:
            keys: set[Key] = set()
            for intake in self.intakes.values():
                for obj in intake.pump.cache.all():
                    keys.update(intake.pump.map_to(obj))
            pause = self._jittered(self._resync) / (len(keys) + 1)
            for key in sorted(keys):
                await self._clock.sleep(pause)
                self._queue.add(key, low=True)
            await self._clock.sleep(pause)

    async def _list(self, kind: Kind) -> tuple[dict[str, int], int]:
        """The version of each uid, and of the list."""
        while True:
            versions: dict[str, int] = {}
            snapshot = 0
            try:
                async for page, version in self._api.pages(kind, metadata_only=True):
                    snapshot = int(version)
                    versions.update((get_uid(item), get_version(item)) for item in page)
            except Gone:
                continue  # the snapshot expired between two pages
            return versions, snapshot

    def _note_behind(self, kind: Kind, unseen: dict[str, int]) -> None:
        cache = self.intakes[kind].pump.cache
        since, before = self._behind.get(kind, (self._clock.monotonic(), unseen))
        still = {u: v for u, v in before.items() if not cache.has_seen(u, v)}
        if still:
            self._behind[kind] = (since, still)
        elif unseen:
            self._behind[kind] = (self._clock.monotonic(), unseen)
        else:
            self._behind.pop(kind, None)
        self._metrics.watch_behind.labels(kind.kind).set(int(kind in self._behind))

    def _relisted(self, kind: Kind) -> None:
        self._due[kind] = min(
            self._due.get(kind, float("inf")), self._clock.monotonic() + AFTER_RELIST
        )
        self._wake.set()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._draw())
