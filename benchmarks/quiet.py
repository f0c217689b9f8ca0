"""bench-quiet: a converged cluster costs no writes, and neither does a restart of the operator.

    python -m benchmarks.quiet [--seconds 60] [--services 20] [--instance NAME]

Counted from the API server's audit log: what the operator's own user wrote in the services' namespace, so
that the Lease and, on a shared instance, other people's services are left out.  The resourceVersions of
everything it looks after must stay as they were.  The last line of stdout is one JSON object; exit code 1
where something was written.
"""

import argparse
import json
import sys
import time
import uuid

from benchmarks.instance import make_cluster, make_operator, make_plane, say
from testbed.cluster import Cluster
from tests.audit import AuditLog
from tests.operator_process import USER, OperatorProcess
from tests.plane import CHILD_KINDS, Plane
from tests.space import Space
from tests.waiting import wait_for

KINDS = (*CHILD_KINDS, "InferenceService", "ModelVersion")
# After a restart: how long without a write counts as the end of whatever it might have done.
AFTER_RESTART_S = 15.0


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quiet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to look (60)")
    parser.add_argument("--services", type=int, default=20, help="how many services (20)")
    parser.add_argument("--instance", default="", help="a running testbed; default a fresh one")
    options = parser.parse_args()
    with (
        make_cluster("bench-quiet", options.instance) as cluster,
        make_operator(cluster) as operator,
        make_plane(cluster) as plane,
    ):
        space = Space(plane, f"quiet-{uuid.uuid4().hex[:6]}")
        space.make()
        try:
            converge(space, operator, options.services)
            result = measure(cluster, plane, space, operator, options.seconds)
        finally:
            space.remove()
    print(json.dumps({"services": options.services, **result}))
    return 1 if result["writes"] or result["writes_after_restart"] else 0


def converge(space: Space, operator: OperatorProcess, services: int) -> None:
    """Services that have come to rest, half of them with an autoscaler."""
    operator.start()
    operator.wait_until_working()
    space.register("1.0.0")
    for number in range(services):
        space.create(space.service(f"quiet-{number}").scales(1, 1 + number % 2))
    for number in range(services):
        space.wait_ready("1.0.0", f"quiet-{number}", seconds=180)
    say(f"{services} services are Ready")
    # Who uses a version may be told a minute late; a new process owes nobody that minute.
    operator.restart()

    def is_told() -> bool:
        version = space.plane.read("ModelVersion", space.name, "pizza-spatial-1.0.0")
        used = version["status"]["usedBy"]
        roles = {service["role"] for service in used["services"]}
        return used["count"] == services and roles == {"Stable"}

    wait_for(is_told, what="the version names its users", seconds=90)


def measure(
    cluster: Cluster, plane: Plane, space: Space, operator: OperatorProcess, seconds: float
) -> dict[str, object]:
    """Looks on, restarts the operator, looks on again."""
    wait_until_silent(cluster, space)
    versions = read_versions(plane, space)
    audit = AuditLog(cluster.audit_log, USER)
    say(f"looking on for {seconds:g} s")
    time.sleep(seconds)
    writes = list(audit.writes(space.name))
    moved = [name for name, found in read_versions(plane, space).items() if versions[name] != found]
    say("restarting the operator")
    operator.restart()
    time.sleep(AFTER_RESTART_S)
    after = audit.writes(space.name)[len(writes) :]
    for request in (*writes, *after):
        say(f"written: {request}")
    return {
        "seconds": seconds,
        "writes": len(writes),
        "writes_after_restart": len(after),
        "changed": moved,
    }


def wait_until_silent(cluster: Cluster, space: Space) -> None:
    """Return once the operator has written nothing for three seconds."""
    audit = AuditLog(cluster.audit_log, USER)
    last = [0, time.monotonic()]

    def is_silent() -> bool:
        if (count := len(audit.writes(space.name))) != last[0]:
            last[:] = [count, time.monotonic()]
        return time.monotonic() - last[1] > 3.0

    wait_for(is_silent, what="the operator is silent", seconds=60)


def read_versions(plane: Plane, space: Space) -> dict[str, str]:
    """The resourceVersion of everything that the operator writes."""
    return {
        f"{kind} {item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for kind in KINDS
        for item in plane.list(kind, space.name)
        # Other people's: the simulated cluster has no metrics, and its autoscaler says so.
        if kind != "HorizontalPodAutoscaler"
    }


if __name__ == "__main__":
    sys.exit(main())
