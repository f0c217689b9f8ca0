"""A node tier with the operator beside it and one service under traffic: what rollout benchmarks play on.

It measures and judges nothing.  The operator runs as a process in the instance's namespace, with its own
rights, from a copy of the code: it can be killed at will, and edits during a run don't matter.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cast import Cast, Fake
from benchmarks.instance import clean_up_when_told_to_end, say
from examples.fake import deploy
from examples.pizza.deploy import make_namespace
from testbed import images, local
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.install import NAMESPACE as OPERATORS
from testbed.install import install_crds
from testbed.progress import Progress
from tests.operator_process import ROOT, OperatorProcess, install, write_kubeconfig
from tests.plane import Obj, Plane
from tests.waiting import wait_for

NAMESPACE = "traffic"
KIND = "InferenceService"
REQUEST = "sluice.dev/request"
# A kubelet's first pause is longer, and grows to minutes; that is not what is looked at.
RESTART_S = 0.5
# Pods queue rather than refuse: when this machine stalls for a second, it is not the rollout that fails a
# request.
ENVIRONMENT = {"MAX_CONCURRENT_REQUESTS": "4096", "QUEUE_MAX_ITEMS": "4096"}


@dataclass(frozen=True, slots=True)
class Moment:
    """A status, and when the API server told of it (this machine's wall clock, in seconds)."""

    time: float
    status: Mapping[str, Any]

    @property
    def rollout(self) -> Mapping[str, Any]:
        """`status.rollout`."""
        found: Mapping[str, Any] = self.status.get("rollout") or {}
        return found

    @property
    def state(self) -> str:
        """The rollout's state, or an empty string."""
        return str(self.rollout.get("state", ""))

    @property
    def revision(self) -> str:
        """The revision that is rolled out, or an empty string."""
        return str(self.rollout.get("revision", ""))

    @property
    def stable(self) -> Mapping[str, Any]:
        """`status.stable`."""
        found: Mapping[str, Any] = self.status.get("stable") or {}
        return found


@dataclass
class Story:
    """Every status of one service, as a watch tells them."""

    name: str
    moments: list[Moment] = field(default_factory=list)

    def tell(self, type_: str, obj: Obj) -> None:
        """Takes an event of the watch."""
        if obj["metadata"]["name"] == self.name and type_ != "DELETED":
            self.moments.append(Moment(time.time(), obj.get("status") or {}))

    @property
    def last(self) -> Moment:
        """The newest status."""
        return self.moments[-1] if self.moments else Moment(0.0, {})

    def wait(self, is_so: Callable[[Moment], object], what: str, seconds: float = 120.0) -> Moment:
        """The first moment from now on that is so; it may be the present one."""
        seen = max(0, len(self.moments) - 1)

        def look() -> Moment | None:
            found = next((one for one in self.moments[seen:] if is_so(one)), None)
            message = self.last.status.get("message", "no status")
            assert found is not None, f"{self.last.state}: {message}"
            return found

        found = wait_for(look, what=f"{self.name}: {what}", seconds=seconds)
        assert found is not None
        return found

    def since(self, moment: float) -> list[Moment]:
        """What was told from then on."""
        return [one for one in list(self.moments) if one.time >= moment]


@dataclass
class Theatre:
    """One service, and everything that a scenario does to it."""

    cluster: Cluster
    plane: Plane
    namespace: str
    image: str
    cast: Cast
    story: Story
    operator: OperatorProcess | None = None  # None: it runs in the cluster
    replicas: int = 2
    env: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)  # of every version
    versions: set[str] = field(default_factory=set)

    def ship(
        self,
        version: str,
        env: Mapping[str, str] | None = None,
        *,
        source: str = "",
        **rollout: Any,
    ) -> str:
        """What a user applies to move to a version; gives its revision once its rollout has begun.

        `source` is what the version serves where its number doesn't say (benchmarks/cast.py).
        """
        objects: list[dict[str, Any]] = []
        if version not in self.versions:
            objects.append(self.cast.make_version(version, source))
            self.versions.add(version)
        env = {**self.env, **(env or {})}
        service = self.cast.make_service(version, self.image, env, rollout, self.replicas)
        before = self.story.last.revision
        deploy.apply(self.cluster, self.namespace, [*objects, service])
        begun = self.story.wait(
            lambda one: one.revision and one.revision != before, f"a rollout of {version}"
        )
        return begun.revision

    def ask(self, verb: str, revision: str, target: str = "") -> float:
        """A person's request; gives the time just before it was written."""
        words = [verb, revision, f"{datetime.now(UTC):%FT%TZ}", *([target] if target else [])]
        change = {"metadata": {"annotations": {REQUEST: " ".join(words)}}}
        asked = time.time()
        self.plane.patch(KIND, self.namespace, self.story.name, change)
        return asked

    def wait_state(self, state: str, revision: str, seconds: float = 120.0) -> Moment:
        """Until the rollout of this revision is in this state; AssertionError once it was given up."""
        ends = {state, "Rejected"}
        found = self.story.wait(
            lambda one: one.revision == revision and one.state in ends, state, seconds
        )
        assert found.state == state, found.status["message"]
        return found

    def wait_alone(self, revision: str) -> None:
        """Until no pod of another revision is left."""

        def is_alone() -> bool:
            pods = self.plane.list("Pod", self.namespace, f"sluice.dev/service={self.story.name}")
            others = {pod["metadata"]["labels"]["sluice.dev/revision"] for pod in pods}
            return others == {revision}

        wait_for(is_alone, what=f"only pods of {revision} are left", seconds=120)


