"""Asks a Prometheus server: the same tallies as from the pods, and the queries of Query checks.

Its scrape configuration must read `/metrics/rollout` (or `/metrics`, if that has the same metrics) of the
server pods, and give each series the label ``namespace`` and the two pod labels that the operator sets,
under the names that Prometheus' own relabelling makes of them:

    sluice.dev/service   -> sluice_dev_service
    sluice.dev/revision  -> sluice_dev_revision

(`action: labelmap` with the regex `__meta_kubernetes_pod_label_(.+)` does it.)

Counter resets and restarts are then Prometheus' business (`increase`).  It extrapolates what it saw to
the edges of the window: from k scrapes, k - 1 intervals apart, to as much as k + 1.2 of them (1.1 at
either edge, the most that it takes for no gap).  Twice the samples that there were would be twice the
certainty, so every series' counts are multiplied by (k - 1) / (k + 1.2): never more than was seen, and
fractions.  Rates, and what the gateway split between two revisions, would suffer by that, as both have
their own k: those, and the time, are all multiplied by what the candidate's answers were on the whole.
Scrape often compared with the window: a pod's answers before its first scrape aren't seen at all.

Must not judge; every answer that isn't exactly one usable number per series is a QueryError.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final

import aiohttp

from sluice.analysis.exposition import ANSWERS, OUTCOMES, SECONDS, SPLIT
from sluice.analysis.tally import Tally, Window
from sluice.errors import SluiceError

MAX_BYTES: Final = 1024 * 1024
"""Longest answer that is read."""

_REVISION: Final = "sluice_dev_revision"
_COUNTING: Final = ',outcome!="client_error"'
_EDGES: Final = 1.2  # intervals, beyond the scrapes' number
_MISSED: Final = 3
"""Scrapes that may be missed before it counts as silence."""

_MAX_PAUSE: Final = 300.0
"""Seconds that scrapes may be apart at most: Prometheus itself takes no older sample for the present."""

_VARIABLE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_CHUNK: Final = 64 * 1024


class QueryError(SluiceError):
    """Prometheus gave no usable number: ``reason`` is one CamelCase word, ``message`` says more.

    Reasons: Unreachable (no answer in time, or none of Prometheus), Refused (it says why), NoData, NaN,
    SeveralSeries, Malformed, UnknownVariable.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom queries are about: a service, and the hashes of its two revisions."""

    namespace: str
    service: str
    stable: str
    candidate: str


class Prometheus:
    """One server's query API. ``url`` is what comes before ``/api/v1/query``; ``timeout`` is in seconds."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout: float = 10.0) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._timeout = timeout

    async def read_window(
        self, subject: Subject, at: float, seconds: float
    ) -> tuple[Window, float]:
        """What both revisions answered in the ``seconds`` before Unix time ``at``.

        All is asked of the same moment, so the two tracks are aligned. A revision that Prometheus knows
        nothing of is an empty tally, or a QueryError (NoData) where it knows neither.

        The window's silence is the candidate's, the second number the longer one of both; neither counts
        before a pod has missed some scrapes.
        """
        whole = max(1, round(seconds))
        series = f"{ANSWERS}{_select(subject)}"
        candidate, stable, counted, newest, answered = await asyncio.gather(
            self._read_tally(subject, subject.candidate, at, whole),
            self._read_tally(subject, subject.stable, at, whole),
            self._query(f"max by ({_REVISION}) (count_over_time({series}[{whole}s]))", at),
            # A scrape that failed takes the series away at once: the present alone would tell of that.
            self._query(
                f"max by ({_REVISION}) (max_over_time(timestamp({series})[{_MAX_PAUSE:.0f}s:5s]))",
                at,
            ),
            self._query(
                f"sum(increase({ANSWERS}{_select(subject, subject.candidate, _COUNTING)}[{whole}s]))",
                at,
            ),
        )
        if candidate is None and stable is None:
            raise QueryError(
                "NoData",
                f"{self._url} has no {ANSWERS} of service {subject.namespace}/{subject.service}: it must "
                "scrape the server pods, with the labels namespace, sluice_dev_service and "
                "sluice_dev_revision",
            )
        scrapes, heard = _by_label(counted, _REVISION), _by_label(newest, _REVISION)
        pause = min(_MISSED * whole / max(1.0, *scrapes.values(), 1.0), _MAX_PAUSE)
        mine, its = (
            max(0.0, min(whole, at - heard.get(revision, 0.0)) - pause)
            for revision in (subject.candidate, subject.stable)
        )
        candidate, stable = candidate or Tally(), stable or Tally()
        if candidate.requests:
            part = min(1.0, candidate.requests / max(_by_label(answered, "").get("", 0.0), 1e-9))
        else:
            count = max(1.0, scrapes.get(subject.candidate, 1.0))
            part = (count - 1) / (count + _EDGES)
        candidate = replace(candidate, split=candidate.split * part)
        stable = replace(stable, split=stable.split * part)
        return Window(candidate, stable, whole * part, mine), max(mine, its)

    async def ask(self, query: str, subject: Subject, at: float) -> float:
        """The one number that a check's query gives; QueryError where it gives none, or several."""
        series = await self._query(fill_in(query, subject), at)
        if not series:
            raise QueryError("NoData", f"the query has no result: {query[:200]}")
        if len(series) > 1:
            raise QueryError(
                "SeveralSeries",
                f"the query gives {len(series)} series, not one: wrap it in sum() or the like: "
                f"{query[:200]}",
            )
        value = series[0][1]
        if not math.isfinite(value):
            raise QueryError("NaN", f"the query gives {value:g}, no number: {query[:200]}")
        return value

    async def _read_tally(
        self, subject: Subject, revision: str, at: float, seconds: int
    ) -> Tally | None:
        series = f"{_select(subject, revision)}[{seconds}s]"
        answers, buckets, split = await asyncio.gather(
            self._query(f"sum by (outcome) ({_increase(ANSWERS + series)})", at),
            self._query(f"sum by (le) ({_increase(f'{SECONDS}_bucket{series}')})", at),
            self._query(f"sum(increase({SPLIT}{series}))", at),
        )
        if not answers:
            return None
        by_outcome = _by_label(answers, "outcome")
        if unknown := sorted(set(by_outcome) - set(OUTCOMES)):
            raise QueryError("Malformed", f'{ANSWERS} has an unknown outcome="{unknown[0][:40]}"')
        errors = by_outcome.get("error", 0.0) + by_outcome.get("fallback", 0.0)
        bounds, counts = _read_histogram(_by_label(buckets, "le"))
        requests = by_outcome.get("ok", 0.0) + errors
        # Older images don't count what was split: there is no such series.
        return Tally(requests, errors, bounds, counts, _by_label(split, "split").get("", 0.0))

    async def _query(self, query: str, at: float) -> list[tuple[Mapping[str, str], float]]:
        """The series of an instant query, each with its labels and value."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.get(
                    f"{self._url}/api/v1/query",
                    params={"query": query, "time": f"{at:.3f}"},
                    allow_redirects=False,
                ) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise QueryError(
                            "Malformed", f"{self._url} answers more than {MAX_BYTES} bytes"
                        )
                status = answer.status
        except TimeoutError:
            raise QueryError(
                "Unreachable", f"{self._url} gave no answer within {self._timeout:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise QueryError(
                "Unreachable", f"{self._url}: {error or type(error).__name__}"
            ) from error
        return _read_answer(bytes(body), status, self._url)


def fill_in(query: str, subject: Subject) -> str:
    """The query with {{service}}, {{namespace}}, {{stable}} and {{candidate}} replaced."""
    values = {
        "service": subject.service,
        "namespace": subject.namespace,
        "stable": subject.stable,
        "candidate": subject.candidate,
    }

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            known = ", ".join(f"{{{{{known}}}}}" for known in values)
            raise QueryError(
                "UnknownVariable", f"{{{{{name}}}}} is unknown: a query may use {known}"
            )
        return values[name]

    return _VARIABLE.sub(replace, query)


def _read_answer(body: bytes, status: int, url: str) -> list[tuple[Mapping[str, str], float]]:
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("status") not in ("success", "error"):
        raise QueryError(
            "Unreachable", f"{url}/api/v1/query answered {status}, and nothing of Prometheus"
        )
    if answer["status"] == "error":
        said = f"{answer.get('errorType', '')}: {answer.get('error', '')}"
        raise QueryError("Refused", f"{url} refuses the query: {said[:500]}")
    try:
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        if data["resultType"] != "vector":
            raise QueryError(
                "Malformed", f"the query gives a {data['resultType']}, not a vector or scalar"
            )
        return [(dict(item["metric"]), float(item["value"][1])) for item in data["result"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise QueryError("Malformed", f"{url} answers in an unknown form: {error!r}") from error


def _by_label(series: list[tuple[Mapping[str, str], float]], label: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for labels, value in series:
        name = labels.get(label, "")
        if name in values or not 0.0 <= value < math.inf:
            raise QueryError("NaN", f"{label}={name[:40]!r} counts {value:g}, or is there twice")
        values[name] = value
    return values


def _read_histogram(by_bound: Mapping[str, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds and cumulative counts, which extrapolation may have put out of order by a fraction."""
    if not by_bound:
        return (), ()
    try:
        pairs = sorted((float(bound), count) for bound, count in by_bound.items())
    except ValueError:
        raise QueryError(
            "Malformed", f"{SECONDS}_bucket has a label le that is no number"
        ) from None
    if pairs[-1][0] != math.inf or len(pairs) < 2 or not pairs[0][0] > 0:
        raise QueryError("Malformed", f'{SECONDS}_bucket lacks le="+Inf", or bounds above 0')
    counts = tuple(accumulate((count for _, count in pairs), max))
    return tuple(bound for bound, _ in pairs[:-1]), counts


def _select(subject: Subject, revision: str = "", more: str = "") -> str:
    """The labels of one revision's pods, or of all revisions'."""
    labels = f"namespace={_quote(subject.namespace)},sluice_dev_service={_quote(subject.service)}"
    if revision:
        labels = f"{labels},{_REVISION}={_quote(revision)}"
    return f"{{{labels}{more}}}"


def _increase(series: str) -> str:
    """What the series rose by, without what extrapolation may have added."""
    # (k - 1) / (k + 1.2), which reads the series' range once less.
    return f"increase({series}) * (1 - {_EDGES + 1} / (count_over_time({series}) + {_EDGES}))"


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
