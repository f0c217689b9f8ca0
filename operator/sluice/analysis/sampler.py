"""Takes samples of one step, round by round, and evaluates its checks over all of them.

It fetches through `pods` or `prometheus`, keeps the ledgers of the window, and has `checks` judge it.
It must not decide what a verdict leads to.
"""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import aiohttp

from sluice.analysis.agreement import Comparisons, Counts, make_check, parse_counts
from sluice.analysis.checks import Agreement, CheckResult, evaluate
from sluice.analysis.exposition import Scrape
from sluice.analysis.pods import ask_pods, scrape_pods
from sluice.analysis.prometheus import Prometheus, QueryError, Subject
from sluice.analysis.tally import Ledger, Window
from sluice.api.rollout import Analysis, CheckMetric, SourceType

logger = logging.getLogger(__name__)

ROUNDS: Final = 16
"""Answers of a PromQL check that are kept: more than any verdict looks at."""

PATIENCE: Final = 3
"""Rounds after which a Pass needs to have heard something new."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a round is about: it may change from round to round, the step's window does not."""

    subject: Subject
    weight: int | None
    candidate: Mapping[str, str]  # address by pod
    stable: Mapping[str, str]
    port: int
    evaluation: Mapping[str, str]  # what training measured
    comparer: Mapping[str, str] = field(default_factory=dict)  # address by pod


class Sampler:
    """The samples of one step, from the moment on that its weight took effect."""

    def __init__(
        self,
        analysis: Mapping[str, Any] | None,
        since: datetime,
        session: aiohttp.ClientSession,
        *,
        agreement: int | None = None,
    ) -> None:
        """`analysis` as in the spec; `agreement` is a shadow step's bound in percent, None elsewhere."""
        # Without an analysis there are no checks of the user's, and all else is as by default.
        self._analysis = (
            Analysis.model_validate(analysis) if analysis else Analysis.model_construct(checks=())
        )
        own = () if agreement is None else (make_check(agreement),)
        self._checks = (*own, *self._analysis.checks)
        self._comparisons = None if agreement is None else Comparisons()
        self._since = since.timestamp()
        self._session = session
        self._both = Ledger()
        self._alone = Ledger()  # of the candidate, heard or not what stable did
        self._answers: dict[str, deque[float | None]] = {
            check.name: deque(maxlen=ROUNDS)
            for check in self._analysis.checks
            if check.metric is CheckMetric.QUERY
        }
        source = self._analysis.source
        self._prometheus: Prometheus | None = None
        if source.type is SourceType.PROMETHEUS and source.prometheus is not None:
            self._prometheus = Prometheus(session, source.prometheus.url)
        self._known = self._since, Window(), Window()  # what Prometheus said last, and when
        self._said: dict[str, str] = {}

    @property
    def interval(self) -> float:
        """Seconds between two rounds."""
        return self._analysis.interval_after.total_seconds()

    async def look(self, now: datetime, scene: Scene) -> tuple[CheckResult, ...]:
        """One round, and what the checks say after it."""
        time = now.timestamp()
        window = alone = Window()
        if self._prometheus is not None:
            window, alone = await self._ask_prometheus(self._prometheus, time, scene)
        elif scene.weight != 0:
            window, alone = await self._ask_pods(time, scene)
        agreement: Agreement | None = None
        if self._comparisons is not None:
            agreement = await self._ask_comparer(self._comparisons, time, scene)
        return evaluate(
            self._checks,
            window,
            _read_evaluation(scene.evaluation),
            self._analysis.min_samples,
            agreement=agreement,
            queries=self._answers,
            alone=alone,
            weight=scene.weight,
            replicas=max(1, len(scene.candidate)),
            patience=PATIENCE * self.interval,
        )

    async def _ask_pods(self, time: float, scene: Scene) -> tuple[Window, Window]:
        """What both did, and what the candidate did."""
        targets = {
            pod: (address, scene.port)
            for track in (scene.candidate, scene.stable)
            for pod, address in track.items()
        }
        answers = await scrape_pods(self._session, targets)
        scrapes: dict[str, Scrape | None] = {}
        for pod, answer in answers.items():
            scrapes[pod] = answer if isinstance(answer, Scrape) else None
            self._tell(pod, "" if isinstance(answer, Scrape) else str(answer))
        candidate = {pod: scrapes[pod] for pod in scene.candidate}
        self._both.add(time, candidate, {pod: scrapes[pod] for pod in scene.stable})
        self._alone.add(time, candidate, {})
        return self._both.window(), self._alone.window()

    async def _ask_comparer(self, comparisons: Comparisons, time: float, scene: Scene) -> Agreement:
        targets = {pod: (address, scene.port) for pod, address in scene.comparer.items()}
        answers = await ask_pods(self._session, targets, parse_counts)
        for pod, answer in answers.items():
            self._tell(pod, "" if isinstance(answer, Counts) else str(answer))
        comparisons.add(
            time,
            {pod: found for pod, found in answers.items() if isinstance(found, Counts)},
        )
        return comparisons.total

    async def _ask_prometheus(
        self, server: Prometheus, time: float, scene: Scene
    ) -> tuple[Window, Window]:
        seconds = time - self._since
        try:
            if seconds > 0:
                alone, silence = await server.read_window(scene.subject, time, seconds)
                window = replace(alone, silence=silence) if scene.stable else alone
                self._known = time, window, alone
            self._tell("prometheus", "")
        except QueryError as error:
            self._tell("prometheus", str(error))
        then, window, alone = self._known
        window = replace(window, silence=window.silence + time - then)
        alone = replace(alone, silence=alone.silence + time - then)
        for check in self._analysis.checks:
            if check.metric is not CheckMetric.QUERY or check.query is None:
                continue
            try:
                answer: float | None = await server.ask(check.query, scene.subject, time)
                self._tell(check.name, "")
            except QueryError as error:
                answer = None
                self._tell(check.name, str(error))
            self._answers[check.name].append(answer)
        return window, alone

    def _tell(self, source: str, trouble: str) -> None:
        """Logs a source's trouble once, and its end."""
        if self._said.get(source, "") == trouble:
            return
        self._said[source] = trouble
        if trouble:
            logger.warning("no samples", extra={"source": source, "detail": trouble})
        else:
            logger.info("samples again", extra={"source": source})


def _read_evaluation(metrics: Mapping[str, str]) -> dict[str, Decimal]:
    numbers = {}
    for name, text in metrics.items():
        try:
            numbers[name] = Decimal(text)
        except InvalidOperation:
            continue  # the CRD lets only decimals in; what is stored from before counts as absent
    return numbers
