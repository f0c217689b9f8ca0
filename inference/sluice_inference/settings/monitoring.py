"""What this process tells about itself, and whom."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_inference.settings.reader import Reader

_SCHEMES = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class MonitoringSettings:
    """`is_enabled` False: /metrics has the samples for rollouts only. `otlp_endpoint` "": no traces."""

    is_enabled: bool
    otlp_endpoint: str
    trace_percent: float


def read_monitoring(read: Reader) -> MonitoringSettings:
    endpoint = read.text("OTLP_ENDPOINT").rstrip("/")
    if endpoint and not endpoint.startswith(_SCHEMES):
        read.problems.append(
            f"OTLP_ENDPOINT: {endpoint!r} is not the http(s) address of a collector, such as "
            "http://collector:4318"
        )
    return MonitoringSettings(
        is_enabled=read.flag("MONITORING_ENABLED", default=True),
        otlp_endpoint=endpoint,
        trace_percent=read.number("TRACE_PERCENT", 100, 0, 100),
    )
