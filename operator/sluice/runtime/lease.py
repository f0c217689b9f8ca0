"""The lease: at most one process at a time works; the others watch and wait.

The clocks of two machines are never compared: a holder counts as gone when its record has not
changed for the record's duration on our own monotonic clock. It gates nothing by itself: it says
when the lease was won and when it was lost, and who is told must stop at once.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sluice.errors import ApiError, Conflict, NotFound
from sluice.runtime.clock import Clock, format_time
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.metrics import Metrics

logger = logging.getLogger(__name__)

LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")


class LeaseApi(Protocol):
    """What the elector needs of the API port."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj: ...
    async def create(self, kind: Kind, obj: Obj) -> Obj: ...
    async def replace(self, kind: Kind, obj: Obj) -> Obj: ...


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. A holder that could not renew for ``renew_deadline`` stops, well before others may
    take over at ``duration``; the difference is what a stop may take."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.retry < self.renew_deadline < self.duration:
            raise ValueError(
                "lease times: retry < renew deadline < duration must hold, got "
                f"{self.retry:g}, {self.renew_deadline:g}, {self.duration:g}"
            )


class Elector:
    """Takes and keeps one Lease for ``identity``."""

    def __init__(
        self,
        api: LeaseApi,
        clock: Clock,
        metrics: Metrics,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._gauge = metrics.leader.labels(name)
        self._gauge.set(0)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times or LeaseTimes()
        self._lease: Obj | None = None  # as last read or written
        self._must_read = False  # the last write failed, or may not have arrived
        self._observed_at = 0.0  # when its version changed, on our clock
        self._renewed_at = 0.0
        self._leading = False

    @property
    def leading(self) -> bool:
        """Whether the lease is ours, and was renewed recently enough to rely on it."""
        age = self._clock.monotonic() - self._renewed_at
        return self._leading and age < self._times.renew_deadline

    async def run(self, on_started: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Win the lease, keep it, and return when it is lost. Cancelling it does not release."""
        while not await self._attempt():
            await self._clock.sleep(self._times.retry)
        self._leading = True
        self._gauge.set(1)
        logger.info("lease taken", extra={"lease": self._name, "identity": self._identity})
        on_started()
        while True:
            left = self._renewed_at + self._times.renew_deadline - self._clock.monotonic()
            await self._clock.sleep(min(self._times.retry, max(left, 0.0)))
            if await self._attempt():
                continue
            holder = self._spec().get("holderIdentity")
            if holder != self._identity or not self.leading:
                break
        self._leading = False
        self._gauge.set(0)
        logger.error("lease lost", extra={"lease": self._name, "holder": holder})
        on_lost()

    async def release(self) -> None:
        """Give the lease up, if it is ours, so that another need not wait. Never raises for a
        server that does not answer: the lease then runs out."""
        if not self._leading or self._lease is None:
            return
        self._leading = False
        self._gauge.set(0)
        self._spec().update(
            holderIdentity="",
            leaseDurationSeconds=1,
            renewTime=format_time(self._clock.now()),
        )
        try:
            async with asyncio.timeout(self._times.retry):
                await self._api.replace(LEASE, self._lease)
        except (ApiError, TimeoutError) as error:
            logger.warning("lease not released", extra={"detail": str(error)})
        else:
            logger.info("lease released", extra={"lease": self._name})

    async def _attempt(self) -> bool:
        """Try once to take or renew; whether the lease is ours now."""
        # Counted from before the request: the server may have written it as early as that.
        began = self._clock.monotonic()
        left = self._times.renew_deadline
        if self._leading:
            left = max(0.1, self._renewed_at + self._times.renew_deadline - began)
        try:
            async with asyncio.timeout(min(left, self._times.renew_deadline / 2)):
                won = await self._take()
        except (ApiError, TimeoutError) as error:
            self._must_read = True
            logger.log(
                # Losing the race for a lease is daily life, everything else is worth a look.
                logging.WARNING
                if self._leading or not isinstance(error, Conflict)
                else logging.DEBUG,
                "lease not renewed",
                extra={"lease": self._name, "detail": str(error) or type(error).__name__},
            )
            return False
        if won:
            self._renewed_at = began
        return won

    async def _take(self) -> bool:
        if not self._leading or self._must_read or self._lease is None:
            try:
                self._observe(await self._api.get(LEASE, self._namespace, self._name))
            except NotFound:
                self._observe(await self._api.create(LEASE, self._make_lease()))
                return True
            self._must_read = False
        assert self._lease is not None  # noqa: S101 - observed above
        spec = self._spec()
        holder = spec.get("holderIdentity") or ""
        ours = holder == self._identity
        if self._leading and not ours:
            return False  # another led meanwhile, even if it has released since
        if holder and not ours and not self._is_expired(spec):
            return False
        now = format_time(self._clock.now())
        renewed = dict(
            spec,
            holderIdentity=self._identity,
            leaseDurationSeconds=max(1, round(self._times.duration)),
            renewTime=now,
        )
        if not ours:
            renewed["acquireTime"] = now
            renewed["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        # The resourceVersion in it is the guard: of two that try, one gets a Conflict.
        self._observe(await self._api.replace(LEASE, self._lease | {"spec": renewed}))
        return True

    def _is_expired(self, spec: dict[str, Any]) -> bool:
        duration = float(spec.get("leaseDurationSeconds") or 1)
        return self._clock.monotonic() >= self._observed_at + duration

    def _observe(self, lease: Obj) -> None:
        version = lease["metadata"]["resourceVersion"]
        if self._lease is None or self._lease["metadata"]["resourceVersion"] != version:
            self._observed_at = self._clock.monotonic()
        self._lease = lease

    def _spec(self) -> dict[str, Any]:
        if self._lease is None:
            return {}
        spec: dict[str, Any] = self._lease.setdefault("spec", {})
        return spec

    def _make_lease(self) -> Obj:
        now = format_time(self._clock.now())
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"namespace": self._namespace, "name": self._name},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._times.duration)),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
