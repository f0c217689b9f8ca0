"""Measures what a rollout needs to know: whether the gateway reaches the candidate, how it answers.

It runs beside the reconciler and wakes it with each finding.  It decides nothing about the rollout, and
what it has found is gone after a restart: then it is measured anew.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import aiohttp

from sluice.analysis.prometheus import Subject
from sluice.analysis.sampler import Sampler, Scene
from sluice.plan import Demand, ProbeDemand, SampleDemand
from sluice.resources.pod import SERVER_PORT
from sluice.resources.route import MIX_PIN, PIN_HEADER
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key
from sluice.world import Evidence, GatewayView

logger = logging.getLogger(__name__)

# So many answers in a row, each over a connection of its own, from every gateway.
PROBES = 5
PROBE_PAUSE = 0.2
PROBE_TIMEOUT = 2.0
# What the inference server stamps on every answer (docs/contract.md).
REVISION_HEADER = "sluice-revision"
PROBE_PATH = "/ready"


@dataclass(slots=True)
class _Work:
    """What is being measured for one service."""

    demand: Demand
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class Measurer:
    """One task per service that wants something measured."""

    clock: Clock
    _wake: Callable[[Key], None] = field(default=lambda _: None)
    _found: dict[Key, Evidence] = field(default_factory=dict)
    _works: dict[Key, _Work] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None

    def start(self, wake: Callable[[Key], None]) -> None:
        """Whom to wake when something was found."""
        self._wake = wake

    async def stop(self) -> None:
        """Ends everything that is being measured."""
        for key in list(self._works):
            self.want(key, None)
        if self._session is not None:
            await self._session.close()

    def evidence(self, key: Key) -> Evidence:
        """What has been found for this service so far."""
        return self._found.get(key, _NOTHING)

    def forget(self, key: Key) -> None:
        """Nothing is rolled out: what was found says nothing about the next time."""
        self._found.pop(key, None)

    def doubt(self, key: Key, revisions: frozenset[str]) -> None:
        """These are not proven any more."""
        found = self.evidence(key)
        if found.proven & revisions:
            self._found[key] = replace(found, proven=found.proven - revisions)

    def want(self, key: Key, demand: Demand | None) -> None:
        """Measures this from now on, and nothing else; None ends it."""
        work = self._works.get(key)
        if demand is None:
            if work is not None:
                work.task.cancel()
                del self._works[key]
            return
        if work is not None and not work.task.done() and _is_same(work.demand, demand):
            work.demand = demand  # its pods may have changed
            return
        if work is not None:
            work.task.cancel()
        name = f"measure {key}"
        self._works[key] = _Work(demand, asyncio.create_task(self._run(key), name=name))

    async def _run(self, key: Key) -> None:
        try:
            match self._works[key].demand:
                case ProbeDemand():
                    await self._probe(key)
                case SampleDemand():
                    await self._sample(key)
        except asyncio.CancelledError:
            raise
        except Exception:
            # The outermost loop of the measuring: a defect must be seen, and must not end the process.
            logger.exception("measuring failed", extra={"service": f"{key.namespace}/{key.name}"})
            await self.clock.sleep(PROBE_PAUSE)
            self._wake(key)

    # The gateway

    async def _probe(self, key: Key) -> None:
        while True:
            demand = self._works[key].demand
            assert isinstance(demand, ProbeDemand), "_is_same"  # noqa: S101 - narrows the type
            trouble = await self._find_trouble(demand)
            before = self.evidence(key)
            if not trouble:
                proven = before.proven | {demand.revision}
                self._found[key] = replace(before, proven=proven, probe="")
                logger.info(
                    "proven",
                    extra={
                        "service": f"{key.namespace}/{key.name}",
                        "revision": demand.revision,
                        "answers": PROBES * len(demand.gateways),
                    },
                )
                self._wake(key)
                return
            if trouble != before.probe:
                self._found[key] = replace(before, probe=trouble)
                self._wake(key)
            await self.clock.sleep(PROBE_PAUSE)

    async def _find_trouble(self, demand: ProbeDemand) -> str:
        """Why the revision is not proven yet, or an empty string."""
        for gateway in demand.gateways:
            if not gateway.address:
                return f"{gateway.name} has no address"
            pins = [(demand.revision, {demand.revision})]
            if demand.mixes_with:
                pins.append((MIX_PIN, {demand.revision, demand.mixes_with}))
            for pin, wanted in pins:
                for _ in range(PROBES):
                    trouble = await self._ask(gateway, demand.host, pin, wanted)
                    if trouble:
                        return f"{gateway.name}: {trouble}"
        return "" if demand.gateways else "no gateway is named"

    async def _ask(self, gateway: GatewayView, hostname: str, pin: str, wanted: set[str]) -> str:
        scheme = "https" if gateway.tls else "http"
        host = f"[{gateway.address}]" if ":" in gateway.address else gateway.address
        url = f"{scheme}://{host}:{gateway.port}{PROBE_PATH}"
        name = hostname.replace("*", "probe")
        headers = {"Host": name, PIN_HEADER: pin}
        try:
            async with self._open().get(
                url,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT),
                allow_redirects=False,
                server_hostname=name if gateway.tls else None,
            ) as answer:
                found = answer.headers.get(REVISION_HEADER, "")
                if answer.status != 200:
                    return f"it answers {answer.status}"
                if found not in wanted:
                    return f"the answer came from {found or 'something else'}"
                return ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"no answer ({type(error).__name__})"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Whose certificate it is doesn't matter to a probe: it asks who answers, and says nothing.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connector = aiohttp.TCPConnector(force_close=True, ssl=context, limit=64)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    # The checks

    async def _sample(self, key: Key) -> None:
        demand = self._works[key].demand
        assert isinstance(demand, SampleDemand), "_is_same"  # noqa: S101 - narrows the type
        sampler = Sampler(
            demand.course.analysis, demand.since, self._open(), agreement=demand.agreement
        )
        versions = key.namespace, key.name
        while True:
            demand = self._works[key].demand
            assert isinstance(demand, SampleDemand), "_is_same"  # noqa: S101 - narrows the type
            subject = Subject(*versions, demand.stable, demand.candidate)
            scene = Scene(
                subject,
                demand.weight,
                demand.pods.get(demand.candidate, {}),
                demand.pods.get(demand.stable, {}),
                SERVER_PORT,
                demand.evaluation,
                demand.comparer,
            )
            results = await sampler.look(self.clock.now(), scene)
            before = self.evidence(key)
            after = replace(before, window=demand.window, results=results)
            if after != before:
                self._found[key] = after
                self._wake(key)
            await self.clock.sleep(sampler.interval)


_NOTHING = Evidence()


def _is_same(one: Demand, other: Demand) -> bool:
    match one, other:
        case ProbeDemand(), ProbeDemand():
            return one.revision == other.revision
        case SampleDemand(), SampleDemand():
            return one.window == other.window
        case _:
            return False
