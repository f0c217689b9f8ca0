"""Reads `/metrics/rollout`: the few samples that verdicts rest on, in Prometheus' text format.

All or nothing: text that isn't exactly what a server of ours writes is a ScrapeError, never a number that
is nearly right.  Other metrics in the text are passed over.  Must not keep anything between two calls.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sluice.errors import SluiceError

MAX_BYTES: Final = 256 * 1024
"""Longest text that is read; a server writes under 16 KiB."""

OUTCOMES: Final = ("ok", "client_error", "error", "fallback")
ANSWERS: Final = "sluice_inference_answers_total"
SPLIT: Final = "sluice_inference_split_answers_total"
SECONDS: Final = "sluice_inference_answer_seconds"
START_TIME: Final = "sluice_inference_start_time_seconds"

_MAX_BOUNDS: Final = 1000
_MAX_COUNT: Final = float(2**53)  # beyond it a float no longer counts by ones
_SAMPLE: Final = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r"(?:\{(?P<labels>[^{}]*)\})?[ \t]+(?P<value>[^ \t]+)(?:[ \t]+-?[0-9]+)?[ \t]*"
)
_LABEL: Final = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*)"[ \t]*')
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class ScrapeError(SluiceError):
    """A pod gave no samples: ``reason`` is one CamelCase word, ``message`` says what and where.

    Reasons: Malformed, TooLarge; and of the fetch, Unreachable, Timeout, BadStatus.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one process has counted since it started.

    ``answers`` by outcome (OUTCOMES, all of them).  ``bounds`` in seconds, rising, without the infinite
    one; ``counts`` are cumulative, one per bound and one more for all.  ``start_time`` is Unix time.
    ``split`` are the answers, without client errors, to requests that the gateway split by weight; 0 from
    an image that doesn't count them.
    """

    start_time: float
    answers: Mapping[str, float]
    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total_seconds: float
    split: float = 0.0


def parse_scrape(text: str) -> Scrape:
    """The scrape in ``text``; ScrapeError says which line is wrong, or what is missing."""
    samples = read_samples(text, _OURS)
    answers = {}
    for outcome in OUTCOMES:
        answers[outcome] = take_sample(samples, ANSWERS, (("outcome", outcome),))
    split = samples.pop((SPLIT, ()), 0.0)  # older images lack it
    start_time = take_start_time(samples, START_TIME)
    total_seconds = take_sample(samples, f"{SECONDS}_sum", ())
    total = take_sample(samples, f"{SECONDS}_count", ())
    bounds, counts = _take_buckets(samples, total)
    require_empty(samples)
    return Scrape(start_time, answers, bounds, counts, total_seconds, split)


Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels, sorted."""


def read_samples(text: str, names: frozenset[str]) -> dict[Key, float]:
    """The samples with these names; ScrapeError says which line is wrong."""
    if len(text) > MAX_BYTES:
        raise ScrapeError("TooLarge", f"{len(text)} characters, at most {MAX_BYTES} are read")
    if not text.endswith("\n"):
        raise ScrapeError("Malformed", "the text is cut off: its last line has no end")
    samples: dict[Key, float] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(stripped)
        if match is None:
            # What follows from here is a proxy's page, or another program's answer.
            raise ScrapeError("Malformed", f"line {number} is no sample: {stripped[:60]!r}")
        name = match["name"]
        if name not in names:
            continue
        key = (name, _read_labels(match["labels"] or "", number))
        if key in samples:
            raise ScrapeError("Malformed", f"line {number}: {_spell(*key)} is there twice")
        samples[key] = _read_number(match["value"], number, _spell(*key))
    return samples


_OURS: Final = frozenset(
    {ANSWERS, SPLIT, f"{SECONDS}_bucket", f"{SECONDS}_sum", f"{SECONDS}_count", START_TIME}
)


def _read_labels(text: str, number: int) -> tuple[tuple[str, str], ...]:
    labels = []
    for part in text.rstrip(" \t").removesuffix(",").split(",") if text.strip() else ():
        match = _LABEL.fullmatch(part)
        if match is None:
            raise ScrapeError("Malformed", f"line {number}: {part[:60]!r} is no label")
        labels.append((match[1], match[2]))
    return tuple(sorted(labels))


def _read_number(text: str, number: int, name: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0.0 <= value <= _MAX_COUNT:
        raise ScrapeError(
            "Malformed", f"line {number}: {name} is {text[:40]!r}, not a number from 0 to 2^53"
        )
    return value


def take_sample(samples: dict[Key, float], name: str, labels: tuple[tuple[str, str], ...]) -> float:
    """Takes this sample out; ScrapeError where it is missing."""
    try:
        return samples.pop((name, labels))
    except KeyError:
        raise ScrapeError("Malformed", f"{_spell(name, labels)} is missing") from None


def take_start_time(samples: dict[Key, float], name: str) -> float:
    """Takes out when the process began to count, as Unix time; ScrapeError where that can't be."""
    start_time = take_sample(samples, name, ())
    if start_time <= 0:
        raise ScrapeError("Malformed", f"{name} is {start_time:g}, no Unix time")
    return start_time


def require_empty(samples: dict[Key, float]) -> None:
    """ScrapeError where a sample is left that nobody asked for."""
    if samples:
        name, labels = next(iter(samples))
        raise ScrapeError("Malformed", f"{_spell(name, labels)} is not known to this operator")


def _take_buckets(
    samples: dict[Key, float], total: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The histogram's bounds and cumulative counts, in order."""
    name = f"{SECONDS}_bucket"
    buckets: dict[float, float] = {}
    for key in [
        key for key in samples if key[0] == name and [label for label, _ in key[1]] == ["le"]
    ]:
        spelt = key[1][0][1]
        bound = math.inf if spelt == "+Inf" else math.nan
        if _NUMBER.fullmatch(spelt):
            bound = float(spelt)
        if not bound > 0 or (math.isinf(bound) and spelt != "+Inf"):
            raise ScrapeError("Malformed", f"{_spell(*key)}: no bound above 0")
        if bound in buckets:
            raise ScrapeError("Malformed", f"{name}: the bound {spelt} is there twice")
        buckets[bound] = samples.pop(key)
    if math.inf not in buckets:
        raise ScrapeError("Malformed", f'{name}{{le="+Inf"}} is missing')
    if not 1 < len(buckets) <= _MAX_BOUNDS:
        raise ScrapeError(
            "Malformed", f"{name} has {len(buckets)} bounds, 2 to {_MAX_BOUNDS} are read"
        )
    bounds, counts = zip(*sorted(buckets.items()), strict=True)
    for bound, low, high in zip(bounds[1:], counts, counts[1:], strict=False):
        if high < low:
            raise ScrapeError("Malformed", f"{name} falls at {bound:g}: from {low:g} to {high:g}")
    if counts[-1] != total:
        raise ScrapeError("Malformed", f"{SECONDS}_count is {total:g}, its buckets {counts[-1]:g}")
    return bounds[:-1], counts


def _spell(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    inside = ",".join(f'{label}="{value[:40]}"' for label, value in labels)
    return f"{name}{{{inside}}}" if inside else name
