"""Every metric of the server, its name in this one place. Prefix `sluice_inference_`."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sluice_inference import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests_total = self._counter(
            "requests", "Answers by route, model and status code.", ("route", "model", "code")
        )
        self.request_duration_seconds = self._histogram(
            "request_duration_seconds",
            "From the request's first byte to its answer.",
            ("route", "model"),
        )
        self.stage_seconds = self._histogram(
            "stage_seconds", "Time in one stage: read, decode, queue, run, encode.", ("stage",)
        )
        self.queue_items = self._gauge("queue_items", "Items that wait for a model.", ("model",))
        self.queue_bytes = self._gauge(
            "queue_bytes", "Bytes of the items that wait for a model.", ("model",)
        )
        self.batch_fill_ratio = Histogram(
            "sluice_inference_batch_fill_ratio",
            "Items of one model run, as a share of BATCH_SIZE.",
            ("model",),
            buckets=_SHARES,
            registry=self.registry,
        )
        self.poison_total = self._counter(
            "poison",
            "Items that failed in the model while the others of their batch went on.",
            ("model",),
        )
        self.bisect_runs_total = self._counter(
            "bisect_runs",
            "Runs beyond the first that a batch took because it failed as a whole.",
            ("model",),
        )
        self.oom_total = self._counter("oom", "Runs that there was no memory for.", ("model",))
        self.gpu_xid_total = self._counter(
            "gpu_xid", "Critical errors that the GPU's driver reported, by Xid.", ("xid",)
        )
        self.batch_size = Histogram(
            "sluice_inference_batch_size",
            "Items of one model run.",
            ("model",),
            buckets=_ITEMS,
            registry=self.registry,
        )
        self.inflight = self._gauge("inflight", "Client requests under way.")
        self.active_connections = self._gauge("active_connections", "Open client connections.")
        self.inference_total = self._counter(
            "inference", "Inputs that a model was asked to answer.", ("model",)
        )
        self.inference_duration_seconds = self._histogram(
            "inference_duration_seconds",
            "From a request's decoded inputs to the model's answers: queue and run.",
            ("model",),
        )
        self.model_errors_total = self._counter(
            "model_errors",
            "Inputs that a model did not answer by its own or its server's fault, by code.",
            ("model", "type"),
        )
        self.predictions_total = self._counter(
            "predictions", "Classified inputs by their best label.", ("model", "label")
        )
        self.prediction_confidence = Histogram(
            "sluice_inference_prediction_confidence",
            "Score of the best label.",
            ("model",),
            buckets=_SHARES,
            registry=self.registry,
        )
        self.quality_issues_total = self._counter(
            "quality_issues", "Shortcomings of measured pictures.", ("issue",)
        )
        self.cache_hits_total = self._counter(
            "cache_hits",
            "Inputs whose answer was there already: in memory, in redis, or under way (flight).",
            ("tier",),
        )
        self.cache_misses_total = self._counter(
            "cache_misses", "Inputs that were looked for in the cache and then computed."
        )
        self.cache_bytes = self._gauge("cache_bytes", "Bytes of the answers kept in memory.")
        self.cache_items = self._gauge("cache_items", "Answers kept in memory.")
        self.cache_errors_total = self._counter(
            "cache_errors", "What Redis did not do in time or at all.", ("operation",)
        )
        self.cache_shared_up = self._gauge("cache_shared_up", "1 while Redis answers.")
        self.loop_lag_seconds = self._histogram(
            "loop_lag_seconds", "How much later than asked for the event loop woke up."
        )
        memory = self._gauge("memory_usage_bytes", "Memory that this process really holds (RSS).")
        memory.set_function(measure_memory)
        self.rejected_total = self._counter(
            "rejected", "Requests turned away, by reason.", ("reason",)
        )
        self.keys_stale = self._gauge(
            "keys_stale", "1 while the file of API keys can't be used and old keys are."
        )
        self.fallback_total = self._counter(
            "fallback", "Requests that a fallback answered, all or in part, by why.", ("reason",)
        )
        self.fallback_failures_total = self._counter(
            "fallback_failures",
            "Requests that the fallback did not answer when asked.",
            ("reason",),
        )
        self.fallback_active = self._gauge(
            "fallback_active", "1 while the fallback carries the traffic."
        )
        self.breaker_state = self._gauge(
            "breaker_state", "0 closed, 1 half-open, 2 open: the model is left alone.", ("model",)
        )
        self.routed_total = self._counter(
            "routed", "Requests that were sent to a model and answered by it.", ("model",)
        )
        self.item_errors_total = self._counter(
            "item_errors", "Inputs that could not be answered, by code.", ("code",)
        )
        self.model_ready = self._gauge("model_ready", "1 while new traffic is welcome.")
        self.model_load_seconds = self._gauge(
            "model_load_seconds", "Time a model took to load.", ("model",)
        )
        self.warmup_seconds = self._gauge(
            "warmup_seconds", "Time of warm-up and golden samples.", ("model",)
        )
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

    def show_gpu_memory(self, measure: Callable[[], float]) -> None:
        """Have the memory of the GPU told too. Not called where there is none."""
        gauge = self._gauge("gpu_memory_usage_bytes", "Memory of the GPU in use, by all processes.")
        gauge.set_function(measure)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(
            f"sluice_inference_{name}", text, labels, buckets=_SECONDS, registry=self.registry
        )


def measure_memory(statm: Path = Path("/proc/self/statm")) -> float:
    """Bytes of memory that this process holds now; its peak where the kernel does not say."""
    try:
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
