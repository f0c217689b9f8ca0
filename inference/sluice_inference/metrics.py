"""Every metric of the server, its name in this one place. Prefix `sluice_inference_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sluice_inference import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests_total = self._counter(
            "requests", "Answers by route, model and status code.", ("route", "model", "code")
        )
        self.request_seconds = self._histogram(
            "request_seconds", "From the request's first byte to its answer.", ("route", "model")
        )
        self.stage_seconds = self._histogram(
            "stage_seconds", "Time in one stage: read, decode, queue, run, encode.", ("stage",)
        )
        self.queue_items = self._gauge("queue_items", "Items that wait for the model.")
        self.batch_size = Histogram(
            "sluice_inference_batch_size",
            "Items of one model run.",
            buckets=_ITEMS,
            registry=self.registry,
        )
        self.inflight = self._gauge("inflight", "Client requests under way.")
        self.rejected_total = self._counter(
            "rejected", "Requests turned away, by reason.", ("reason",)
        )
        self.item_errors_total = self._counter(
            "item_errors", "Inputs that could not be answered, by code.", ("code",)
        )
        self.model_ready = self._gauge("model_ready", "1 while new traffic is welcome.")
        self.model_load_seconds = self._gauge("model_load_seconds", "Time the model took to load.")
        self.warmup_seconds = self._gauge("warmup_seconds", "Time of warm-up and golden samples.")
        self.build_info = self._gauge("build_info", "Always 1.", ("version", "backend"))

    def show(self, backend: str) -> None:
        """State which build and which backend this is."""
        self.build_info.labels(__version__, backend).set(1)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"sluice_inference_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"sluice_inference_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(
            f"sluice_inference_{name}", text, labels, buckets=_SECONDS, registry=self.registry
        )