def make_check(name: str, **check: Any) -> dict[str, Any]:
    """A check of the analysis."""
    return {"name": name, **check}


ERRORS = make_check("errors", metric="ErrorRate", type="Absolute", maxPercent="1")


def make_canary(
    *steps: tuple[int, float],
    checks: Sequence[Mapping[str, Any]] = (ERRORS,),
    deadline: str = "5m",
    **more: Any,
) -> dict[str, Any]:
    """`spec.rollout` of a canary; steps are (weight in percent, hold in seconds)."""
    rollout: dict[str, Any] = {
        "strategy": "Canary",
        "deadline": deadline,
        "canary": {
            "steps": [
                {"weight": weight, **({"hold": f"{max(1, round(hold))}s"} if hold else {})}
                for weight, hold in steps
            ]
        },
        **more,
    }
    if checks:
        rollout["analysis"] = {"interval": "1s", "checks": [dict(check) for check in checks]}
    return rollout


@contextlib.contextmanager
def make_theatre(
    purpose: str, existing: str = "", cast: Cast | None = None, **options: str | float
) -> Iterator[Theatre]:
    """A node tier of its own, gone at the end; or the running one called `existing`, which stays.

    `options` are the operator's flags.
    """
    progress = Progress()
    clean_up_when_told_to_end()
    cluster = Cluster.load(existing) if existing else Cluster(f"{purpose}-{os.getpid()}")
    try:
        if not existing:
            local.up(cluster, "node", progress)
        elif (
            "sluice-operator"
            in cluster.kubectl("get", "deploy", "-n", OPERATORS, "-o", "name").stdout
        ):
            raise ClusterError(
                f"instance {existing} has an operator already, which would lead this one's services: "
                f"`kubectl delete deployment sluice-operator -n {OPERATORS}` first"
            )
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as scratch:
            yield from _play(cluster, Path(scratch), cast or Fake(), options, progress)
    finally:
        if not existing:
            local.down(cluster, progress)


def _play(
    cluster: Cluster,
    scratch: Path,
    cast: Cast,
    options: Mapping[str, str | float],
    progress: Progress,
) -> Iterator[Theatre]:
    image = images.ensure(cluster, ["inference-cpu"], progress)["inference-cpu"]
    install_crds(cluster)
    install(cluster)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", seconds=180)
    make_namespace(cluster, NAMESPACE)
    cast.publish(cluster)
    source = scratch / "source"
    shutil.copytree(ROOT / "operator", source, ignore=shutil.ignore_patterns("__pycache__"))
    operator = OperatorProcess(
        write_kubeconfig(cluster, scratch / "kubeconfig"),
        scratch,
        source,
        enter=cluster.enter,
        **options,
    )
    plane = Plane(cluster.kubeconfig)
    story = Story(cast.service)
    try:
        operator.start()
        operator.wait_until_working()
        with _keeping(operator), plane.following(KIND, NAMESPACE, story.tell):
            yield Theatre(cluster, plane, NAMESPACE, image, cast, story, operator)
    except BaseException:
        say("\n".join(json.dumps(line) for line in operator.lines()[-40:]))
        raise
    finally:
        operator.kill()
        plane.close()
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")


@contextlib.contextmanager
def _keeping(operator: OperatorProcess) -> Iterator[None]:
    """Starts the operator again whenever it has ended, as a kubelet does, while the block runs."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(RESTART_S):
            if not operator.is_running:
                operator.kill()  # nothing runs any more: it is only forgotten
                operator.start()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
