"""Who else answers: a fallback for when the model can't, and a second model that takes a share.

Both are off until their model or address is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sluice_inference.settings.model import ModelSettings, read_model
from sluice_inference.settings.reader import Reader

ERROR = "Error"
OVERLOAD = "Overload"
TIMEOUT = "Timeout"
NO_GPU = "NoGPU"
LOW_CONFIDENCE = "LowConfidence"
# As in spec.fallback.on of an InferenceService.
REASONS = (ERROR, OVERLOAD, TIMEOUT, NO_GPU, LOW_CONFIDENCE)

_DEFAULT_REASONS = (ERROR, OVERLOAD, TIMEOUT, NO_GPU)
_FALLBACK_ROLE = "fallback"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a model is left alone for a while. `errors` and `error_percent` must both be reached.

    `p95_s`: open also when more than 5 % of the answers take longer; infinity means never.
    """

    errors: int = 5
    error_percent: float = 50.0
    window_s: float = 30.0
    open_s: float = 10.0
    p95_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class FallbackSettings:
    """A fallback in this process (`model`) or another server (`url`), and when it is asked.

    `key_file` has the API key for that other server, where it wants one.
    `reserve_s` is the time within a request's own that is kept for the fallback. `high_water` is the
    share (0..1) of the queue over which new requests go to the fallback. `min_confidence` is 0..1.
    """

    model: ModelSettings | None
    url: str
    key_file: Path | None
    on: tuple[str, ...]
    min_confidence: float
    reserve_s: float
    high_water: float
    breaker: BreakerSettings


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """A second model and its share of the keys, in percent with two decimals."""

    model: ModelSettings
    percent: float


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    fallback: FallbackSettings | None
    split: SplitSettings | None


def read_routing(read: Reader, model: ModelSettings) -> RoutingSettings:
    """The routing of a server whose primary model is `model`."""
    return RoutingSettings(_read_fallback(read), _read_split(read, model))


def _read_fallback(read: Reader) -> FallbackSettings | None:
    own = read.scoped("FALLBACK_")
    path = own.text("MODEL_PATH")
    url = own.origin("URL", "the fallback's Service")
    if read.text("SLUICE_ROLE") == _FALLBACK_ROLE:
        return None  # a fallback that asks a fallback could go round in circles
    if path and url:
        own.tell("URL", "FALLBACK_MODEL_PATH is set too; a fallback is one of both")
    if not path and not url:
        return None
    key = own.text("KEY_FILE")
    if key and not url:
        own.tell("KEY_FILE", "goes with FALLBACK_URL only; a model of this process needs no key")
    on = own.names("ON", REASONS) or _DEFAULT_REASONS
    min_confidence = own.number("MIN_CONFIDENCE", 0, 0, 1)
    if (LOW_CONFIDENCE in on) != (min_confidence > 0):
        own.tell(
            "MIN_CONFIDENCE",
            f"goes with {LOW_CONFIDENCE} in FALLBACK_ON; set both (a share between 0 and 1) or none",
        )
    return FallbackSettings(
        model=read_model(own) if path else None,
        url=url,
        key_file=Path(key) if key else None,
        on=on,
        min_confidence=min_confidence,
        reserve_s=own.number("RESERVE_MS", 1000, 1, 600_000) / 1000,
        high_water=own.number("HIGH_WATER_PERCENT", 80, 1, 100) / 100,
        breaker=_read_breaker(read.scoped("BREAKER_")),
    )


def _read_breaker(read: Reader) -> BreakerSettings:
    return BreakerSettings(
        errors=read.integer("ERRORS", 5, 1, 100_000),
        error_percent=read.number("ERROR_PERCENT", 50, 1, 100),
        window_s=read.number("WINDOW_S", 30, 1, 3600),
        open_s=read.number("OPEN_S", 10, 0.1, 3600),
        p95_s=read.number("P95_MS", float("inf"), 1, 600_000) / 1000,
    )


def _read_split(read: Reader, model: ModelSettings) -> SplitSettings | None:
    own = read.scoped("AB_")
    if not own.text("MODEL_PATH"):
        return None
    second = read_model(own)
    if second.embedding_space and model.embedding_space not in ("", second.embedding_space):
        own.tell(
            "EMBEDDING_SPACE",
            f"{second.embedding_space!r} is not EMBEDDING_SPACE {model.embedding_space!r}; two models "
            "that share the requests need one space, or their embeddings would be mixed",
        )
    if second.title == model.title:
        own.tell(
            "MODEL_VERSION",
            f"{second.title} is MODEL_NAME and MODEL_VERSION too; answers could not be told apart",
        )
    return SplitSettings(second, own.number("PERCENT", 50, 0, 100))
