"""No client sees an error because somebody shipped a model: `make bench-zero-downtime`.

On a node tier of its own: version 1.0.0 serves, traffic runs at a steady rate, 1.1.0 is applied, the
operator is restarted in the middle of the move; from 10 s before until 30 s after the last old pod is
gone.  Last line of stdout: {"requests", "rate", "failed", …}; exit 1 unless failed is 0 of at least
3,000 at 50/s or more.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from examples.pizza import deploy
from testbed import images, install, local
from testbed.cluster import Cluster
from testbed.progress import Progress

NAMESPACE = "vision"
BEFORE_S, AFTER_S = 10.0, 30.0
LEAST_REQUESTS, LEAST_RATE = 3000, 50.0


def run(cluster: Cluster, rate: float, backend: str, progress: Progress) -> dict[str, object]:
    """The whole scenario on a node tier that is up."""
    from examples.pizza.__main__ import main as pizza

    with progress.step("train or take from the cache: both versions of the model"):
        if pizza(["build"]) != 0:
            raise RuntimeError("examples.pizza build failed")
    image = images.ensure(cluster, ["inference-cpu"], progress)["inference-cpu"]
    install.install_operator(cluster, progress)
    scene = Path(cluster.folder) / "scene.png"
    pizza(["scene", "--seed", "1", "--out", str(scene)])
    env = {"BACKEND": "fake"} if backend == "fake" else {}
    with progress.step("serve 1.0.0"):
        deploy.make_namespace(cluster, NAMESPACE)
        for version in ("1.0.0", "1.1.0"):
            deploy.publish(cluster, version)
            cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=deploy.make_version(version))
        apply_service(cluster, "1.0.0", image, env)
        deploy.wait_ready(cluster, NAMESPACE, "1.0.0")
        url = deploy.find_address(cluster, NAMESPACE)
        deploy.wait_answer(cluster, url, scene)
    with deploy.run_load(cluster, url, scene, rate) as load:
        with progress.step(f"traffic: {rate:g} requests/s"):
            time.sleep(BEFORE_S)
        with progress.step("move 1.0.0 -> 1.1.0, the operator restarted on the way"):
            began = time.monotonic()
            apply_service(cluster, "1.1.0", image, env)
            deploy.wait_for(
                lambda: deploy.list_pods(cluster, NAMESPACE, "1.1.0") or None, 60, "a pod of 1.1.0"
            )
            cluster.kubectl(
                *("delete", "pod", "-n", install.NAMESPACE, "--wait=false"),
                *install.operator_pods(cluster),
            )
            deploy.wait_ready(cluster, NAMESPACE, "1.1.0")
            deploy.wait_gone(cluster, NAMESPACE, "1.0.0")
            moved = time.monotonic() - began
        with progress.step(f"{AFTER_S:g} s more, and until there were {LEAST_REQUESTS} requests"):
            time.sleep(max(AFTER_S, LEAST_REQUESTS / rate + 5 - BEFORE_S - moved))
        report = load.stop()
    return {**report, "backend": backend, "move_s": round(moved, 1)}


def apply_service(cluster: Cluster, version: str, image: str, env: dict[str, str]) -> None:
    """The user's one act: the version in the spec."""
    manifest = deploy.make_service(version, image, env=env)
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=manifest)


def main() -> int:
    """Sets up, runs, cleans up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_downtime", description=__doc__)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second (default 60)")
    parser.add_argument("--backend", choices=["model", "fake"], default="model")
    parser.add_argument("--name", default="bench", help="instance of the testbed (default bench)")
    options = parser.parse_args()
    progress = Progress()
    cluster = Cluster(options.name)
    local.up(cluster, "node", progress)
    try:
        report = run(cluster, options.rate, options.backend, progress)
    finally:
        local.down(cluster, progress)
    print(json.dumps(report), flush=True)
    is_good = (
        report["failed"] == 0
        and int(str(report["requests"])) >= LEAST_REQUESTS
        and float(str(report["rate"])) >= LEAST_RATE
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
