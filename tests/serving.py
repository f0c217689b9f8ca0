"""The model server's application in the test's own process: real engine, real routes, the test double."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from PIL import Image

from sluice_inference.engine.engine import Engine
from sluice_inference.http.app import make_app
from sluice_inference.http.context import Context
from sluice_inference.http.middleware import Envelope
from sluice_inference.imaging.pool import DecodePool
from sluice_inference.lifecycle import Lifecycle, State
from sluice_inference.metrics import Metrics
from sluice_inference.models.registry import make_backend
from sluice_inference.predictor import Predictor
from sluice_inference.settings import read_settings

NAMES = {"MODEL_NAME": "pizza", "MODEL_VERSION": "1.0.0", "SLUICE_REVISION": "abc123"}
RAW = {"content-type": "image/jpeg"}


def make_jpeg(side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class Served:
    """A running application."""

    app: Envelope
    context: Context

    def connect(self, address: str = "10.0.0.9", scheme: str = "http") -> httpx.AsyncClient:
        """A client whose connections come from `address`."""
        transport = httpx.ASGITransport(self.app, client=(address, 40_000))
        return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://pod")


@asynccontextmanager
async def serve(**env: str) -> AsyncIterator[Served]:
    """The application of a server with this environment, ready."""
    settings = read_settings({"BACKEND": "fake", "EMBEDDING_SPACE": "pizza-1", **NAMES, **env})
    lifecycle, metrics, ready = Lifecycle(), Metrics(), threading.Event()
    lifecycle.on_change(lambda state: ready.set() if state is State.READY else None)
    engine = Engine(
        make_backend(settings.model),
        lifecycle,
        metrics,
        batch_size=settings.model.batch_size,
        queue_items=settings.model.queue_items,
        stall_s=settings.model.stall_s,
        on_failed=lambda message: None,
    )
    pool = DecodePool(2, settings.limits, metrics)
    predictor = Predictor(settings.model, engine, pool, metrics, settings.quality)
    context = Context(settings, lifecycle, engine, predictor, metrics, "fake")
    app = make_app(context)
    engine.start()
    try:
        assert ready.wait(10), "the engine did not get ready"
        yield Served(app, context)
    finally:
        await app.guard.close()
        pool.close()
        engine.close(10)
