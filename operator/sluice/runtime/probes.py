"""What the kubelet and Prometheus ask: /healthz, /readyz and /metrics on one small app.

Answers from what others measure; measures only the event loop's lag. No side effects.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from sluice.runtime.clock import Clock
from sluice.runtime.metrics import CONTENT_TYPE, Metrics

MAX_LAG = 5.0
TICK = 1.0

Checks = Mapping[str, Callable[[], str]]
"""By name, a function that says what is wrong, or "" when nothing is."""


class LoopMonitor:
    """Sees how late the event loop runs its timers."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._gauge = metrics.loop_lag
        self.lag = 0.0

    async def run(self) -> None:
        """Measure, for ever."""
        while True:
            due = self._clock.monotonic() + TICK
            await self._clock.sleep(TICK)
            self.lag = max(0.0, self._clock.monotonic() - due)
            self._gauge.set(self.lag)

    def check(self) -> str:
        """What is wrong with the event loop."""
        return f"the event loop is {self.lag:.1f} s late" if self.lag >= MAX_LAG else ""


class Probes:
    """The app. ``live`` decides /healthz, ``ready`` decides /readyz."""

    def __init__(self, metrics: Metrics, live: Checks, ready: Checks) -> None:
        self._metrics = metrics
        self._checks = {"/healthz": live, "/readyz": ready}
        app = web.Application()
        app.router.add_get("/healthz", self._answer)
        app.router.add_get("/readyz", self._answer)
        app.router.add_get("/metrics", self._render)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is a free one where 0 was asked for."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        lines, failed = [], False
        for name, check in self._checks[request.path].items():
            wrong = check()
            failed = failed or bool(wrong)
            lines.append(f"[-] {name}: {wrong}" if wrong else f"[+] {name}")
        return web.Response(text="\n".join(lines) + "\n", status=503 if failed else 200)

    async def _render(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})
