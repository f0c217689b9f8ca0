"""Rollouts through a real Envoy: the traffic contract, a canary, a bad version, and blue/green.

Each is a short sample of `benchmarks/rollout_traffic.py`, which has the numbers.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.attribution import count_failures
from benchmarks.cast import Fake
from benchmarks.theatre import ERRORS, KIND, Story, Theatre, make_canary
from benchmarks.traffic import Traffic, run_traffic
from examples.fake import deploy
from testbed import gateway, images, prometheus
from testbed.cluster import Cluster
from tests import traffic_contract
from tests.e2e.conftest import Stage
from tests.plane import Obj, Plane
from tests.traffic_client import Client
from tests.traffic_site import Site
from tests.waiting import wait_for

pytestmark = pytest.mark.node

RATE = 60.0
CLOSED = "/tmp/closed"  # a file in a pod of the contract: while it is there, the pod is not ready


@pytest.fixture(scope="module")
def plane(cluster: Cluster) -> Iterator[Plane]:
    plane = Plane(cluster.kubeconfig)
    yield plane
    plane.close()


# --- what our routes rely on ---


@pytest.fixture
def site(cluster: Cluster, plane: Plane, namespace: str, tmp_path: Path) -> Site:
    """Pods of the real server in a namespace of the test's own, behind the testbed's Envoy."""
    image = images.ensure(cluster, ["inference-cpu"])["inference-cpu"]
    picture = deploy.write_image(tmp_path / "small.png").read_bytes()

    def make_backend(name: str, replicas: int, latency_ms: int) -> Obj:
        return make_server(image, name, replicas, latency_ms)

    def make_unready(space: str, pod: str) -> None:
        cluster.kubectl("exec", pod, "-n", space, "--", "touch", CLOSED)
        wait_for(lambda: not is_ready(plane.read("Pod", space, pod)), what=f"{pod} is not ready")

    return Site(
        plane,
        Client(cluster.enter),
        namespace,
        (gateway.NAMESPACE, gateway.NAME),
        make_backend,
        make_unready,
        json.dumps({"inputs": [{"image": base64.b64encode(picture).decode()}]}),
    )


def make_server(image: str, name: str, replicas: int, latency_ms: int) -> Obj:
    """A Deployment of the model server with its test double."""
    variables = {
        "BACKEND": "fake",
        "FAKE_LATENCY_MS": str(latency_ms),
        "MODEL_PATH": "/tmp",
        "MODEL_NAME": "fake",
        "MODEL_VERSION": "1.0.0",
        "SLUICE_REVISION": name,
    }
    server = {
        "name": "server",
        "image": image,
        "command": ["sluice-inference"],
        "args": ["serve"],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "ports": [{"name": "http", "containerPort": 8080}],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "readinessProbe": {
            "exec": {"command": ["test", "!", "-e", CLOSED]},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "timeoutSeconds": 10,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [server],
                },
            },
        },
    }


def is_ready(pod: Obj) -> bool:
    said = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return said.get("Ready") == "True"


@pytest.mark.parametrize("check", traffic_contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Site], object], site: Site) -> None:
    check(site)


# --- rollouts ---


@pytest.fixture
def theatre(stage: Stage, plane: Plane, namespace: str) -> Iterator[Theatre]:
    """A service of the test's own, led by the operator in the cluster."""
    cast = Fake(service=f"fake-{namespace.rpartition('-')[2]}")  # two tests' hosts must differ
    cast.publish(stage.cluster)
    story = Story(cast.service)
    with plane.following(KIND, namespace, story.tell):
        yield Theatre(stage.cluster, plane, namespace, stage.image, cast, story)


