"""bench-converge: how fast many services come to rest, and what they cost once they have.

    python -m benchmarks.converge --services 200 [--instance NAME]

On a control plane of its own with simulated nodes, one replica per service.  `floor_s` is what the plane
itself needs in the same run: the same children and statuses, written bare by 32 concurrent server-side
applies, until all pods are Ready.  The last line of stdout is one JSON object; it judges nothing.
"""

import argparse
import json
import math
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from benchmarks.instance import make_cluster, make_operator, make_plane, say
from testbed import kwok
from testbed.cluster import Cluster
from tests.audit import AuditLog
from tests.operator_process import USER, OperatorProcess
from tests.plane import APPLY, CHILD_KINDS, Following, Obj, Plane, place
from tests.space import Space, find_condition, make_env
from tests.waiting import wait_for

WRITERS = 32
PER_NAMESPACE = 100
PODS_PER_NODE = 110
CHANGES = 100
IDLE_S = 30.0
RESYNC_S = 20.0
# Two writes of status: on the way, and Ready.
STATUSES = 2


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.converge", description=__doc__)
    parser.add_argument("--services", type=int, default=200, help="how many services (200)")
    parser.add_argument("--instance", default="", help="a running testbed; default a fresh one")
    options = parser.parse_args()
    with (
        make_cluster("bench-converge", options.instance) as cluster,
        make_operator(cluster) as operator,
        make_plane(cluster) as plane,
    ):
        result = Converge(cluster, plane, operator, options.services).run()
    print(json.dumps(result))
    return 0


