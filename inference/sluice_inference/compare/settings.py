"""Every setting of the comparer, read once from the environment. Names are in docs/inference.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_inference.errors import SettingsError
from sluice_inference.settings import LOG_LEVELS
from sluice_inference.settings.reader import Reader

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """The comparer's settings. Sizes in bytes, times in seconds; cosines are -1..1."""

    stable_url: str
    candidate_url: str
    timeout_s: float
    max_in_flight: int
    max_body_bytes: int
    max_body_bytes_in_flight: int
    min_cosine: float
    host: str
    port: int
    keep_alive_s: int
    drain_timeout_s: float
    drain_linger_s: float
    log_level: str


def read_compare_settings(env: Mapping[str, str]) -> CompareSettings:
    """Settings from environment variables; an empty variable counts as unset.

    Raises SettingsError with one line for each variable that can't be used.
    """
    read = Reader(env)
    settings = CompareSettings(
        stable_url=read.origin("COMPARE_STABLE_URL", "the revision's Service", is_required=True),
        candidate_url=read.origin(
            "COMPARE_CANDIDATE_URL", "the revision's Service", is_required=True
        ),
        timeout_s=read.number("COMPARE_TIMEOUT_S", 10, 0.05, 600),
        max_in_flight=read.integer("COMPARE_MAX_IN_FLIGHT", 32, 1, 10_000),
        max_body_bytes=int(read.number("COMPARE_MAX_BODY_MB", 16, 0.001, 1024) * _MB),
        max_body_bytes_in_flight=int(
            read.number("COMPARE_MAX_BODY_MB_IN_FLIGHT", 64, 0.001, 1_048_576) * _MB
        ),
        min_cosine=read.number("COMPARE_MIN_COSINE", 0.99, -1, 1),
        host=read.text("HOST"),
        port=read.integer("PORT", 8080, 0, 65535),
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
    if read.problems:
        raise SettingsError(read.problems)
    return settings
