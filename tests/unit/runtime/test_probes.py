from typing import Any

import aiohttp
import pytest

from sluice.runtime.metrics import Metrics
from sluice.runtime.probes import LoopMonitor, Probes


@pytest.mark.parametrize(
    ("wrong", "code", "line"),
    [("", 200, "[+] caches"), ("not in step: pods", 503, "[-] caches: not in step: pods")],
)
async def test_a_probe_says_what_is_wrong(
    clock: Any, metrics: Metrics, wrong: str, code: int, line: str
) -> None:
    monitor = LoopMonitor(clock, metrics)
    probes = Probes(metrics, live={"loop": monitor.check}, ready={"caches": lambda: wrong})
    port = await probes.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/readyz") as answer:
                assert answer.status == code
                assert (await answer.text()).splitlines() == [line]
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                assert "sluice_event_loop_lag_seconds 0.0" in await answer.text()
    finally:
        await probes.stop()


@pytest.mark.parametrize(("lag", "wrong"), [(0.2, ""), (6.0, "the event loop is 6.0 s late")])
def test_a_loop_that_is_late(clock: Any, metrics: Metrics, lag: float, wrong: str) -> None:
    monitor = LoopMonitor(clock, metrics)
    monitor.lag = lag
    assert monitor.check() == wrong
