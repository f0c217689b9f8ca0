"""What one engine tells of its queue and its runs, under the name of its model."""

from __future__ import annotations

from sluice_inference.metrics import Metrics


class EngineMetrics:
    """The process's metrics with the model's label on them, looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.queue_items = metrics.queue_items.labels(model)
        self.queue_bytes = metrics.queue_bytes.labels(model)
        self.batch_size = metrics.batch_size.labels(model)
        self.batch_fill_ratio = metrics.batch_fill_ratio.labels(model)
        self.poison_total = metrics.poison_total.labels(model)
        self.bisect_runs_total = metrics.bisect_runs_total.labels(model)
        self.oom_total = metrics.oom_total.labels(model)
        self.load_seconds = metrics.model_load_seconds.labels(model)
        self.warmup_seconds = metrics.warmup_seconds.labels(model)
        self.run_seconds = metrics.stage_seconds.labels("run")
        self.queue_seconds = metrics.stage_seconds.labels("queue")
