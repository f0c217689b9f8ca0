"""`make demo`: the whole way once, told as a story.

A cluster from nothing, Sluice on it, a trained model in three versions, a picture in and a label out,
a canary through a real Envoy under load, and a bad version that the analysis takes back.  Ends with exit
0 only if no request failed.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from examples.pizza import deploy
from examples.pizza.__main__ import main as pizza
from testbed import images, install, local
from testbed.cluster import Cluster, name_from
from testbed.progress import Progress

NAMESPACE = "vision"
RATE = 60.0
CANARY = {
    "strategy": "Canary",
    "canary": {
        "steps": [{"weight": 25, "hold": "10s"}, {"weight": 50, "hold": "10s"}, {"weight": 100}]
    },
    "analysis": {
        "interval": "2s",
        "minSamples": 100,
        "checks": [
            {"name": "errors", "metric": "ErrorRate", "type": "Absolute", "maxPercent": "5"},
            {
                "name": "p95",
                "metric": "LatencyP95",
                "type": "RelativeToStable",
                "maxIncreasePercent": "150",
            },
        ],
    },
    "bake": "15s",
    "deadline": "3m",
    "quarantine": True,
}


class Story:
    """Prints what happens, with the time since the beginning, and the commands a user would type."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """One sentence."""
        print(f"\n▸ {time.monotonic() - self._began:4.0f}s  {text}", flush=True)

    def show(self, *command: str) -> None:
        """A kubectl command and what it prints."""
        print(f"\n  $ kubectl {' '.join(command)}")
        for line in self._cluster.kubectl(*command).stdout.splitlines():
            print(f"  {line}")
        sys.stdout.flush()


def run_node(cluster: Cluster, story: Story, progress: Progress) -> int:
    """The whole story, with real pods, a real gateway and real packets."""
    image = images.ensure(cluster, ["inference-cpu"], progress)["inference-cpu"]
    install.install_operator(cluster, progress, replicas=2)
    scene = cluster.folder / "scene.png"

    story.tell(
        "A platform team has installed Sluice. An ML engineer publishes three versions of a model."
    )
    deploy.make_namespace(cluster, NAMESPACE)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        digest = deploy.publish(cluster, version)
        print(f"  pizza-spatial {version}: {digest}")
        apply(cluster, deploy.make_version(version))
    print("\n  A held-out scene, never seen in training:")
    pizza(["scene", "--seed", "1", "--out", str(scene)])

    story.tell("pizza-spatial 1.0.0 is to be served, behind the gateway.")
    apply(cluster, deploy.make_service("1.0.0", image, rollout=CANARY))
    deploy.wait_ready(cluster, NAMESPACE, "1.0.0")
    story.show("get", f"modelversions.sluice.dev,{deploy.KIND},deployments,pods", "-n", NAMESPACE)
    url = deploy.find_gateway(cluster)
    deploy.wait_answer(cluster, url, scene, host=deploy.HOST)
    answers = {"1.0.0": ask(cluster, url, scene)}

    story.tell(f"Clients send {RATE:g} requests a second, and 1.1.0 is applied: a canary.")
    with deploy.run_load(cluster, url, scene, RATE, host=deploy.HOST) as load:
        load.wait_more(100)
        apply(cluster, deploy.make_service("1.1.0", image, rollout=CANARY))
        follow(cluster, story, "1.1.0", "Healthy")
        answers["1.1.0"] = ask(cluster, url, scene)

        story.tell("1.2.0 looks better on paper. It is applied too, and meets real traffic.")
        story.show("get", "modelversions.sluice.dev", "-n", NAMESPACE)
        apply(cluster, deploy.make_service("1.2.0", image, rollout=CANARY))
        follow(cluster, story, "1.1.0", "RolledBack")
        deploy.wait_gone(cluster, NAMESPACE, "1.2.0")
        load.wait_more(100)
        report = load.stop()
    story.show("get", f"modelversions.sluice.dev,{deploy.KIND},deployments,pods", "-n", NAMESPACE)
    answers["after the rollback"] = ask(cluster, url, scene)
    story.show(
        *("get", "events", "-n", NAMESPACE, "--sort-by=.metadata.creationTimestamp"),
        *("--field-selector", "involvedObject.kind=InferenceService"),
        *("-o", "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message"),
    )
    story.show(
        *("get", f"{deploy.KIND}/{deploy.SERVICE}", "-n", NAMESPACE, "-o"),
        "jsonpath={range .status.history[*]}{.version}{'\\t'}{.outcome}{'\\t'}{.weight}%{'\\t'}"
        "{.reason}{'\\n'}{end}",
    )

    story.tell("The end of the story:")
    for version, answer in answers.items():
        print(f"  {version}: {answer}")
    print(
        f"  while the versions changed: {report['requests']} requests at {report['rate']}/s, "
        f"{report['failed']} failed, p95 {report['p95_ms']} ms, "
        f"answered by {', '.join(f'{who}: {n}' for who, n in report['revisions'].items())}"
    )
    if report["failed"]:
        print(f"  {json.dumps(report['failures'], indent=2)}")
    return 1 if report["failed"] else 0


def follow(
    cluster: Cluster, story: Story, version: str, phase: str, timeout: float = 240.0
) -> None:
    """Shows the service's line whenever it changes, until it is as expected."""
    seen = ""

    def look() -> bool | None:
        nonlocal seen
        answer = cluster.kubectl("get", deploy.KIND, deploy.SERVICE, "-n", NAMESPACE)
        head, line = answer.stdout.splitlines()[:2]
        shown = line.rsplit(maxsplit=1)[0]  # its age changes all the time
        if shown != seen:
            print(
                f"  {line}" if seen else f"\n  $ kubectl get {deploy.KIND} -w\n  {head}\n  {line}"
            )
            sys.stdout.flush()
            seen = shown
        _, _, now, stable = [*line.split(), "", "", "", ""][:4]
        return True if (now, stable) == (phase, version) else None

    deploy.wait_for(look, timeout, f"{phase} with {version}")
    message = cluster.kubectl(
        *("get", f"{deploy.KIND}/{deploy.SERVICE}", "-n", NAMESPACE),
        *("-o", "jsonpath={.status.message}"),
    ).stdout
    print(f"  {message}")


