"""What the planner sees: one service, its version, its revisions and its pods, at one moment.

Plain values only.  `observe` makes them from the caches; nothing here reads or decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sluice.analysis.checks import CheckResult
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.requests import Request, RequestError
from sluice.resources.metadata import Manifest, Owner
from sluice.rollout.course import Course

# Kinds of children, in the order in which they are written: what records comes before what runs, and
# what clients reach comes last.
CONTROLLER_REVISION = "ControllerRevision"
SERVICE = "Service"
DEPLOYMENT = "Deployment"
HPA = "HorizontalPodAutoscaler"
PDB = "PodDisruptionBudget"
HTTP_ROUTE = "HTTPRoute"
JOB = "Job"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something doesn't go on: a CamelCase reason, a sentence, and whether waiting can help."""

    reason: str
    message: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class PodView:
    """What a rollout needs to know of one pod."""

    name: str
    ready: bool = False
    is_cut_off: bool = False  # its containers are ready, but nothing is heard of its node
    terminating: bool = False
    unschedulable: str = ""  # the scheduler's words
    restarts: int = 0  # of its containers, together
    address: str = ""  # its IP, empty before it has one
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class RevisionView:
    """One revision as recorded and as it runs."""

    hash: str
    model: str
    version: str
    digest: str
    sequence: int
    inputs: Mapping[str, Any]
    template: Manifest
    rejected: Trouble | None = None
    course: Course | None = None  # of its latest rollout, as recorded
    children: Mapping[str, Manifest] = field(default_factory=dict)  # by kind, as observed
    pods: tuple[PodView, ...] = ()

    @property
    def replicas(self) -> int:
        """Wanted replicas of the Deployment, 0 without one."""
        deployment = self.children.get(DEPLOYMENT)
        return int(deployment["spec"].get("replicas", 1)) if deployment else 0

    @property
    def ready_replicas(self) -> int:
        """Ready pods that are not on their way out."""
        return sum(pod.ready and not pod.terminating for pod in self.pods)

    @property
    def space(self) -> str:
        """The embedding space of its answers, empty where it embeds nothing or it isn't known."""
        return str((self.inputs.get("embedding") or {}).get("space", ""))

    @property
    def failure(self) -> Trouble | None:
        """Why the Deployment can't make pods (a quota, a policy), in the API server's words."""
        return _find_failure(self.children)

    @property
    def runs(self) -> bool:
        """Whether anything of it but its record is in the cluster."""
        return any(kind != CONTROLLER_REVISION for kind in self.children)


@dataclass(frozen=True, slots=True)
class ComparerView:
    """What compares a candidate with stable, as it runs."""

    children: Mapping[str, Manifest] = field(default_factory=dict)  # by kind, as observed
    pods: tuple[PodView, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether mirrored requests would reach it."""
        is_up = any(pod.ready and not pod.terminating for pod in self.pods)
        return is_up and SERVICE in self.children

    @property
    def trouble(self) -> str:
        """What keeps it from being ready, as far as that is known."""
        failure = _find_failure(self.children)
        found = [pod.trouble.message if pod.trouble else pod.unschedulable for pod in self.pods]
        return next((words for words in [*found, failure.message if failure else ""] if words), "")


@dataclass(frozen=True, slots=True)
class JobView:
    """A Job that checks a candidate, as it runs."""

    revision: str  # the candidate
    manifest: Manifest
    pods: tuple[PodView, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it succeeded."""
        return bool(self._find("Complete"))

    @property
    def failure(self) -> str:
        """Why it failed, in the words of its last pod or of Kubernetes; empty while it may succeed."""
        found = self._find("Failed")
        if not found:
            return ""
        return self.trouble or str(found.get("message") or found.get("reason") or "it failed")

    @property
    def trouble(self) -> str:
        """What became of its pods, or keeps them from running."""
        found = [pod.trouble.message if pod.trouble else pod.unschedulable for pod in self.pods]
        return next((words for words in found if words), "")

    def _find(self, type_: str) -> Mapping[str, Any]:
        for condition in (self.manifest.get("status") or {}).get("conditions") or ():
            if condition["type"] == type_ and condition["status"] == "True":
                found: Mapping[str, Any] = condition
                return found
        return {}


def _find_failure(children: Mapping[str, Manifest]) -> Trouble | None:
    deployment = children.get(DEPLOYMENT) or {}
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Trouble(condition.get("reason", "ReplicaFailure"), condition["message"])
    return None


@dataclass(frozen=True, slots=True)
class RouteView:
    """The service's HTTPRoute, as the gateways see it."""

    manifest: Manifest
    weights: Mapping[str, int] = field(default_factory=dict)  # percent of the clients, by revision
    named: frozenset[str] = frozenset()  # every revision that any rule names
    lanes: tuple[str, ...] = ()  # the revisions of the first two rules, empty for an idle one
    has_mix: bool = False
    mirror: str = ""  # name of the Service that gets copies of stable's requests
    mirror_percent: int = 0
    settled: bool = False  # every gateway has taken exactly this generation
    trouble: str = ""  # a gateway's own words


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Where a gateway that the service names listens."""

    name: str  # namespace/name
    address: str = ""  # empty: it has none
    port: int = 80
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured for the rollout at hand; it is gathered anew after a restart."""

    proven: frozenset[str] = frozenset()  # revisions whose answers came through the gateway
    probe: str = ""  # why the last probe did not prove it
    window: str = ""  # which window the results are of
    results: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Everything that `plan` and `summarize` may look at."""

    owner: Owner
    generation: int
    status: Mapping[str, Any]
    service: InferenceService | None  # None: the spec can't be read, `invalid` says why
    invalid: Trouble | None = None
    version: ModelVersion | None = None
    revisions: Mapping[str, RevisionView] = field(default_factory=dict)
    comparers: Mapping[str, ComparerView] = field(default_factory=dict)  # by candidate
    jobs: Mapping[str, JobView] = field(default_factory=dict)  # by their names
    front: Manifest | None = None
    # Ready endpoints of the front Service, by revision: what clients can really reach.
    reachable: Mapping[str, int] = field(default_factory=dict)
    route: RouteView | None = None
    gateways: tuple[GatewayView, ...] = ()
    has_gateway_api: bool = True  # whether the cluster knows HTTPRoutes
    request: Request | RequestError | None = None
    created: datetime | None = None
    evidence: Evidence = Evidence()
    # What the version that is rolled out has registered, by metric; spec may ask for another by now.
    evaluation: Mapping[str, str] = field(default_factory=dict)
    quarantine: str = ""  # why the wanted version may not be rolled out in this namespace
    foreign: Trouble | None = None  # a child's name is taken by somebody else's object


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's own settings that change decisions."""

    drain_lag_seconds: float = 5.0
    revision_history: int = 10
