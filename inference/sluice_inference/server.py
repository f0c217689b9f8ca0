"""`serve`: sockets, signals, the HTTP server and the engine, from start to exit code.

The order at the end is what keeps clients from seeing a shipment: not ready, go on answering with
`Connection: close`, wait for silence, only then close the listener, finish, exit 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import time
from typing import NoReturn

from sluice_inference.caching.tiers import make_tiers
from sluice_inference.gpu_memory import find_gpu_memory
from sluice_inference.guarding.tls import make_tls_context
from sluice_inference.hosting import make_roster
from sluice_inference.http.app import make_app
from sluice_inference.http.context import Context
from sluice_inference.http.middleware import Envelope
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle, State, is_drained
from sluice_inference.listening import HttpServer, make_http_server, make_listener
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.models.registry import choose_backend
from sluice_inference.report import EXIT_CRASHED, EXIT_OK, EXIT_PERMANENT, make_report, write_report
from sluice_inference.settings import Settings
from sluice_inference.tracing import make_tracer

_TICK_S = 0.05
# The event loop gives the interpreter's lock away at each send and receive. At the default of 5 ms
# it would wait that long behind a decoding thread to get it back; answers come a third cheaper so.
_SWITCH_INTERVAL_S = 0.0005


class Server:
    """One serving process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._lifecycle = Lifecycle()
        self._failure = ""
        self._stop = asyncio.Event()
        backend = choose_backend(settings.model)
        self._metrics.show(backend)
        self._pool = DecodePool(settings.max_workers, settings.limits, self._metrics)
        self._tiers = make_tiers(settings.cache, self._metrics)
        self._roster = make_roster(
            settings, self._lifecycle, self._pool, self._metrics, self._on_failed, self._tiers
        )
        self._context = Context(
            settings,
            self._lifecycle,
            self._roster,
            self._metrics,
            backend,
            tracer=make_tracer(settings.monitoring, _describe(settings)),
        )
        self._metrics.inflight.set_function(lambda: self._context.traffic.in_flight)
        if settings.model.device != "cpu" and (measure := find_gpu_memory()):
            self._metrics.show_gpu_memory(measure)
        self._metrics.model_ready.set_function(lambda: float(self._is_ready()))

    async def run(self) -> int:
        """Serve until a signal or a failed load; returns the exit code."""
        settings = self._settings
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        app = make_app(self._context)
        tls = settings.guard.tls
        secure = make_tls_context(tls) if tls else None
        http = [self._listen(app, settings.process.port)]
        if tls:
            http.append(self._listen(app, tls.port, secure))
        serving = [asyncio.create_task(one.serve(sockets=[listener])) for one, listener in http]
        self._metrics.active_connections.set_function(
            lambda: sum(len(one.server_state.connections) for one, _ in http)
        )
        watching = asyncio.create_task(self._context.lag.watch())
        if self._tiers is not None:
            self._tiers.start()
        self._roster.start()
        await self._stop.wait()
        left_s = await self._drain()
        for one, _ in http:
            one.config.timeout_graceful_shutdown = left_s
            one.should_exit = True
        await asyncio.gather(*serving)
        await app.guard.close()
        self._pool.close()
        await self._roster.close()
        watching.cancel()
        if self._tiers is not None:
            await self._tiers.close()
        if self._context.tracer is not None:
            await asyncio.to_thread(self._context.tracer.close)
        self._lifecycle.enter(State.STOPPED)
        if not self._failure:
            return EXIT_OK
        if self._lifecycle.was_ready:
            return EXIT_CRASHED  # not the version's fault: another start may well serve it
        report = make_report("Failed", reason="LoadFailed", message=self._failure, permanent=True)
        write_report(settings.termination_log, report)
        return EXIT_PERMANENT

    def _listen(
        self, app: Envelope, port: int, tls: ssl.SSLContext | None = None
    ) -> tuple[HttpServer, socket.socket]:
        """A server for the application, and the socket that it is to serve."""
        settings = self._settings
        listener = make_listener(settings.process.host, port)
        http = make_http_server(
            app, keep_alive_s=settings.process.keep_alive_s, stamps=app.stamps, tls=tls
        )
        port, scheme = listener.getsockname()[1], "https" if tls else "http"
        log("info", "listening", port=port, scheme=scheme, backend=self._context.backend)
        return http, listener

    async def _drain(self) -> int:
        """Answer on until clients are gone; returns the seconds left for what is in flight."""
        settings, started = self._settings, time.monotonic()
        if not self._lifecycle.enter(State.DRAINING, "told to stop"):
            return 1  # never was ready, so nobody was sent here
        while not is_drained(  # noqa: ASYNC110 - silence has no event to wait for
            time.monotonic(),
            started,
            self._context.traffic,
            linger_s=settings.process.drain_linger_s,
            timeout_s=settings.process.drain_timeout_s,
        ):
            await asyncio.sleep(_TICK_S)
        elapsed = time.monotonic() - started
        log("info", "drained", seconds=round(elapsed, 1), in_flight=self._context.traffic.in_flight)
        return max(1, int(settings.process.drain_timeout_s - elapsed - 0.5))

    def _is_ready(self) -> bool:
        """As /ready has it."""
        return self._lifecycle.is_ready() and not self._roster.find_fault()

    def _on_failed(self, message: str) -> None:
        """Nothing can be served (any more), so end."""
        self._failure = message
        self._stop.set()


def _describe(settings: Settings) -> dict[str, str]:
    """What traces say of this process."""
    return {
        "service.name": settings.service or "sluice-inference",
        "service.version": settings.model.title,
        "service.instance.id": socket.gethostname(),
        "deployment.environment.name": settings.environment,
        "sluice.revision": settings.revision,
    }


def serve(settings: Settings) -> NoReturn:
    """Run the server, then end the process with its exit code.

    Raises SettingsError where a file that a setting names can't be used.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    async def run() -> int:
        return await Server(settings).run()

    code = asyncio.run(run())
    # A load that hangs, or a native library's own threads, must not keep the pod from its end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
