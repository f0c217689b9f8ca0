"""The model server's application in the test's own process: real engine, real routes, the test double."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from sluice_inference.caching.tiers import make_tiers
from sluice_inference.hosting import make_roster
from sluice_inference.http.app import make_app
from sluice_inference.http.context import Context
from sluice_inference.http.middleware import Envelope
from sluice_inference.http.versions import VERSIONS, ApiVersion
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.settings import read_settings

NAMES = {"MODEL_NAME": "pizza", "MODEL_VERSION": "1.0.0", "SLUICE_REVISION": "abc123"}
RAW = {"content-type": "image/jpeg"}


def make_jpeg(side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


class Recorder(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return default


@dataclass
class Served:
    """A running application. `ends`: why the process would have ended."""

    app: Envelope
    context: Context
    ends: list[str]

    def connect(self, address: str = "10.0.0.9", scheme: str = "http") -> httpx.AsyncClient:
        """A client whose connections come from `address`."""
        transport = httpx.ASGITransport(self.app, client=(address, 40_000))
        return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://pod")


@asynccontextmanager
async def serve(
    *, waits: bool = True, versions: Sequence[ApiVersion] = VERSIONS, **env: str
) -> AsyncIterator[Served]:
    """The application of a server with this environment, and the defaults of a test.

    Ready, or failed, and every model of it settled; with `waits` false its models aren't even begun.
    """
    defaults = {"BACKEND": "fake", "EMBEDDING_SPACE": "pizza-1", "CACHE_SIZE_MB": "0"}
    settings = read_settings({**defaults, **NAMES, **env})
    lifecycle, metrics, ends = Lifecycle(), Metrics(), list[str]()
    pool = DecodePool(2, settings.limits, metrics)
    tiers = make_tiers(settings.cache, metrics)
    roster = make_roster(settings, lifecycle, pool, metrics, ends.append, tiers)
    context = Context(settings, lifecycle, roster, metrics, "fake")
    app = make_app(context, versions)
    settled = threading.Semaphore(0)
    lives = [lifecycle, *(one.lifecycle for one in roster.list_local())]
    for life in lives:
        life.on_change(
            lambda state: settled.release() if state in (State.READY, State.FAILED) else None
        )
    try:
        if tiers is not None:
            tiers.start()
        if waits:
            roster.start()
            for _ in lives:
                assert await asyncio.to_thread(settled.acquire, timeout=10), "it did not settle"
        yield Served(app, context, ends)
    finally:
        await app.guard.close()
        await roster.close()
        if tiers is not None:
            await tiers.close()
        pool.close()
