"""A service's world in memory, for thousands of runs of the pure core: observe -> plan -> effects.

It stands in for the API server and the controllers behind it only as far as the core looks at them
(children, pods, endpoints).  What it assumes of the real ones is tested against them in
`tests/integration`.  Every write is one step, and a run may be cut before any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice import labels, status
from sluice.actions import Apply, Delete, front_revision
from sluice.caches import INFERENCE_SERVICE, MODEL_VERSION, Caches, project_slice
from sluice.observe import observe
from sluice.plan import Plan, plan
from sluice.reconcilers import is_moved
from sluice.world import DEPLOYMENT, SERVICE, Policy, World

POLICY = Policy(drain_lag_seconds=5.0, revision_history=3)
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FETCH_FAILED = (
    '{"outcome":"Failed","reason":"FileCorrupt","message":"model.onnx: sha256 is 9f, the manifest says 1b",'
    '"permanent":true}'
)


class Simulation:
    """`behaves` says of each version how its pods do: ready (default), never, corrupt, unschedulable."""

    def __init__(self, service: dict[str, Any], *versions: dict[str, Any]) -> None:
        self.caches = Caches()
        self.now = START
        self.behaves: dict[str, str] = {}
        self.short: dict[str, int] = {}  # of a version: how many of its pods may be ready at most
        self.log: list[str] = []
        self.events: list[str] = []
        self._version = 100
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
        if old and kind == INFERENCE_SERVICE and "status" not in obj:
            obj["status"] = old.get("status", {})
        self.caches[kind].upsert(obj)

    def remove(self, kind: str, name: str) -> None:
        obj = self.caches[kind].get("vision", name)
        assert obj is not None, f"{kind} {name} is not there"
        self._version += 1
        gone = copy.deepcopy(obj)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self.caches[kind].remove(gone)

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
        front = self.caches[SERVICE].get("vision", "pizza")
        if front is not None:
            made = self._make_slice(front)
            found = self.caches["EndpointSlice"].get("vision", "pizza-slice")
            if found is None or found["pods"] != project_slice(made)["pods"]:
                self.put("EndpointSlice", made)
        return self._version != before

    def _make_pod(self, name: str, deployment: dict[str, Any], number: int) -> dict[str, Any]:
        template = deployment["spec"]["template"]
        version = template["metadata"]["labels"][labels.VERSION]
        behaviour = self.behaves.get(version, "ready")
        if number >= self.short.get(version, number + 1):
            behaviour = "unschedulable"
        status: dict[str, Any] = {
            "phase": "Pending",
            "podIP": "",
            "conditions": [
                {"type": "Ready", "status": "True" if behaviour == "ready" else "False"},
                {"type": "PodScheduled", "status": "True"},
            ],
            "initContainerStatuses": [],
            "containerStatuses": [],
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
        return observe(self.caches, self.service)

    def decide(self) -> Plan:
        return plan(self.world(), self.now, POLICY)

    def reconcile(self) -> Iterator[str]:
        """One pass, a write at a time; what is not drawn from it has not happened."""
        world = self.world()
        decided = plan(world, self.now, POLICY)
        if is_moved(world, decided):
            yield from self._write_status(status.summarize(world, decided, None, self.now))
        for action in decided.actions:
            match action:
                case Apply(kind, manifest):
                    yield self._note(f"apply {kind} {manifest['metadata']['name']}")
                    self.put(kind, manifest)
                case Delete(kind, observed):
                    yield self._note(f"delete {kind} {observed['metadata']['name']}")
                    self.remove(kind, observed["metadata"]["name"])
        if decided.is_preparing:
            return
        after = status.summarize(self.world(), decided, None, self.now)
        if after != self.status:
            yield from self._write_status(after)

    def reconcile_all(self) -> Iterator[None]:
        """One whole pass for each value drawn."""
        while True:
            for _ in self.reconcile():
                pass
            yield

    def _write_status(self, after: dict[str, Any]) -> Iterator[str]:
        yield self._note(f"status {after['phase']}")
        self.events += [f"{e.type} {e.reason}" for e in status.tell(self.status, after)]
        service = copy.deepcopy(self.service)
        service["status"] = after
        self.put(INFERENCE_SERVICE, service)

    def _note(self, text: str) -> str:
        self.log.append(text)
        return text

    def run(self, *, seconds: float = 30.0, crash_at: int | None = None) -> int:
        """Runs for so long in simulated time; `crash_at` cuts before that write and starts anew.

        Gives the number of writes. The invariants of the house are checked after each of them.
        """
        writes = 0
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            before = writes
            for _ in self.reconcile():
                if writes == crash_at:
                    writes += 1
                    break  # killed before the write; everything not in the cluster is forgotten
                writes += 1
            self.check()
            if not self.settle_controllers() and writes == before:
                # Nothing happens before the time that the plan itself asked to be called at.
                wake = self.decide().requeue_after
                self.now = min(end, self.now + timedelta(seconds=max(1.0, wake)) if wake else end)
        return writes

    def check(self) -> None:
        """What must hold at any moment: clients reach a revision that can answer, if there is one."""
        front = self.caches[SERVICE].get("vision", "pizza")
        if front is None:
            return
        selected = front_revision(front)
        ready = {
            labels.revision_of(pod)
            for pod in self.caches["Pod"].all()
            if any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]
            )
        }
        stable = self.status.get("stable", {}).get("revision")
        if stable in ready:
            assert selected in ready, f"traffic goes to {selected}, ready are {ready}: {self.log}"
        assert self.caches[DEPLOYMENT].get("vision", f"pizza-{selected}") or not ready, self.log
