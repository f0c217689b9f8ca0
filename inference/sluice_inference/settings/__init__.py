"""Every setting of the server, read once from the environment into one frozen value.

A group of settings is a module here. Must not be imported for side effects, and nothing else in the
package reads the environment (`fetch` and `push` read their credentials in `artifact/credentials.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice_inference import __version__
from sluice_inference.errors import SettingsError
from sluice_inference.settings.cache import CacheSettings, read_cache
from sluice_inference.settings.guard import GuardSettings, read_guard
from sluice_inference.settings.limits import Limits, read_limits
from sluice_inference.settings.model import ModelSettings, read_model
from sluice_inference.settings.monitoring import MonitoringSettings, read_monitoring
from sluice_inference.settings.process import ProcessSettings, read_process
from sluice_inference.settings.quality import QualitySettings, read_quality
from sluice_inference.settings.reader import Reader, count_cpus
from sluice_inference.settings.routing import RoutingSettings, read_routing


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
    process: ProcessSettings
    environment: str
    service: str
    revision: str
    role: str
    max_workers: int
    slow_request_ms: float
    termination_log: Path

    @property
    def server(self) -> str:
        """Who computes here: the revision, or the package's version where nobody named one."""
        return self.revision or __version__


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
        process=read_process(read),
        environment=read.text("ENVIRONMENT"),
        service=read.text("SLUICE_SERVICE"),
        revision=read.text("SLUICE_REVISION"),
        role=read.text("SLUICE_ROLE"),
        max_workers=read.integer("MAX_WORKERS", min(count_cpus(), 16), 1, 128),
        slow_request_ms=read.number("SLOW_REQUEST_MS", 1000, 0, 3_600_000),
        termination_log=Path(read.text("TERMINATION_LOG", "/dev/termination-log")),
    )
    if read.problems:
        raise SettingsError(read.problems)
    return settings
