"""Every setting of the comparer, read once from the environment. Names are in docs/inference.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_inference.errors import SettingsError
from sluice_inference.settings.process import ProcessSettings, read_process
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
    process: ProcessSettings


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
        process=read_process(read),
    )
    if read.problems:
        raise SettingsError(read.problems)
    return settings
