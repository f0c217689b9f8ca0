"""A service's world in memory, for thousands of runs of the pure core: observe -> plan -> effects.

It stands in for the API server and the controllers behind it only as far as the core looks at them
(children, pods, endpoints, the gateway, what is measured).  What it assumes of the real ones is tested
against them in `tests/integration`.  Every write is one step, and a run may be cut before any of them.
The rules of `invariants` are checked at each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice import labels, reconcilers, status
from sluice import plan as planner
from sluice.actions import Action, Apply, Delete, front_revision
from sluice.analysis.checks import CheckResult
from sluice.api.rolloutstatus import Verdict
from sluice.caches import GATEWAY, INFERENCE_SERVICE, MODEL_VERSION, Caches, project_slice
from sluice.observe import observe, view_route
from sluice.plan import Plan, ProbeDemand, SampleDemand, plan
from sluice.requests import Verb, format_request
from sluice.rollout.cursor import Cursor, load_cursor
from sluice.world import DEPLOYMENT, HTTP_ROUTE, JOB, SERVICE, Evidence, Policy, World
from tests import invariants
from tests.builders import gateway
from tests.invariants import Facts, Path, backends_of

POLICY = Policy(drain_lag_seconds=5.0, revision_history=3)
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FETCH_FAILED = (
    '{"outcome":"Failed","reason":"FileCorrupt","message":"model.onnx: sha256 is 9f, the manifest says 1b",'
    '"permanent":true}'
)


class Simulation:
    """`behaves` says of each version how its pods do: ready (default), never, corrupt, unschedulable.

    `verdicts` says what its checks find, Pass where nothing is said; None: there are no samples at all.
    """

    def __init__(self, service: dict[str, Any], *versions: dict[str, Any]) -> None:
        self.caches = Caches()
        self.now = START
        self.behaves: dict[str, str] = {}
        self.short: dict[str, int] = {}  # of a version: how many of its pods may be ready at most
        self.restarts: dict[str, int] = {}  # of a version: restarts of each of its pods
        self.verdicts: dict[str, Verdict | None] = {}
        self.finds_nothing = False  # whether there is nothing to judge any check by
        # Of a version: how its pre-promotion Job ends: passes (default), fails, runs.
        self.checks: dict[str, str] = {}
        self.refusal = ""  # the reason that the gateway gives for not taking the route
        self.gateway_lag = 0  # rounds of the controllers until the gateway takes a route
        self.reaches = True  # whether what the gateway was told also comes about: a probe's answer
        self.evidence = Evidence()
        self.log: list[str] = []
        self.events: list[str] = []
        self._version = 100
        self._seen: tuple[int, Evidence, World | None] = (0, self.evidence, None)
        self._carried: dict[str, int] = {}  # by revision: what the gateway really does
        self._lag_left = 0
        self._left: tuple[dict[str, datetime], ...] = ({}, {})  # front, route: when clients left
        self.put(GATEWAY, gateway().obj())
        self.put(INFERENCE_SERVICE, service)
        for version in versions:
            self.put(MODEL_VERSION, version)

    # The API server

    def put(self, kind: str, obj: dict[str, Any]) -> None:
        """Stores an object as a new version of itself."""
        obj = copy.deepcopy(obj)
        self._version += 1
        metadata = obj["metadata"]
        old = self.caches[kind].get(metadata["namespace"], metadata["name"])
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault(
            "uid", old["metadata"]["uid"] if old else f"{kind}-{metadata['name']}-{self._version}"
        )
        if old and kind == INFERENCE_SERVICE:
            obj.setdefault("status", old.get("status", {}))
            metadata.setdefault("annotations", old["metadata"].get("annotations", {}))
        if kind == HTTP_ROUTE:
            changed = old is None or old["spec"] != obj["spec"]
            generation = old["metadata"]["generation"] if old else 0
            metadata["generation"] = generation + changed
            obj.setdefault("status", old.get("status", {}) if old else {})
            if changed:
                self._lag_left = self.gateway_lag
        if kind == SERVICE and labels.FRONT in metadata.get("labels", {}):
            selected = front_revision(old)
            if selected and selected != front_revision(obj):
                self._left[0][selected] = self.now
        self.caches[kind].upsert(obj)

    def remove(self, kind: str, name: str) -> None:
        obj = self.caches[kind].get("vision", name)
        assert obj is not None, f"{kind} {name} is not there"
        self._version += 1
        gone = copy.deepcopy(obj)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self.caches[kind].remove(gone)
        if kind == HTTP_ROUTE:
            self._carry({})

    def change(self, service: dict[str, Any]) -> None:
        """A user's edit of the spec."""
        self.put(INFERENCE_SERVICE, service)

    @property
    def service(self) -> dict[str, Any]:
        (obj,) = self.caches[INFERENCE_SERVICE].all()
        return obj

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.service.get("status", {})
        return found

    @property
    def cursor(self) -> Cursor | None:
        """The one on record."""
        return load_cursor(self.status)

    @property
    def state(self) -> str:
        """Of the rollout, an empty string before the first."""
        return str(self.status.get("rollout", {}).get("state", ""))

    @property
    def route(self) -> dict[str, Any] | None:
        return self.caches[HTTP_ROUTE].get("vision", "pizza")

    @property
    def weights(self) -> dict[str, int]:
        """What the route gives, by version."""
        found = view_route(self.route).weights if self.route else {}
        versions = {hash_: view.version for hash_, view in self.world().revisions.items()}
        return {versions.get(hash_, hash_): weight for hash_, weight in found.items()}

    def revision(self, version: str) -> str:
        """The hash of a version's newest revision."""
        views = [view for view in self.world().revisions.values() if view.version == version]
        return max(views, key=lambda view: view.sequence).hash

    def ask(self, verb: Verb, target: str = "", *, revision: str = "", by: str = "ann") -> None:
        """A person's request, of the live revision unless another is named."""
        rollout = self.status.get("rollout", {})
        text = format_request(verb, revision or rollout["revision"], self.now, target)
        service = copy.deepcopy(self.service)
        service["metadata"]["annotations"] = {labels.REQUEST: text, labels.REQUESTED_BY: by}
        self.put(INFERENCE_SERVICE, service)

    def condition(self, type_: str) -> tuple[str, str] | None:
        for item in self.status.get("conditions", []):
            if item["type"] == type_:
                return item["status"], item["reason"]
        return None

    # The controllers behind it

    def settle_controllers(self) -> bool:
        """ReplicaSets make and remove pods, the kubelet starts them, endpoints follow; whether any did."""
        before = self._version
        wanted: dict[str, dict[str, Any]] = {}
        for deployment in self.caches[DEPLOYMENT].all():
            for number in range(deployment["spec"]["replicas"]):
                name = f"{deployment['metadata']['name']}-{number}"
                wanted[name] = self._make_pod(name, deployment, number)
        for pod in list(self.caches["Pod"].all()):
            if pod["metadata"]["name"] not in wanted:
                self.remove("Pod", pod["metadata"]["name"])
        for name, pod in wanted.items():
            found = self.caches["Pod"].get("vision", name)
            if found is None or found["status"] != pod["status"]:
                self.put("Pod", pod)
        for job in list(self.caches[JOB].all()):
            self._run_job(job)
        front = self.caches[SERVICE].get("vision", "pizza")
        if front is not None:
            made = self._make_slice(front)
            found = self.caches["EndpointSlice"].get("vision", "pizza-slice")
            if found is None or found["pods"] != project_slice(made)["pods"]:
                self.put("EndpointSlice", made)
        self._settle_gateway()
        return self._measure() or self._version != before

    def _run_job(self, job: dict[str, Any]) -> None:
        """It ends as its version's `checks` say, once there is anybody that it can ask."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        env = {item["name"]: item["value"] for item in container["env"]}
        view = self.world().revisions.get(env["SLUICE_REVISION"])
        assert view is not None, "a Job without its candidate"
        assert view.ready_replicas or job.get("status"), "a Job that has nobody to ask"
        end = {"passes": "Complete", "fails": "Failed"}.get(
            self.checks.get(env["MODEL_VERSION"], "passes")
        )
        if end and not job.get("status"):
            condition = {"type": end, "status": "True", "message": "Job has reached its limit"}
            self.put(JOB, {**job, "status": {"conditions": [condition]}})

    def _settle_gateway(self) -> None:
        """The gateway's controller takes the route, or says why it does not."""
        route = self.route
        if route is None:
            return
        if self._lag_left:
            self._lag_left -= 1
            self._version += 1  # not settled yet: something is going to happen
            return
        generation = route["metadata"]["generation"]
        good = "False" if self.refusal else "True"
        items = [
            {
                "type": "Accepted",
                "status": good,
                "reason": self.refusal or "Accepted",
                "message": "not allowed here" if self.refusal else "",
                "observedGeneration": generation,
            },
            {"type": "ResolvedRefs", "status": "True", "observedGeneration": generation},
        ]
        parents = [{"parentRef": ref, "conditions": items} for ref in route["spec"]["parentRefs"]]
        if not self.refusal:
            self._carry(view_route(route).weights)
        if route["status"] != {"parents": parents}:
            self.put(HTTP_ROUTE, {**route, "status": {"parents": parents}})

    def _carry(self, weights: Mapping[str, int]) -> None:
        for revision, weight in self._carried.items():
            if weight and not weights.get(revision):
                self._left[1][revision] = self.now
        self._carried = dict(weights)

    def _measure(self) -> bool:
        """What the operator asked to be measured is found out; whether that is news."""
        before, world = self.evidence, self.world()
        decided = plan(world, self.now, POLICY)
        if reconcilers.is_at_rest(decided.cursor):
            self.evidence = Evidence()
        proven = self.evidence.proven - reconcilers.unproven(world)
        if proven != self.evidence.proven:
            self.evidence = replace(self.evidence, proven=proven)
        match decided.demand:
            case ProbeDemand(revision=revision):
                view = world.revisions[revision]
                answers = self.reaches and view.ready_replicas > 0 and not self.refusal
                probe = "" if answers else "vision/eg: it answers 503"
                proven |= {revision} if answers else frozenset()
                self.evidence = replace(self.evidence, proven=proven, probe=probe)
            case SampleDemand(window=window, candidate=candidate):
                version = world.revisions[candidate].version
                verdict = self.verdicts.get(version, Verdict.PASS)
                found = None if self.finds_nothing else verdict
                results = () if found is None else (make_result(found),)
                window = window if verdict else ""
                self.evidence = replace(self.evidence, window=window, results=results)
        return self.evidence != before

    def _make_pod(self, name: str, deployment: dict[str, Any], number: int) -> dict[str, Any]:
        template = deployment["spec"]["template"]
        version = template["metadata"]["labels"][labels.VERSION]
        behaviour = self.behaves.get(version, "ready")
        if number >= self.short.get(version, number + 1):
            behaviour = "unschedulable"
        status: dict[str, Any] = {
            "phase": "Pending",
            "podIP": f"10.0.0.{number}" if behaviour == "ready" else "",
            "conditions": [
                {"type": "Ready", "status": "True" if behaviour == "ready" else "False"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "initContainerStatuses": [],
            "containerStatuses": [
                {
                    "name": "server",
                    "ready": behaviour == "ready",
                    "restartCount": self.restarts.get(version, 0),
                    "state": {},
                    "lastState": {},
                }
            ],
        }
        if behaviour == "unschedulable":
            status["conditions"][1] = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: none",
            }
        if behaviour == "corrupt":
            ended = {"exitCode": 3, "reason": "Error", "message": FETCH_FAILED}
            status["initContainerStatuses"] = [
                {
                    "name": "fetch",
                    "ready": False,
                    "restartCount": 1,
                    "state": {"terminated": ended},
                    "lastState": {},
                }
            ]
        metadata = {"name": name, "namespace": "vision", "labels": template["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}

    def _make_slice(self, front: dict[str, Any]) -> dict[str, Any]:
        selected = front_revision(front)
        pods = [
            pod["metadata"]["name"]
            for pod in self.caches["Pod"].all()
            if labels.revision_of(pod) == selected
            and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]
            )
        ]
        return {
            "metadata": {
                "name": "pizza-slice",
                "namespace": "vision",
                "labels": {labels.SERVICE: "pizza", labels.FRONT: "true"},
            },
            "endpoints": [
                {"targetRef": {"kind": "Pod", "name": name}, "conditions": {"ready": True}}
                for name in pods
            ],
        }

    # The operator

    def world(self) -> World:
        """As the operator sees it; looked at anew only once something has changed."""
        version, evidence, world = self._seen
        if world is None or version != self._version or evidence is not self.evidence:
            world = observe(self.caches, self.service, self.evidence)
            self._seen = (self._version, self.evidence, world)
        return world

    def decide(self) -> Plan:
        return plan(self.world(), self.now, POLICY)

    def reconcile(self) -> Iterator[str]:
        """One pass, a write at a time; what is not drawn from it has not happened."""
        seen = self.service["metadata"]["resourceVersion"]
        world = self.world()
        decided = plan(world, self.now, POLICY)
        if reconcilers.is_moved(world, decided):
            after = status.summarize(world, decided, None, self.now)
            self._check_decision(world, decided)
            yield from self._write_status(after, seen)
            if self.service["status"] != after:
                return  # somebody wrote in between: what was decided is not decided any more
            seen = self.service["metadata"]["resourceVersion"]
        for action in decided.actions:
            yield from self._carry_out(action)
        if decided.is_preparing and decided.actions:
            return
        after = status.summarize(self.world(), decided, None, self.now)
        if after != self.status:
            yield from self._write_status(after, seen)

    def reconcile_all(self) -> Iterator[None]:
        """One whole pass for each value drawn."""
        while True:
            for _ in self.reconcile():
                pass
            yield

    def crash(self) -> None:
        """The operator ends; what it had measured is gone."""
        self.evidence = Evidence()

    def _carry_out(self, action: Action) -> Iterator[str]:
        # What happened since the plan was made is not its fault: such a run checks no readiness.
        match action:
            case Apply(kind, manifest):
                yield self._note(f"apply {kind} {manifest['metadata']['name']}")
                invariants.check_action(action, self.facts(), self.cursor)
                self.put(kind, manifest)
            case Delete(kind, observed):
                yield self._note(f"delete {kind} {observed['metadata']['name']}")
                invariants.check_action(action, self.facts(), self.cursor)
                if self.caches[kind].get("vision", observed["metadata"]["name"]) is not None:
                    self.remove(kind, observed["metadata"]["name"])

    def _write_status(self, after: dict[str, Any], seen: str) -> Iterator[str]:
        """A status goes over the very version that it was made from, as the API server sees to."""
        yield self._note(f"status {after['phase']}")
        if self.service["metadata"]["resourceVersion"] != seen:
            self._note("conflict")
            return
        invariants.check_status(after)
        self.events += [f"{e.type} {e.reason}" for e in status.tell(self.status, after)]
        service = copy.deepcopy(self.service)
        service["status"] = after
        self.put(INFERENCE_SERVICE, service)

    def _check_decision(self, world: World, decided: Plan) -> None:
        before = self.cursor
        accepted = decided.handled is not None and decided.handled.accepted
        verb = Verb(decided.handled.request.split(" ")[0]) if accepted else None
        course = planner.find_course(world, decided.cursor, decided.target)
        invariants.check_decision(before, decided.cursor, course, self.facts(), verb, self.now)

    def _note(self, text: str) -> str:
        self.log.append(text)
        return text

    def run(self, *, seconds: float = 30.0, crash_at: int | None = None) -> int:
        """Runs for so long in simulated time; `crash_at` cuts before that write and starts anew.

        Gives the number of writes. The invariants of the house are checked at each of them.
        """
        writes = 0
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            before = writes
            for _ in self.reconcile():
                if writes == crash_at:
                    writes += 1
                    self.crash()
                    break  # killed before the write; everything not in the cluster is forgotten
                writes += 1
            self.check()
            if not self.settle_controllers() and writes == before:
                # Nothing happens before the time that the plan itself asked to be called at.
                wake = self.decide().requeue_after
                assert wake is None or wake > 0, (
                    f"asks to be called at once, for nothing: {self.log}"
                )
                self.now = min(end, self.now + timedelta(seconds=max(1.0, wake)) if wake else end)
        return writes

    def run_until(self, state: str, *, seconds: float = 600.0) -> None:
        """Runs until the rollout is in this state; fails where it does not get there."""
        end = self.now + timedelta(seconds=seconds)
        while self.state != state:
            self.step()
            assert self.now < end, f"not {state} but {self.state}: {self.log}"

    def step(self) -> None:
        """One pass and what the controllers make of it; time passes where nothing else did."""
        writes = sum(1 for _ in self.reconcile())
        self.check()
        if not self.settle_controllers() and not writes:
            wake = self.decide().requeue_after
            assert wake is not None, f"stands in {self.state} for ever: {self.status}"
            self.now += timedelta(seconds=max(1.0, wake))

    # What must hold

    def facts(self) -> Facts:
        """The cluster as it is now."""
        ready: dict[str, int] = {}
        for pod in self.caches["Pod"].all():
            good = any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]
            )
            ready[labels.revision_of(pod)] = ready.get(labels.revision_of(pod), 0) + good
        world = self.world()
        scaling = world.service.spec.scaling if world.service else None
        front = front_revision(world.front)
        reached = dict.fromkeys(world.reachable, 100)
        paths = [
            Path({front: 100}, reached, frozenset({front, *reached}), self._ages(0), 5.0),
        ]
        route = world.route
        if route is not None or self._left[1]:
            given = route.weights if route else {}
            named = (route.named if route else frozenset()) | set(self._carried)
            traffic = world.service.spec.traffic if world.service else None
            timeout = traffic.timeout_after.total_seconds() if traffic else 0.0
            rules = route.manifest["spec"]["rules"] if route else ()
            paths.append(
                Path(
                    given,
                    self._carried,
                    named,
                    self._ages(1),
                    5.0 + timeout,
                    tuple(map(backends_of, rules)),
                )
            )
        verdict = None
        if self.evidence.results and self.evidence.window == self._window():
            verdict = self.evidence.results[0].verdict
        return Facts(
            ready=ready,
            replicas={hash_: view.replicas for hash_, view in world.revisions.items()},
            paths=tuple(paths),
            has_gateway=route is not None,
            proven=self.evidence.proven,
            passed=frozenset(job.revision for job in world.jobs.values() if job.is_complete),
            verdict=verdict,
            bounds=(scaling.min_replicas, max(scaling.min_replicas, scaling.max_replicas))
            if scaling
            else (1, 1),
        )

    def _window(self) -> str:
        cursor = self.cursor
        return planner.window_of(cursor) if cursor else ""

    def _ages(self, path: int) -> dict[str, float]:
        return {name: (self.now - at).total_seconds() for name, at in self._left[path].items()}

    def check(self) -> None:
        """What must hold at any moment: clients reach a revision that can answer, if there is one."""
        front = self.caches[SERVICE].get("vision", "pizza")
        if front is None:
            return
        selected, facts = front_revision(front), self.facts()
        stable = self.status.get("stable", {}).get("revision")
        if facts.ready.get(stable or ""):
            assert facts.ready.get(selected), f"traffic goes to {selected}: {facts}, {self.log}"
        has_ready = any(facts.ready.values())
        deployment = self.caches[DEPLOYMENT].get("vision", f"pizza-{selected}")
        assert deployment or not has_ready, self.log


def make_result(verdict: Verdict) -> CheckResult:
    """The result of one check of errors."""
    value = {Verdict.PASS: "0.1%", Verdict.FAIL: "3.1%", Verdict.INCONCLUSIVE: "0.8%"}[verdict]
    words = {
        Verdict.PASS: f"errors {value} <= 1% (n=2207)",
        Verdict.FAIL: f"errors {value} > 1% (n=2207)",
        Verdict.INCONCLUSIVE: f"errors {value}, 12 of 300 samples",
    }
    samples = 12 if verdict is Verdict.INCONCLUSIVE else 2207
    return CheckResult("errors", verdict, value, "1%", samples, 300, False, words[verdict])
