"""A shadow through a real Envoy: requests are mirrored, both revisions asked, and their answers compared.

The clients' own requests are what is compared: nothing here asks a revision by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.fake import deploy
from examples.pizza.deploy import KIND, Load, find_gateway, run_load, wait_answer
from testbed import images, install
from testbed.cluster import Cluster
from testbed.progress import Progress
from tests.waiting import wait_for

pytestmark = pytest.mark.node

RATE = 20.0
ROLLOUT = {
    "strategy": "Canary",
    "shadow": {"percent": 50, "hold": "5s", "minAgreementPercent": 95},
    "canary": {"steps": [{"weight": 50, "hold": "1s"}, {"weight": 100}]},
    "deadline": "3m",
}


@dataclass(frozen=True)
class Served:
    """One service with a first version, in a namespace of the test's own."""

    cluster: Cluster
    namespace: str
    name: str
    image: str
    digest: str
    picture: Path

    def ship(self, version: str, label: str) -> None:
        """Apply a version whose answers name this label."""
        service = deploy.make_service(
            version,
            self.image,
            name=self.name,
            env={"FAKE_LABEL": label},
            rollout=ROLLOUT,
            replicas=1,
        )
        deploy.apply(
            self.cluster, self.namespace, [deploy.make_version(version, self.digest), service]
        )

    def read(self, *what: str) -> Any:
        found = self.cluster.kubectl("get", *what, "-n", self.namespace, "-o", "json")
        return json.loads(found.stdout)

    def wait(self, is_so: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """The service's status once it is so."""

        def look() -> dict[str, Any]:
            status: dict[str, Any] = self.read(KIND, self.name).get("status", {})
            rollout = status.get("rollout", {})
            assert is_so(status), f"{rollout.get('state')}: {status.get('message')}"
            return status

        return wait_for(look, what=what, seconds=170)

    def wait_compared(self) -> dict[str, Any]:
        """The status while mirrored requests are compared, once some were."""

        def is_analysed(status: dict[str, Any]) -> bool:
            checks = status.get("rollout", {}).get("checks", [])
            return [check["name"] for check in checks] == ["shadow"]

        status = self.wait(is_analysed, "the check is there")
        candidate = status["candidate"]["revision"]
        wait_for(
            lambda: self.count(
                f"sluice.dev/compares={candidate}", 'sluice_compare_answers_total{outcome="agree"}'
            ),
            what="answers that agree",
        )
        return status

    def read_events(self) -> list[str]:
        """What was told of the service."""
        return [item.get("note", "") for item in self.read("events.events.k8s.io")["items"]]

    def comparers(self) -> list[str]:
        """Everything there is of comparers."""
        objects = self.read("deployments,services,pods", "-l", "sluice.dev/compares")["items"]
        return sorted(f"{one['kind']} {one['metadata']['name']}" for one in objects)

    def count(self, pods: str, sample: str) -> float:
        """The sum of a counter over the pods of this label; `sample` is how its lines begin."""
        total = 0.0
        for pod in self.read("pods", "-l", pods)["items"]:
            url = f"http://{pod['status']['podIP']}:8080/metrics/rollout"
            text = self.cluster.run_inside(["curl", "--silent", "--fail", url]).stdout
            found = [line for line in text.splitlines() if line.startswith(sample)]
            assert found, text
            total += sum(float(line.rpartition(" ")[2]) for line in found)
        return total

    def answers(self, revision: str) -> float:
        """Inference answers that a revision's pods have counted for its checks."""
        return self.count(f"sluice.dev/revision={revision}", "sluice_inference_answers_total{")

    def run_clients(self) -> AbstractContextManager[Load]:
        """Clients of the gateway, for as long as the block lasts."""
        url = find_gateway(self.cluster)
        return run_load(self.cluster, url, self.picture, RATE, host=f"{self.name}.example.com")


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    """The inference image's reference; the operator runs in the cluster."""
    progress = Progress()
    found = images.ensure(cluster, ["inference-cpu"], progress)["inference-cpu"]
    install.install_operator(cluster, progress)
    return found


@pytest.fixture
def served(cluster: Cluster, image: str, namespace: str, tmp_path: Path) -> Served:
    name = f"fake-{namespace.rpartition('-')[2]}"  # two tests' hosts must differ
    picture = deploy.write_image(tmp_path / "small.png")
    served = Served(cluster, namespace, name, image, deploy.publish(cluster), picture)
    served.ship("1.0.0", "cat")
    served.wait(lambda status: status.get("phase") == "Healthy", "1.0.0 serves")
    wait_answer(cluster, find_gateway(cluster), picture, host=f"{name}.example.com")
    return served


def test_a_candidate_that_answers_otherwise_gets_no_client(served: Served) -> None:
    with served.run_clients() as load:
        load.wait_more(50)
        served.ship("1.1.0", "dog")
        end = served.wait(
            lambda status: status["rollout"]["state"] == "Rejected", "1.1.0 is rejected"
        )
        load.wait_more(50)
        report = load.stop()

    assert "1.1.0: Agreement 0.00% < 95.00%" in end["message"]
    assert end["stable"]["version"] == "1.0.0"
    ending = end["history"][0]
    assert (ending["version"], ending["outcome"], ending["weight"]) == ("1.1.0", "Rejected", 0)
    assert report["failed"] == 0, report["failures"]
    assert len(report["revisions"]) == 1
    wait_for(lambda: not served.comparers(), what="the comparer is gone", seconds=90)


def test_a_candidate_that_answers_alike_goes_on(served: Served) -> None:
    with served.run_clients() as load:
        load.wait_more(50)
        served.ship("1.1.0", "cat")
        during = served.wait_compared()
        candidate, stable = during["candidate"], during["stable"]
        assert during["rollout"]["step"] == 1
        assert (candidate["version"], candidate["weight"]) == ("1.1.0", 0)
        assert "step 1/3 shadow 50%: " in during["message"]
        # What the comparer asks is nobody's answer to a client.
        assert served.answers(candidate["revision"]) == 0
        assert served.answers(stable["revision"]) > 0
        assert len(served.comparers()) == 3
        end = served.wait(
            lambda status: status["stable"]["version"] == "1.1.0" and status["phase"] == "Healthy",
            "1.1.0 serves",
        )
        load.wait_more(50)
        report = load.stop()

    passed = [note for note in served.read_events() if note.startswith("step 1 passed: ")]
    assert passed, end["message"]
    assert passed[0].startswith("step 1 passed: Agreement 100.00% ≥ 95.00% (n=")
    assert report["failed"] == 0, report["failures"]
    assert len(report["revisions"]) == 2
    wait_for(lambda: not served.comparers(), what="the comparer is gone", seconds=90)
