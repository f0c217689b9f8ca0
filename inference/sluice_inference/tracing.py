"""Traces by OpenTelemetry, where OTLP_ENDPOINT names a collector. Imported only then.

A request's spans are made from its trail when it is over: nothing is traced while it is under way, and a
request that is not sampled costs a look at its headers. Needs the extra `inference-tracing`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sluice_inference import __version__
from sluice_inference.errors import SettingsError
from sluice_inference.settings.monitoring import MonitoringSettings
from sluice_inference.trail import Trail

_CLOSE_S = 2.0
# https://www.w3.org/TR/trace-context-1/#traceparent-header
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*"
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request as it is known when it is over. Times on `time.monotonic`'s clock."""

    route: str
    method: str
    status: int
    request_id: str
    headers: Iterable[tuple[bytes, bytes]]
    trail: Trail
    start: float
    end: float


class Tracer(Protocol):
    """Whoever takes traces of requests."""

    def record(self, visit: Visit) -> None:
        """Make a request's spans. Cheap; what can't be sent is dropped."""

    def close(self) -> None:
        """Send what is left, within `_CLOSE_S`; what that is not enough for is lost."""


def make_tracer(settings: MonitoringSettings, resource: dict[str, str]) -> Tracer | None:
    """A tracer that sends to the collector; None where none is set.

    Raises SettingsError where the image lacks the libraries.
    """
    if not settings.otlp_endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            [
                "OTLP_ENDPOINT: this image can't send traces; unset it, or build the image with the "
                "extra inference-tracing"
            ]
        ) from error
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces", timeout=5)
    return SpanMaker(BatchSpanProcessor(exporter), settings.trace_percent, resource)


class SpanMaker:
    """One span for a request, one below it for each stage it went through."""

    def __init__(self, processor: Any, percent: float, resource: dict[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(percent / 100)),
            resource=Resource.create(resource),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sluice_inference", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._server = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)
        self._put_below = set_span_in_context

    def record(self, visit: Visit) -> None:
        from_epoch = time.time() - time.monotonic()

        def to_ns(moment: float) -> int:
            return int((moment + from_epoch) * 1e9)

        span = self._tracer.start_span(
            f"{visit.method} {visit.route}",
            context=self._propagator.extract(_find_parent(visit.headers)),
            kind=self._server,
            start_time=to_ns(visit.start),
            attributes={
                "http.request.method": visit.method,
                "http.route": visit.route,
                "http.response.status_code": visit.status,
                "sluice.request_id": visit.request_id,
                "sluice.cache": visit.trail.describe_cache(),
            },
        )
        if span.is_recording():
            if visit.status >= 500:
                span.set_status(self._failed)
            below = self._put_below(span)
            for stage, start, end in visit.trail.spans:
                part = self._tracer.start_span(stage, context=below, start_time=to_ns(start))
                part.end(to_ns(end))
        span.end(to_ns(visit.end))

    def close(self) -> None:
        # The library waits up to 30 s for a collector that swallows packets, and knows no way to be told.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _find_parent(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The client's own traceparent and tracestate, where they are well formed."""
    carrier = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate")
    }
    return carrier if _TRACEPARENT.fullmatch(carrier.get("traceparent", "")) else {}
