"""`compare`: socket, signals and the comparer, from start to exit code."""

from __future__ import annotations

import asyncio
import signal
import time

from sluice_inference.compare.comparer import Comparer
from sluice_inference.compare.counts import Counts
from sluice_inference.compare.settings import CompareSettings
from sluice_inference.listening import make_http_server, make_listener
from sluice_inference.logs import log
from sluice_inference.report import EXIT_OK


def compare(settings: CompareSettings) -> int:
    """Run the comparer until SIGTERM; returns the exit code."""
    return asyncio.run(_run(settings))


async def _run(settings: CompareSettings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    comparer = Comparer(settings, Counts())
    listener = make_listener(settings.process.host, settings.process.port)
    http = make_http_server(comparer, keep_alive_s=settings.process.keep_alive_s)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    log(
        "info",
        "comparing",
        port=listener.getsockname()[1],
        stable=settings.stable_url,
        candidate=settings.candidate_url,
    )
    await stop.wait()
    ends = time.monotonic() + settings.process.drain_timeout_s
    comparer.start_draining()
    log("info", "told to stop")
    # Mirrors come as long as the route says so; whoever has not heard yet is still taken.
    await asyncio.sleep(settings.process.drain_linger_s)
    http.config.timeout_graceful_shutdown = 1
    http.should_exit = True
    await serving
    await comparer.finish(max(0.0, ends - time.monotonic() - 0.5))
    log("info", "stopped")
    return EXIT_OK