def run_control_plane(cluster: Cluster, story: Story) -> int:
    """What can be shown without root: real controllers, simulated pods, no answers."""
    from examples.demo.outside import run_operator

    install.install_crds(cluster)
    with run_operator(cluster):
        deploy.make_namespace(cluster, NAMESPACE)
        for version in ("1.0.0", "1.1.0"):
            apply(cluster, deploy.make_version(version))
        for version in ("1.0.0", "1.1.0"):
            story.tell(f"pizza-spatial {version} is to be served.")
            apply(
                cluster,
                deploy.make_service(
                    version,
                    "sluice/inference:simulated",
                    tolerations=[{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
                ),
            )
            deploy.wait_ready(cluster, NAMESPACE, version)
            story.show(
                "get", f"modelversions.sluice.dev,{deploy.KIND},deployments,pods", "-n", NAMESPACE
            )
    story.tell(
        "Left out without root: the node, so no real pods, no images, no answers and no traffic. "
        "`sudo make demo` shows all of it."
    )
    return 0


def apply(cluster: Cluster, manifest: str) -> None:
    """kubectl apply, into the demo's namespace."""
    print(
        f"  {cluster.kubectl('apply', '-n', NAMESPACE, '-f', '-', input=manifest).stdout.strip()}"
    )


def ask(cluster: Cluster, url: str, scene: Path) -> str:
    """One picture through the Service: label, score, and the length of the embedding."""
    answer = deploy.classify(cluster, url, scene, host=deploy.HOST)
    (prediction,), (vector,) = answer["predictions"], answer["embeddings"]
    print(
        f"\n  $ curl -H 'Host: {deploy.HOST}' -H 'Content-Type: image/png' "
        f"--data-binary @{scene.name} {url}/predict"
    )
    print(f"  {answer['model']} {answer['version']}, embedding space {answer['space']}")
    said = f"{prediction['label']} ({float(prediction['score']):.3f}), embedding of {len(vector)} numbers"
    print(f"  {said}: [{', '.join(f'{number:.4f}' for number in vector[:4])}, …]")
    return said


def main() -> int:
    """Brings the testbed up, tells the story, takes the testbed down unless KEEP=1."""
    argparse.ArgumentParser(prog="make demo", description=__doc__).parse_args()
    progress = Progress()
    cluster = Cluster(name_from(os.environ) + "-demo")
    story = Story(cluster)
    has_node = os.geteuid() == 0
    story.tell(
        "A real Kubernetes on this machine" + ("." if has_node else ", without a node: not root.")
    )
    began = time.monotonic()
    local.up(cluster, "node" if has_node else "control-plane", progress)
    try:
        with progress.step("train the model, three versions (kept for the next time)"):
            if pizza(["build"]) != 0:
                return 1
        code = run_node(cluster, story, progress) if has_node else run_control_plane(cluster, story)
    finally:
        if os.environ.get("KEEP"):
            print(f'\n  kept: eval "$(python -m testbed env --name {cluster.name})"')
        else:
            local.down(cluster, progress)
    print(f"\ndemo: {'done' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