class Converge:
    """The benchmark's phases, each adding its keys to the result."""

    def __init__(
        self, cluster: Cluster, plane: Plane, operator: OperatorProcess, services: int
    ) -> None:
        self._cluster = cluster
        self._plane = plane
        self._operator = operator
        self._count = services
        self._result: dict[str, Any] = {"services": services}
        self._spaces = [
            Space(plane, f"bench-{number}") for number in range(math.ceil(services / PER_NAMESPACE))
        ]
        self._names = [
            (self._spaces[number // PER_NAMESPACE], f"s-{number:05d}") for number in range(services)
        ]

    def run(self) -> dict[str, Any]:
        """All phases in order."""
        # Twice the pods while versions change, and room to spare.
        nodes = math.ceil(2.2 * self._count / PODS_PER_NODE) + 4
        kwok.ensure_nodes(self._cluster, nodes)
        self._note(floor_s=self._measure_floor())
        self._make_services()
        self._measure_cold_start()
        self._wait_told()
        self._measure_idle()
        self._measure_restart()
        self._measure_changes()
        self._measure_storm()
        self._measure_resync()
        return self._result

    def _note(self, **values: float) -> None:
        rounded = {key: round(value, 3) for key, value in values.items()}
        self._result.update(rounded)
        say(" ".join(f"{key}={value}" for key, value in rounded.items()))

    # --- the floor ---

    def _measure_floor(self) -> float:
        """The children and statuses of one service, as the operator made them, once per service."""
        sample = Space(self._plane, "sample")
        sample.make()
        sample.register("1.0.0")
        self._operator.start()
        sample.create(sample.service("sample"))
        status = sample.wait_ready("1.0.0", "sample")["status"]
        self._operator.stop()
        bodies = [
            make_bare(child) for kind in CHILD_KINDS for child in sample.children(kind, "sample")
        ]
        sample.remove()
        spaces = [Space(self._plane, f"floor-{number}") for number in range(len(self._spaces))]
        for space in spaces:
            space.make()
        placed = [
            (spaces[number // PER_NAMESPACE].name, name)
            for number, (_, name) in enumerate(self._names)
        ]
        self._spread(
            [(space, Space(self._plane, space).service(name).obj()) for space, name in placed],
            lambda item: self._plane.create(item[1]),
        )
        say(f"floor: {len(bodies)} children and {STATUSES} statuses for {self._count} services")
        began = time.monotonic()
        self._spread(placed, lambda item: self._write_bare(*item, bodies, status))
        wait_for(
            lambda: self._count_ready_pods(spaces) >= self._count,
            what="the floor's pods",
            seconds=1800,
        )
        took = time.monotonic() - began
        for space in spaces:
            space.remove()
        for space in (sample, *spaces):
            wait_for(
                lambda space=space: self._plane.get("Namespace", "", space.name) is None,
                what=f"{space.name} is gone",
                seconds=900,
            )
        return took

    def _write_bare(self, namespace: str, name: str, bodies: list[Obj], status: Obj) -> None:
        for body in bodies:
            text = json.dumps(body).replace("sample", name)
            self._apply(namespace, json.loads(text))
        for _ in range(STATUSES):
            about: Obj = {
                "apiVersion": "sluice.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": name},
                "status": status,
            }
            self._apply(namespace, about, "/status")

    def _apply(self, namespace: str, body: Obj, sub: str = "") -> None:
        path = place(body["kind"], namespace, body["metadata"]["name"]) + sub
        self._plane.call("PATCH", f"{path}?fieldManager=floor&force=true", body, APPLY)

    def _count_ready_pods(self, spaces: Iterable[Space]) -> int:
        return sum(
            (find_condition(pod, "Ready") or {}).get("status") == "True"
            for space in spaces
            for pod in self._plane.list("Pod", space.name)
        )

    # --- the operator ---

    def _make_services(self) -> None:
        for space in self._spaces:
            space.make()
            space.register("1.0.0", "1.1.0")
        self._spread(self._names, lambda item: item[0].create(item[0].service(item[1])))
        say(f"{self._count} services are there, no operator yet")

    def _measure_cold_start(self) -> None:
        audit = AuditLog(self._cluster.audit_log, USER)
        with Readiness(self._plane) as readiness:
            began = time.monotonic()
            self._operator.start()
            readiness.wait(self._count, "1.0.0")
        moments = sorted(moment - began for moment in readiness.moments.values())
        self._note(
            first_ready_s=moments[0],
            cold_start_s=moments[-1],
            cold_start_per_floor=moments[-1] / self._result["floor_s"],
            cpu_s=self._operator.cpu_seconds,
        )
        self._wait_silent()
        writes = audit.writes()
        self._note(
            requests_per_service=len(audit.requests()) / self._count,
            writes_per_service=len(writes) / self._count,
            peak_rss_mb=self._operator.memory_mb("VmHWM"),
        )
        kinds: dict[str, int] = {}
        for request in writes:
            key = f"{request.verb} {request.right[2]} {request.code}"
            kinds[key] = kinds.get(key, 0) + 1
        say(f"writes: {json.dumps(dict(sorted(kinds.items(), key=lambda item: -item[1])))}")

    def _wait_told(self) -> None:
        """Who uses a version may be told a minute late; return once it is."""

        def is_told() -> bool:
            for space in self._spaces:
                version = space.plane.read("ModelVersion", space.name, "pizza-spatial-1.0.0")
                roles = {service["role"] for service in version["status"]["usedBy"]["services"]}
                assert roles == {"Stable"}, f"{space.name}: {roles}"
            return True

        wait_for(is_told, what="the versions name their users", seconds=120)
        self._wait_silent()

    def _measure_idle(self) -> None:
        before, began = self._operator.cpu_seconds, time.monotonic()
        time.sleep(IDLE_S)
        busy = self._operator.cpu_seconds - before
        self._note(
            idle_cpu_pct=100 * busy / (time.monotonic() - began), rss_mb=self._operator.memory_mb()
        )

    def _measure_restart(self) -> None:
        """From the start of the process until it has nothing more to do."""
        self._operator.stop()
        audit = AuditLog(self._cluster.audit_log, USER)
        began = time.monotonic()
        self._operator.start()
        self._operator.wait_until_working()
        wait_for(lambda: self._read_depth() == 0, what="the queue is empty")
        took = time.monotonic() - began
        self._wait_silent()
        self._note(restart_s=took, restart_writes=len(audit.writes()))

    def _measure_changes(self) -> None:
        """One change after the other: from the change to the Deployment it leads to."""
        count = min(CHANGES, self._count)
        arrived: dict[str, float] = {}

        def note(type_: str, obj: Obj) -> None:
            if type_ == "ADDED":
                service = obj["metadata"]["labels"].get("sluice.dev/service", "")
                arrived.setdefault(service, time.monotonic())

        delays = []
        with self._plane.following("Deployment", tell=note):
            for space, name in self._names[:count]:
                began = time.monotonic()
                space.change({"runtime": {"env": make_env(NOTE="changed")}}, name)
                wait_for(lambda name=name: name in arrived, what=f"a Deployment of {name}")
                delays.append(arrived[name] - began)
        delays.sort()
        self._note(
            change_p50_s=delays[len(delays) // 2],
            change_p99_s=delays[math.ceil(0.99 * len(delays)) - 1],
        )
        for space, name in self._names[:count]:
            space.wait_ready("1.0.0", name, seconds=300)

    def _measure_storm(self) -> None:
        """Every service gets another version at once."""
        self._wait_silent()
        with Readiness(self._plane) as readiness:
            began = time.monotonic()
            self._spread(self._names, lambda item: item[0].move("1.1.0", item[1]))
            readiness.wait(self._count, "1.1.0")
        self._note(
            storm_s=max(readiness.moments.values()) - began,
            storm_peak_rss_mb=self._operator.memory_mb("VmHWM"),
        )

    def _measure_resync(self) -> None:
        """Every object looked over once costs nothing."""
        self._wait_silent()
        self._operator.stop()
        resyncing = self._operator.with_options(resync=RESYNC_S, audit_interval=RESYNC_S)
        resyncing.start()
        try:
            resyncing.wait_until_working()
            self._wait_silent()
            audit = AuditLog(self._cluster.audit_log, USER)
            time.sleep(RESYNC_S * 1.5)
            self._note(writes_per_resync=len(audit.writes()))
        finally:
            resyncing.stop()

    def _read_depth(self) -> float:
        port = next(line["port"] for line in self._operator.lines() if line["message"] == "probes")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith(("workqueue_depth{", "workqueue_depth "))
        )

    def _wait_silent(self) -> None:
        """Return once the operator has written nothing for five seconds."""
        audit = AuditLog(self._cluster.audit_log, USER)
        last: list[float] = [0, time.monotonic()]

        def is_silent() -> bool:
            if (count := len(audit.writes())) != last[0]:
                last[:] = [count, time.monotonic()]
            return time.monotonic() - last[1] > 5.0

        wait_for(is_silent, what="the operator is silent", seconds=600)

    def _spread(self, items: Iterable[Any], do: Any) -> None:
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in pool.map(do, items):
                pass


class Readiness:
    """When each service became Ready with a version, as a watch tells it."""

    def __init__(self, plane: Plane) -> None:
        self.moments: dict[str, float] = {}
        self._version = ""
        self._latest: dict[str, Obj] = {}
        self._lock = threading.Lock()
        self._following = Following(plane, "InferenceService", tell=self._look)
        self._seen: dict[tuple[str, str], float] = {}

    def __enter__(self) -> "Readiness":
        self._following.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._following.__exit__(*reason)

    def _look(self, _: str, obj: Obj) -> None:
        status = obj.get("status", {})
        ready = find_condition(obj, "Ready") or {}
        if ready.get("status") != "True":
            return
        name = f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
        key = name, status.get("stable", {}).get("version", "")
        with self._lock:
            self._seen.setdefault(key, time.monotonic())
            self._latest[name] = obj

    def wait(self, count: int, version: str) -> None:
        """Return once `count` services are Ready with `version`; `.moments` then has when."""
        told = [0]

        def is_done() -> bool:
            if self._following.failure is not None:
                raise self._following.failure
            with self._lock:
                self.moments = {
                    name: moment for (name, found), moment in self._seen.items() if found == version
                }
            if len(self.moments) >= told[0] + 100:
                told[0] = len(self.moments)
                say(f"{told[0]} services are Ready with {version}")
            assert len(self.moments) >= count, f"{len(self.moments)} of {count}"
            return True

        wait_for(is_done, what=f"all services are Ready with {version}", seconds=3600)


def make_bare(child: Obj) -> Obj:
    """What one would write to make such a child: without its owner and what the server added."""
    metadata = child["metadata"]
    kept = {key: child[key] for key in ("apiVersion", "kind", "data", "revision") if key in child}
    if "spec" in child:
        added = {"clusterIP", "clusterIPs"}
        kept["spec"] = {key: value for key, value in child["spec"].items() if key not in added}
    named = {key: metadata[key] for key in ("name", "labels", "annotations") if key in metadata}
    named.get("annotations", {}).pop("deployment.kubernetes.io/revision", None)
    return kept | {"metadata": named}


if __name__ == "__main__":
    sys.exit(main())
