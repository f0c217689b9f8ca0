"""Every setting of the server, read once from the environment into one frozen value.

A group of settings is a module here. Must not be imported for side effects, and nothing else in the
package reads the environment (`fetch` and `push` read their credentials in `artifact/credentials.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice_inference.errors import SettingsError
from sluice_inference.settings.cache import CacheSettings, read_cache
from sluice_inference.settings.guard import GuardSettings, read_guard
from sluice_inference.settings.limits import Limits, read_limits
from sluice_inference.settings.model import ModelSettings, read_model
from sluice_inference.settings.monitoring import MonitoringSettings, read_monitoring
from sluice_inference.settings.quality import QualitySettings, read_quality
from sluice_inference.settings.reader import Reader, count_cpus
from sluice_inference.settings.routing import RoutingSettings, read_routing

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings. Names and defaults are documented in docs/inference.md."""

    model: ModelSettings
    routing: RoutingSettings
    limits: Limits
    cache: CacheSettings
    quality: QualitySettings
    monitoring: MonitoringSettings
    guard: GuardSettings
    environment: str
    service: str
    revision: str
    role: str
    host: str
    port: int
    max_workers: int
    keep_alive_s: int
    drain_timeout_s: float
    drain_linger_s: float
    log_level: str
    slow_request_ms: float
    termination_log: Path


def read_settings(env: Mapping[str, str]) -> Settings:
    """Settings from environment variables; an empty variable counts as unset.

    Raises SettingsError with one line for each variable that can't be used.
    """
    read = Reader(env)
    model = read_model(read)
    settings = Settings(
        model=model,
        routing=read_routing(read, model),
        limits=read_limits(read),
        cache=read_cache(read),
        quality=read_quality(read),
        monitoring=read_monitoring(read),
        guard=read_guard(read),
        environment=read.text("ENVIRONMENT"),
        service=read.text("SLUICE_SERVICE"),
        revision=read.text("SLUICE_REVISION"),
        role=read.text("SLUICE_ROLE"),
        host=read.text("HOST"),
        port=read.integer("PORT", 8080, 0, 65535),
        max_workers=read.integer("MAX_WORKERS", min(count_cpus(), 16), 1, 128),
        # Above the hour after which Envoy gives up an idle upstream connection: whoever closes
        # first must not be the server, or a request can meet the close on its way.
        keep_alive_s=read.integer("KEEP_ALIVE_S", 3900, 5, 86_400),
        drain_timeout_s=read.number("DRAIN_TIMEOUT_S", 25, 0.5, 3600),
        drain_linger_s=read.number("DRAIN_LINGER_S", 5, 0, 3600),
        log_level=read.choice("LOG_LEVEL", "info", LOG_LEVELS),
        slow_request_ms=read.number("SLOW_REQUEST_MS", 1000, 0, 3_600_000),
        termination_log=Path(read.text("TERMINATION_LOG", "/dev/termination-log")),
    )
    if settings.drain_linger_s > settings.drain_timeout_s:
        read.problems.append(
            f"DRAIN_LINGER_S: {settings.drain_linger_s:g} is longer than DRAIN_TIMEOUT_S "
            f"{settings.drain_timeout_s:g}; the drain would be cut off"
        )
    if read.problems:
        raise SettingsError(read.problems)
    return settings