@pytest.fixture
def traffic(theatre: Theatre, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Makes traffic of the service's clients, once there is something to ask."""
    image = deploy.write_image(tmp_path / "small.png")

    def begin() -> Any:
        return run_traffic(
            theatre.cluster, theatre.cast.host, image, RATE, tmp_path / "answers.tsv"
        )

    return begin


def serve_first(theatre: Theatre, **rollout: Any) -> str:
    """The first version; its revision."""
    revision = theatre.ship("1.0.0", **rollout)
    theatre.wait_state("Complete", revision)
    theatre.story.wait(lambda one: one.status.get("phase") == "Healthy", "Healthy")
    return revision


def list_history(theatre: Theatre) -> list[tuple[str, str]]:
    return [(one["version"], one["outcome"]) for one in theatre.story.last.status["history"]]


def expect_no_failure_of_ours(traffic: Traffic, *candidates: str) -> None:
    failures = count_failures(traffic.stop(), candidates)
    assert failures.by_sluice == 0, failures.ours.most_common(5)


def test_a_canary_takes_over_and_a_bad_one_is_rolled_back(
    theatre: Theatre, traffic: Callable[[], Any]
) -> None:
    rollout = make_canary((50, 1), (100, 0))
    rollout["analysis"]["minSamples"] = 100
    first = serve_first(theatre, **rollout)
    with traffic() as running:
        running.wait(first, 50)
        second = theatre.ship("1.1.0", **rollout)
        assert theatre.wait_state("Complete", second).stable["version"] == "1.1.0"
        bad = theatre.ship("1.2.0", {"FAKE_ERROR_PERCENT": "30"}, **rollout)
        end = theatre.wait_state("Rejected", bad)
        assert end.stable["revision"] == second
        assert end.rollout["reason"] == "AnalysisFailed"
        assert "ErrorRate" in end.status["message"]
        asked = time.time()
        wait_for(lambda: running.answers[-1].sent > asked + 1, what="a second of answers")
        late = [one.revision for one in running.answers if one.sent > asked]
        assert set(late) == {second}
        expect_no_failure_of_ours(running, bad)
        answers = running.answers
    assert {one.revision for one in answers} == {first, second, bad}
    assert [one for one in answers if one.revision != one.routed] == []
    assert list_history(theatre) == [
        ("1.2.0", "RolledBack"),
        ("1.1.0", "Serving"),
        ("1.0.0", "Replaced"),
    ]


@pytest.fixture
def prometheus_url(theatre: Theatre, plane: Plane, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes the namespace's pods, with the labels that the operator asks for.

    Debian's has no discovery of pods, so they are told to it by a file as they come and go.
    """
    folder = tmp_path / "prometheus"
    folder.mkdir()
    targets, groups = folder / "pods.json", dict[str, dict[str, Any]]()

    def tell(type_: str, pod: Obj) -> None:
        labels, address = pod["metadata"].get("labels", {}), pod["status"].get("podIP", "")
        groups.pop(pod["metadata"]["name"], None)
        if type_ != "DELETED" and address and "sluice.dev/revision" in labels:
            groups[pod["metadata"]["name"]] = {
                "targets": [f"{address}:8080"],
                "labels": {
                    "namespace": theatre.namespace,
                    "sluice_dev_service": labels["sluice.dev/service"],
                    "sluice_dev_revision": labels["sluice.dev/revision"],
                },
            }
        written = targets.with_suffix(".new")
        written.write_text(json.dumps(list(groups.values())))
        written.replace(targets)

    scrape = {
        "job_name": "sluice",
        "metrics_path": "/metrics/rollout",
        "file_sd_configs": [{"files": [targets.name]}],
    }
    configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / prometheus.CONFIGURATION).write_text(yaml.safe_dump(configuration))
    targets.write_text("[]")
    with plane.following("Pod", theatre.namespace, tell):
        yield prometheus.start(theatre.cluster, folder)
    prometheus.stop(theatre.cluster)


def test_a_prometheus_judges_a_canary(
    theatre: Theatre, traffic: Callable[[], Any], prometheus_url: str
) -> None:
    share = (
        'sum(increase(sluice_inference_answers_total{sluice_dev_revision="{{candidate}}",outcome="error"}[10s]))'
        ' / sum(increase(sluice_inference_answers_total{sluice_dev_revision="{{candidate}}"}[10s]))'
        " or vector(0)"
    )
    words = {"name": "words", "metric": "Query", "type": "Absolute", "query": share, "max": "0.1"}
    rollout = make_canary((50, 5), (100, 0), checks=(ERRORS, {**words, "dryRun": True}))
    rollout["analysis"] |= {
        "minSamples": 100,
        "source": {"type": "Prometheus", "prometheus": {"url": prometheus_url}},
    }
    first = serve_first(theatre, **rollout)
    with traffic() as running:
        running.wait(first, 50)
        second = theatre.ship("1.1.0", **rollout)
        assert theatre.wait_state("Complete", second).stable["version"] == "1.1.0"
        bad = theatre.ship("1.2.0", {"FAKE_ERROR_PERCENT": "50"}, **rollout)
        end = theatre.wait_state("Rejected", bad)
        assert end.rollout["reason"] == "AnalysisFailed"
        assert "ErrorRate" in end.status["message"]
        expect_no_failure_of_ours(running, bad)


def test_a_candidate_that_hangs_is_rolled_back_by_its_own_word(
    theatre: Theatre, traffic: Callable[[], Any]
) -> None:
    """It takes longer than the route waits, and would be given longer by its own limit."""
    theatre.cast.timeout = "2s"
    rollout = make_canary((50, 1), (100, 0))
    rollout["analysis"]["minSamples"] = 50
    first = serve_first(theatre, **rollout)
    with traffic() as running:
        running.wait(first, 50)
        bad = theatre.ship("1.1.0", {"FAKE_LATENCY_MS": "20000"}, **rollout)
        end = theatre.wait_state("Rejected", bad)
        assert end.rollout["reason"] == "AnalysisFailed"
        assert "ErrorRate" in end.status["message"]
        expect_no_failure_of_ours(running, bad)
        assert {one.status for one in running.answers if one.revision == bad} == {504}


def test_a_job_of_the_users_has_the_first_word(
    theatre: Theatre, traffic: Callable[[], Any], plane: Plane
) -> None:
    script = """\
import json, os, urllib.request
for url in (os.environ["SLUICE_CANDIDATE_URL"], os.environ["SLUICE_STABLE_URL"]):
    status = json.load(urllib.request.urlopen(url + "/status"))
    print(status["version"], status["revision"])
version = os.environ["MODEL_VERSION"]
raise SystemExit(f"{version} is not for us" if version == os.environ["UNWANTED"] else 0)
"""
    job = {
        "command": ["python", "-c", script],
        "env": [{"name": "UNWANTED", "value": "1.1.0"}],
        "timeout": "1m",
    }
    rollout = make_canary((50, 1), (100, 0), prePromotion={"job": job})
    rollout["analysis"]["minSamples"] = 100
    first = serve_first(theatre, **rollout)
    assert plane.list("Job", theatre.namespace) == []
    with traffic() as running:
        running.wait(first, 50)
        unwanted = theatre.ship("1.1.0", **rollout)
        end = theatre.wait_state("Rejected", unwanted)
        assert end.rollout["reason"] == "PrePromotionFailed"
        assert end.status["message"].count("1.1.0 is not for us") == 1, end.status["message"]
        good = theatre.ship("1.2.0", **rollout)
        assert theatre.wait_state("Complete", good).stable["version"] == "1.2.0"
        expect_no_failure_of_ours(running)
        assert running.count(unwanted) == 0
    wait_for(lambda: plane.list("Job", theatre.namespace) == [], what="no Job is left")
    assert list_history(theatre)[0] == ("1.2.0", "Serving")


def test_blue_green_waits_for_approval_and_goes_back_at_once(
    theatre: Theatre, traffic: Callable[[], Any]
) -> None:
    rollout: dict[str, Any] = {
        "strategy": "BlueGreen",
        "blueGreen": {"approval": "Required"},
        "bake": "10m",
        "deadline": "5m",
        "analysis": {"interval": "1s", "minSamples": 100, "checks": [ERRORS]},
    }
    first = serve_first(theatre, **rollout)
    with traffic() as running:
        second = theatre.ship("1.1.0", **rollout)
        paused = theatre.wait_state("Paused", second)
        assert paused.rollout["pausedReason"] == "WaitingForApproval"
        running.wait(first, 50)
        assert {one.revision for one in running.answers} == {first}

        theatre.ask("promote", second)
        assert theatre.wait_state("Baking", second).stable["revision"] == second
        running.wait(second, 100)
        theatre.ask("rollback", second, "previous")
        end = theatre.wait_state("Rejected", second)
        assert end.stable["revision"] == first
        expect_no_failure_of_ours(running)
    assert list_history(theatre)[:2] == [("1.0.0", "Serving"), ("1.1.0", "RolledBack")]
