"""Every metric of the process, in a registry of its own. Names follow controller-runtime.

The only place that knows metric names. It measures nothing by itself.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

QUEUE_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds. A quiet queue hands out within a millisecond, a first pass takes a minute."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The instruments, as attributes; ``render`` is what a scrape gets."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # Half of a scrape would be times at which counters were made.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = registry or CollectorRegistry()
        own = self.registry
        ProcessCollector(registry=own)
        PlatformCollector(registry=own)
        GCCollector(registry=own)

        self.queue_depth = Gauge(
            "workqueue_depth", "Keys waiting for a worker", ["name", "priority"], registry=own
        )
        self.queue_adds = Counter(
            "workqueue_adds", "Keys taken into the queue", ["name"], registry=own
        )
        self.queue_retries = Counter(
            "workqueue_retries", "Keys added with backoff", ["name"], registry=own
        )
        self.queue_wait = Histogram(
            "workqueue_queue_duration_seconds",
            "How long a key waited for a worker",
            ["name"],
            buckets=QUEUE_BUCKETS,
            registry=own,
        )
        self.queue_work = Histogram(
            "workqueue_work_duration_seconds",
            "How long a worker had a key",
            ["name"],
            buckets=QUEUE_BUCKETS,
            registry=own,
        )
        self.queue_longest = Gauge(
            "workqueue_longest_running_processor_seconds",
            "How long the slowest of the running workers has had its key",
            ["name"],
            registry=own,
        )
        self.reconciles = Counter(
            "controller_runtime_reconcile",
            "Reconciles by outcome: success, requeue_after, requeue, error",
            ["controller", "result"],
            registry=own,
        )
        self.reconcile_errors = Counter(
            "controller_runtime_reconcile_errors",
            "Reconciles that failed",
            ["controller"],
            registry=own,
        )
        self.reconcile_time = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Length of a reconcile",
            ["controller"],
            buckets=QUEUE_BUCKETS,
            registry=own,
        )
        self.active_workers = Gauge(
            "controller_runtime_active_workers",
            "Reconciles running now",
            ["controller"],
            registry=own,
        )
        self.max_workers = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Reconciles that may run at once, of all kinds together",
            registry=own,
        )
        self.api_calls = Counter(
            "sluice_api_calls",
            "Requests to the API server; code 0 is no answer",
            ["verb", "kind", "code"],
            registry=own,
        )
        self.api_seconds = Histogram(
            "sluice_api_call_duration_seconds",
            "Length of a request to the API server, without the wait for the rate limit",
            ["verb"],
            buckets=QUEUE_BUCKETS,
            registry=own,
        )
        self.throttle_seconds = Counter(
            "sluice_api_throttled_seconds",
            "Time writers waited for the rate limit",
            registry=own,
        )
        self.cache_objects = Gauge(
            "sluice_cache_objects", "Objects in the cache", ["kind"], registry=own
        )
        self.cache_synced = Gauge(
            "sluice_cache_synced",
            "1 once every object of the kind is known",
            ["kind"],
            registry=own,
        )
        self.watch_events = Counter(
            "sluice_watch_events", "What the watch delivered", ["kind", "type"], registry=own
        )
        self.watch_errors = Counter(
            "sluice_watch_event_errors",
            "Events that could not be mapped: a defect, each is in the log",
            ["kind"],
            registry=own,
        )
        self.audit_removed = Counter(
            "sluice_audit_removed",
            "Objects whose deletion the watch never told of",
            ["kind"],
            registry=own,
        )
        self.watch_behind = Gauge(
            "sluice_watch_behind",
            "1 while the watch lags behind a list by more than it may",
            ["kind"],
            registry=own,
        )
        self.leader = Gauge(
            "leader_election_master_status",
            "1 on the replica that holds the lease",
            ["name"],
            registry=own,
        )
        self.events_dropped = Counter(
            "sluice_events_dropped",
            "Events that nobody will read, by why: full, spam, error",
            ["why"],
            registry=own,
        )
        self.loop_lag = Gauge(
            "sluice_event_loop_lag_seconds",
            "How late the event loop ran the last timer",
            registry=own,
        )

    def render(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self.registry)
