"""The life of the operator's process: what is started in which order, and how it ends.

Start: the API server and the kinds, the watches, the caches in step, the lease, then the work.
End: no new keys, the running ones finished, the lease released, the watches closed. It holds no
decision about any object; the application brings those.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import kopf
from kubernetes.aio.client import Configuration

from sluice import handlers
from sluice.errors import ApiError, UserError
from sluice.runtime.api import Api
from sluice.runtime.audit import Auditor
from sluice.runtime.bucket import Bucket
from sluice.runtime.clock import Clock, LoopClock
from sluice.runtime.connection import load_connection
from sluice.runtime.identity import claim_identity, default_directory
from sluice.runtime.kinds import Key
from sluice.runtime.lease import Elector, LeaseTimes
from sluice.runtime.metrics import Metrics
from sluice.runtime.probes import LoopMonitor, Probes
from sluice.runtime.pump import Pump
from sluice.runtime.queue import Queue
from sluice.runtime.recorder import Recorder
from sluice.runtime.workers import Reconcile, Workers
from sluice.settings import Settings, describe

logger = logging.getLogger(__name__)

COMPONENT = "sluice-operator"
KINDS_POLL = 2.0

# Together below the ten seconds that an exit may take; the lease's share is its retry time.
WORK_GRACE = 4.0
EVENTS_GRACE = 0.5
WATCH_GRACE = 2.5


class Application(Protocol):
    """What the process runs: the kinds to watch, and a reconcile function for each kind of key."""

    @property
    def kinds(self) -> Sequence[Pump]: ...
    @property
    def reconcile(self) -> Mapping[str, Reconcile]: ...
    def start(self, wake: Callable[[Key], None]) -> None: ...
    async def stop(self) -> None: ...


Build = Callable[[Api, Recorder, Settings, Clock, Metrics], Application]


async def run(settings: Settings, build: Build) -> int:
    """Run until SIGTERM, SIGINT or the loss of the lease; the exit code."""
    # The caches are large and live long: the default thresholds would scan them all the time.
    gc.set_threshold(100_000, 50, 1000)
    logger.info("starting", extra=describe(settings))
    try:
        times = LeaseTimes(settings.lease_duration, settings.renew_deadline, settings.lease_retry)
    except ValueError as error:
        raise UserError("BadSettings", str(error)) from error
    identity = claim_identity(settings.identity, os.environ, default_directory())
    clock, metrics = LoopClock(), Metrics()
    bucket = Bucket(settings.qps, settings.burst, clock)
    connection = await load_connection(settings.kubeconfig, settings.context)
    api = Api(connection, clock, metrics, bucket=bucket, user_agent=COMPONENT)
    recorder = Recorder(api, clock, metrics, component=COMPONENT, instance=identity.name)
    elector = Elector(
        api,
        clock,
        metrics,
        namespace=settings.namespace or os.environ.get("POD_NAMESPACE") or "default",
        name=settings.lease_name,
        identity=identity.name,
        times=times,
    )
    process = Process(
        settings,
        clock,
        metrics,
        api,
        recorder,
        elector,
        build(api, recorder, settings, clock, metrics),
    )
    try:
        return await process.run()
    finally:
        await api.close()
        identity.close()


class Process:
    """The parts, and the order of their lives."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        api: Api,
        recorder: Recorder,
        elector: Elector,
        application: Application,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._api = api
        self._recorder = recorder
        self._elector = elector
        self._pumps = list(application.kinds)
        self._queue = Queue(COMPONENT, clock, metrics)
        self._application = application
        application.start(self._queue.add)
        self._workers = Workers(
            self._queue,
            application.reconcile,
            metrics,
            clock,
            count=settings.workers,
            timeout=settings.reconcile_timeout,
        )
        self._auditor = Auditor(
            api,
            self._pumps,
            self._queue,
            metrics,
            clock,
            interval=settings.audit_interval,
            resync=settings.resync,
        )
        self._monitor = LoopMonitor(clock, metrics)
        self._probes = Probes(
            metrics,
            live={
                "loop": self._monitor.check,
                "watches": self._check_watches,
                "workers": self._check_workers,
            },
            ready={"kinds": self._check_kinds, "caches": self._check_caches},
        )
        self._unserved = "the kinds are not looked for yet"
        self._served: list[Pump] = []
        api.fence = lambda: elector.leading
        self._leading = asyncio.Event()
        self._synced = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_watches = asyncio.Event()

    async def run(self) -> int:
        """Start everything, wait for the first reason to end, end everything."""
        self._catch_signals()
        port = await self._probes.start(self._settings.probe_host, self._settings.probe_port)
        logger.info("probes", extra={"port": port})
        # All tasks but kopf's exist before kopf starts: at its end kopf cancels every younger one.
        self._workers.start()
        tasks = {
            "stop": asyncio.create_task(self._stopping.wait()),
            "lease": asyncio.create_task(self._elector.run(self._leading.set, self._on_lost)),
            "events": asyncio.create_task(self._recorder.run()),
            "monitor": asyncio.create_task(self._monitor.run()),
            "gate": asyncio.create_task(self._open_gate()),
            "audit": asyncio.create_task(self._sync_and_audit()),
        }
        kinds = asyncio.create_task(self._find_kinds())
        watches: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({kinds, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
            if kinds.done():
                kinds.result()  # a defect, if any
                watches = tasks["watches"] = await self._start_watches()
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            return self._report_end(tasks)
        finally:
            kinds.cancel()
            await self._end(tasks, watches)

    async def _find_kinds(self) -> None:
        """Return when every kind that must be there is there; kopf looks only once, at its start."""
        while True:
            try:
                missing = await self._look_for_kinds()
            except ApiError as error:
                # It would be the same answer for every kind, and says nothing about the CRDs.
                self._unserved = f"the API server does not say its kinds: {error.message}"
                detail = {"detail": error.message, "again_in_s": KINDS_POLL}
                logger.warning("the API server does not say its kinds", extra=detail)
            else:
                self._unserved = f"not served: {', '.join(missing)}" if missing else ""
                if not missing:
                    return
                logger.warning(
                    "kinds are missing: are the CRDs applied?",
                    extra={"kinds": ", ".join(missing), "again_in_s": KINDS_POLL},
                )
            await self._clock.sleep(KINDS_POLL)

    async def _look_for_kinds(self) -> list[str]:
        """The kinds that must be served and are not; ``_served`` are those that are."""
        served, missing = [], []
        for pump in self._pumps:
            name = f"{pump.kind.plural}.{pump.kind.api_version}"
            if await self._api.serves(pump.kind):
                served.append(pump)
            elif pump.optional:
                pump.cache.synced = True
                pump.cache.served = False
                logger.info("optional kind is not served", extra={"kind": name})
            else:
                missing.append(name)
        self._served = served
        return missing

    async def _start_watches(self) -> "asyncio.Task[None]":
        intakes = [self._auditor.intakes[pump.kind] for pump in self._served]
        registry, settings = handlers.build(intakes, self._connect)
        existing = asyncio.all_tasks()
        kopf_tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings,
            clusterwide=True,
            standalone=True,
            stop_flag=self._stop_watches,
        )
        # kopf has just taken the signals for itself, and would close the watches at once.
        self._catch_signals()
        return asyncio.create_task(kopf.run_tasks(kopf_tasks, ignored=existing))

    async def _sync_and_audit(self) -> None:
        while self._unserved:
            await self._clock.sleep(0.05)
        began = self._clock.monotonic()
        await asyncio.gather(*(self._auditor.fill(pump.kind) for pump in self._served))
        gc.collect()
        gc.freeze()
        self._synced.set()
        logger.info(
            "caches are in step",
            extra={
                "seconds": round(self._clock.monotonic() - began, 3),
                "objects": sum(len(pump.cache) for pump in self._served),
            },
        )
        await self._auditor.run()

    async def _open_gate(self) -> None:
        await self._synced.wait()
        was_leading = self._leading.is_set()
        await self._leading.wait()
        if not was_leading:
            await self._refresh()
        logger.info("working", extra={"workers": self._settings.workers, "keys": len(self._queue)})
        self._workers.open()
        await asyncio.Event().wait()

    async def _refresh(self) -> None:
        """A standby's view may be old where a watch lags: it takes over from a list of now."""
        while True:
            try:
                await asyncio.gather(*(self._auditor.refresh(pump.kind) for pump in self._served))
            except ApiError as error:
                logger.warning("cannot list", extra={"detail": error.message})
                await self._clock.sleep(1.0)
            else:
                return

    def _report_end(self, tasks: Mapping[str, "asyncio.Task[object]"]) -> int:
        """Why it ends, as an exit code: 0 if it was asked to."""
        if self._stopping.is_set():
            return 0
        for name, task in tasks.items():
            if task.done():
                error = None if task.cancelled() else task.exception()
                logger.error("ending", extra={"because": name}, exc_info=error)
        return 1

    async def _end(
        self, tasks: Mapping[str, "asyncio.Task[object]"], watches: "asyncio.Task[None] | None"
    ) -> None:
        began = self._clock.monotonic()
        self._queue.shut_down()
        # While the last keys are being finished the lease is still renewed.
        finished = await self._workers.stop(WORK_GRACE if self._elector.leading else 0.0)
        await self._application.stop()
        for name in ("lease", "events", "gate", "audit", "stop"):
            tasks[name].cancel()
        await asyncio.wait({tasks["lease"], tasks["events"]})
        await self._elector.release()
        await self._recorder.flush(EVENTS_GRACE)
        self._stop_watches.set()
        if watches is not None:
            await asyncio.wait({watches}, timeout=WATCH_GRACE)
            watches.cancel()
        tasks["monitor"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await self._probes.stop()
        logger.info(
            "ended",
            extra={
                "seconds": round(self._clock.monotonic() - began, 3),
                "keys_finished": finished,
            },
        )

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("asked to end", extra={"signal": number.name})
        self._stopping.set()

    def _on_lost(self) -> None:
        # Another may be working already. Whatever is in flight is cut off in ``_end``.
        self._queue.shut_down()

    async def _connect(self) -> Configuration:
        return await load_connection(self._settings.kubeconfig, self._settings.context)

    def _check_watches(self) -> str:
        deaf = self._auditor.deaf_kinds()
        return f"nothing is heard of {', '.join(deaf)}" if deaf else ""

    def _check_workers(self) -> str:
        return "" if self._workers.is_healthy() else "a worker hangs or has died"

    def _check_kinds(self) -> str:
        return self._unserved

    def _check_caches(self) -> str:
        behind = [pump.kind.plural for pump in self._pumps if not pump.cache.synced]
        return f"not in step: {', '.join(behind)}" if behind else ""
