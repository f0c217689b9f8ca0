"""`serve`: sockets, signals, the HTTP server and the engine, from start to exit code.

The order at the end is what keeps clients from seeing a shipment: not ready, go on answering with
`Connection: close`, wait for silence, only then close the listener, finish, exit 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import NoReturn

from sluice_inference.engine.engine import Engine
from sluice_inference.http.app import make_app
from sluice_inference.http.context import Context
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle, State, is_drained
from sluice_inference.listening import make_http_server, make_listener
from sluice_inference.logs import log
from sluice_inference.metrics import Metrics
from sluice_inference.models.registry import choose_backend, make_backend
from sluice_inference.predictor import Predictor
from sluice_inference.report import EXIT_CRASHED, EXIT_OK, EXIT_PERMANENT, make_report, write_report
from sluice_inference.settings import Settings

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
        self._loop = asyncio.get_running_loop()
        backend = choose_backend(settings.model)
        self._metrics.show(backend)
        self._engine = Engine(
            make_backend(settings.model),
            self._lifecycle,
            self._metrics,
            batch_size=settings.model.batch_size,
            queue_items=settings.model.queue_items,
            stall_s=settings.model.stall_s,
            on_failed=self._on_failed,
        )
        self._pool = DecodePool(settings.decode_workers, settings.limits, self._metrics)
        predictor = Predictor(settings.model, self._engine, self._pool, self._metrics)
        self._context = Context(
            settings, self._lifecycle, self._engine, predictor, self._metrics, backend
        )
        self._metrics.inflight.set_function(lambda: self._context.traffic.in_flight)
        self._metrics.model_ready.set_function(lambda: float(self._lifecycle.is_ready()))

    async def run(self) -> int:
        """Serve until a signal or a failed load; returns the exit code."""
        settings = self._settings
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        listener = make_listener(settings.host, settings.port)
        app = make_app(self._context)
        http = make_http_server(app, keep_alive_s=settings.keep_alive_s, stamps=app.stamps)
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        log("info", "listening", port=listener.getsockname()[1], backend=self._context.backend)
        self._engine.start()
        await self._stop.wait()
        http.config.timeout_graceful_shutdown = await self._drain()
        http.should_exit = True
        await serving
        self._pool.close()
        self._engine.close(timeout_s=1.0)
        self._lifecycle.enter(State.STOPPED)
        if not self._failure:
            return EXIT_OK
        if self._lifecycle.was_ready:
            return EXIT_CRASHED  # not the version's fault: another start may well serve it
        report = make_report("Failed", reason="LoadFailed", message=self._failure, permanent=True)
        write_report(settings.termination_log, report)
        return EXIT_PERMANENT

    async def _drain(self) -> int:
        """Answer on until clients are gone; returns the seconds left for what is in flight."""
        settings, started = self._settings, time.monotonic()
        if not self._lifecycle.enter(State.DRAINING, "told to stop"):
            return 1  # never was ready, so nobody was sent here
        while not is_drained(  # noqa: ASYNC110 - silence has no event to wait for
            time.monotonic(),
            started,
            self._context.traffic,
            linger_s=settings.drain_linger_s,
            timeout_s=settings.drain_timeout_s,
        ):
            await asyncio.sleep(_TICK_S)
        elapsed = time.monotonic() - started
        log("info", "drained", seconds=round(elapsed, 1), in_flight=self._context.traffic.in_flight)
        return max(1, int(settings.drain_timeout_s - elapsed - 0.5))

    def _on_failed(self, message: str) -> None:
        """From the engine's thread: the model can't be served (any more), so end."""
        self._failure = message
        self._loop.call_soon_threadsafe(self._stop.set)


def serve(settings: Settings) -> NoReturn:
    """Run the server, then end the process with its exit code."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    async def run() -> int:
        return await Server(settings).run()

    code = asyncio.run(run())
    # A load that hangs, or a native library's own threads, must not keep the pod from its end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
