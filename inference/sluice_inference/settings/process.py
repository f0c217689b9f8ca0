"""Settings of any process that serves: where it listens, how it ends, what it logs."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_inference.settings.reader import Reader

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """Where it listens and how it ends. Times in seconds."""

    host: str
    port: int
    keep_alive_s: int
    drain_timeout_s: float
    drain_linger_s: float
    log_level: str


def read_process(read: Reader) -> ProcessSettings:
    """From the environment; what can't be used goes to `read.problems`."""
    settings = ProcessSettings(
        host=read.text("HOST"),
        port=read.integer("PORT", 8080, 0, 65535),
        # Above the hour after which Envoy gives up an idle upstream connection: whoever closes
        # first must not be the server, or a request can meet the close on its way.
        keep_alive_s=read.integer("KEEP_ALIVE_S", 3900, 5, 86_400),
        drain_timeout_s=read.number("DRAIN_TIMEOUT_S", 25, 0.5, 3600),
        drain_linger_s=read.number("DRAIN_LINGER_S", 5, 0, 3600),
        log_level=read.choice("LOG_LEVEL", "info", LOG_LEVELS),
    )
    if settings.drain_linger_s > settings.drain_timeout_s:
        read.problems.append(
            f"DRAIN_LINGER_S: {settings.drain_linger_s:g} is longer than DRAIN_TIMEOUT_S "
            f"{settings.drain_timeout_s:g}; the drain would be cut off"
        )
    return settings
