"""The data plane of simulated pods: the traffic contract, and what only a simulation can be told to do."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import dataplane, process
from testbed.cluster import Cluster
from testbed.dataplane import DataPlane
from testbed.routes import GATEWAY_CLASS
from tests import traffic_contract
from tests.operator_process import OperatorProcess, install, write_kubeconfig
from tests.plane import Obj, Plane
from tests.space import SIMULATED
from tests.traffic_client import Client
from tests.traffic_site import GATEWAYS, Site, make_host, make_rule, read_samples, statuses
from tests.waiting import wait_for

pytestmark = pytest.mark.controlplane

SAYS = "testbed.sluice.dev"


def make_backend(name: str, replicas: int = 1, latency_ms: int = 0, **says: str) -> Obj:
    """A Deployment of simulated pods that behave as `says`."""
    labels = {"app": name, "sluice.dev/revision": name}
    server = {
        "name": "server",
        "image": "simulated",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [
            {"name": "MODEL_NAME", "value": "pizza"},
            {"name": "MODEL_VERSION", "value": "1.0.0"},
            {"name": "TESTBED_LATENCY_MS", "value": str(latency_ms)},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, **say(**says)["metadata"]},
                "spec": {"tolerations": SIMULATED, "containers": [server]},
            },
        },
    }


def make_gateway(plane: Plane, namespace: str, name: str, **annotations: str) -> tuple[str, str]:
    """A simulated Gateway for the routes of all namespaces; its namespace and name."""
    everyone = {"namespaces": {"from": "All"}}
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": everyone}
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, **say(**annotations)["metadata"]},
        "spec": {"gatewayClassName": GATEWAY_CLASS, "listeners": [listener]},
    }
    plane.call("POST", GATEWAYS.format(namespace), gateway)
    return namespace, name


@pytest.fixture
def site(cluster: Cluster, plane: Plane, data: DataPlane) -> Iterator[Site]:
    """A namespace of the test's own with a simulated Gateway in it."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    gateway = make_gateway(plane, name, "gateway")

    def make_unready(space: str, pod: str) -> None:
        plane.patch("Pod", space, pod, say(behaviour="never-ready"))

    yield Site(plane, Client(cluster.enter), name, gateway, make_backend, make_unready)
    plane.delete("Namespace", "", name)


def say(**says: str) -> Obj:
    """What tells a pod how to behave: as its change, from now on."""
    return {
        "metadata": {
            "annotations": {f"{SAYS}/{key.replace('_', '-')}": value for key, value in says.items()}
        }
    }


def deploy(site: Site, name: str, **says: str) -> None:
    """A backend whose pods behave as `says`; nothing is waited for."""
    deployment = make_backend(name, **says)
    deployment["metadata"]["namespace"] = site.namespace
    site.plane.create(deployment)


def find_pod(site: Site, name: str, phase: str = "Running") -> Obj:
    """The one pod of a backend, once it has an address."""

    def find() -> Obj | None:
        pods = site.pods(name)
        return pods[0] if pods and pods[0]["status"].get("phase") == phase else None

    return wait_for(lambda: find() or {}, what=f"the pod of {name} is {phase}")


def ask_pod(site: Site, pod: Obj, count: int = 1, **more: object) -> dict[int, int]:
    """Inference answers of a pod by status; 0 is a connection that was reset."""
    address = pod["status"]["podIP"]
    return statuses(site.client.send(address, 8080, count=count, **more))


# --- the contract ---


@pytest.mark.parametrize("check", traffic_contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Site], object], site: Site) -> None:
    check(site)


# --- pods ---


def test_a_pod_answers_as_the_model_server_does(site: Site) -> None:
    site.deploy("a")
    (pod,) = site.pods("a")
    assert site.get(pod, "/health").status == 200
    assert site.get(pod, "/ready").status == 200
    status = json.loads(site.get(pod, "/status").body)
    assert (status["state"], status["model"], status["revision"]) == ("ready", "pizza", "a")
    (answer,) = site.client.send(pod["status"]["podIP"], 8080)
    assert json.loads(answer.body)["predictions"][0]["label"] == "simulated"
    assert answer.headers["sluice-model"] == "pizza/1.0.0"
    for path, headers in (
        ("/health", {}),
        ("/nothing", {}),
        ("/predict", {"sluice-shadow": "true", "sluice-split": "1"}),
    ):
        (other,) = site.client.send(pod["status"]["podIP"], 8080, path, headers=headers)
        assert other.revision == "a"
    assert site.get(pod, "/predict").status == 405
    assert "sluice_inference_split_answers_total 0\n" in site.get(pod, "/metrics/rollout").body
    site.client.send(pod["status"]["podIP"], 8080, headers={"sluice-split": "1"})
    samples = site.get(pod, "/metrics/rollout").body
    assert read_samples(samples, "sluice_inference_answers_total") == {
        '{outcome="ok"}': 2,
        '{outcome="client_error"}': 1,
        '{outcome="error"}': 0,
        '{outcome="fallback"}': 0,
    }
    assert "sluice_inference_answer_seconds_count 2\n" in samples
    assert "sluice_inference_split_answers_total 1\n" in samples


def test_a_pod_errs_and_is_slow_as_told_and_may_be_told_otherwise(site: Site) -> None:
    deploy(site, "bad", error_percent="5", latency_ms="30")
    pod = find_pod(site, "bad")
    name = pod["metadata"]["name"]
    answers = site.client.send(pod["status"]["podIP"], 8080, count=1000, at_once=50)
    failed = sum(one.status == 500 for one in answers)
    # Five standard deviations of a fair choice: sqrt(1000 * 0.05 * 0.95) is 6.9.
    assert 15 < failed < 85
    assert min(one.seconds for one in answers) >= 0.03
    counts = read_samples(site.get(pod, "/metrics/rollout").body, "sluice_inference_answers_total")
    assert counts['{outcome="error"}'] == failed

    site.plane.patch("Pod", site.namespace, name, say(error_percent="100", latency_ms="0"))
    wait_for(lambda: ask_pod(site, pod, 20) == {500: 20}, what="every answer is an error")
    site.plane.patch("Pod", site.namespace, name, say(error_percent="a lot"))

    def complains() -> bool:
        (answer,) = site.client.send(pod["status"]["podIP"], 8080)
        return "TESTBED_ERROR_PERCENT is 'a lot'; allowed is a number from 0 to 100" in answer.body

    wait_for(complains, what="what is wrong with the instruction is said")


def test_a_pod_answers_while_its_process_lives(site: Site) -> None:
    deploy(site, "a", stop_time="5s")
    pod = find_pod(site, "a")
    name = pod["metadata"]["name"]
    wait_for(lambda: ask_pod(site, pod) == {200: 1}, what="it answers")

    site.plane.patch("Pod", site.namespace, name, say(behaviour="never-ready"))
    wait_for(lambda: ask_pod(site, pod) == {503: 1}, what="it is not ready, and says so")
    assert site.get(pod, "/ready").status == 503

    site.plane.patch("Pod", site.namespace, name, say(behaviour="ready"))
    wait_for(lambda: ask_pod(site, pod) == {200: 1}, what="it answers again")
    site.plane.patch("Pod", site.namespace, name, say(behaviour="crash-loop"))
    wait_for(lambda: ask_pod(site, pod) == {0: 1}, what="its process is gone")

    site.plane.patch("Pod", site.namespace, name, say(behaviour="ready"))
    wait_for(lambda: ask_pod(site, pod) == {200: 1}, what="another process answers")
    assert site.answers_of(pod) <= 20, "it counts from zero"
    site.plane.delete("Pod", site.namespace, name)
    wait_for(lambda: site.get(pod, "/ready").status == 503, what="it is draining")
    assert ask_pod(site, pod) == {200: 1}
    wait_for(lambda: ask_pod(site, pod) == {0: 1}, what="it is gone")


def test_a_pod_that_dies_resets_what_it_was_answering(site: Site) -> None:
    site.deploy("slow", latency_ms=20_000)
    (pod,) = site.pods("slow")
    under_way = site.client.begin(pod["status"]["podIP"], 8080)
    wait_for(
        lambda: json.loads(site.get(pod, "/status").body)["in_flight"] == 1, what="it is asked"
    )
    name = pod["metadata"]["name"]
    site.plane.patch("Pod", site.namespace, name, say(behaviour="crash-loop"))
    (answer,) = under_way.result()
    assert answer.status == 0
    assert answer.seconds < 15


# --- routes ---


def test_a_change_is_accepted_before_it_has_its_effect(site: Site) -> None:
    slow = make_gateway(site.plane, site.namespace, "slow", lag_ms="4000")
    site = replace(site, gateway=slow)
    assert site.address
    host = make_host()
    site.deploy("a")
    site.deploy("b")
    site.route(host, [make_rule({"a": 1})])
    site.wait_answers(host, lambda one: one.revision == "a", what="a has everything")
    site.route(host, [make_rule({"b": 1})])
    wait_for(
        lambda: site.condition(host, "Accepted").get("status") == "True", what="it is accepted"
    )
    assert site.ask(host)[0].revision == "a"
    site.wait_answers(host, lambda one: one.revision == "b", what="b has everything")


def test_what_is_not_simulated_is_refused_by_its_path(site: Site) -> None:
    host = make_host()
    rule = make_rule({"a": 1})
    rule["matches"][0]["path"]["value"] = "/v2"
    site.route(host, [rule])
    found = wait_for(lambda: site.condition(host, "Accepted"), what="the route is judged")
    assert (found["status"], found["reason"]) == ("False", "UnsupportedValue")
    assert found["message"].startswith("spec.rules[0].matches[0].path.value is '/v2'")
    assert statuses(site.ask(host, 5)) == {404: 5}


# --- the process ---


def test_a_killed_data_plane_comes_back_at_the_same_addresses(site: Site, data: DataPlane) -> None:
    first = f"{GATEWAYS.format(site.namespace)}/{site.gateway[1]}"
    assert site.address
    site = replace(site, gateway=make_gateway(site.plane, site.namespace, "other"))
    host = make_host()
    site.deploy("a")
    site.route(host, [make_rule({"a": 1})])
    site.wait_answers(host, lambda one: one.revision == "a", what="the route works")
    before = site.address
    (pod,) = site.pods("a")
    started = find_start(site, pod)
    # A lower address is free now, and whoever counted anew would take it.
    site.plane.call("DELETE", first)
    data.restart()
    site.wait_answers(host, lambda one: one.revision == "a", what="it works again")
    assert site.address == before
    assert find_start(site, pod) > started, "other counters have another start"


def find_start(site: Site, pod: Obj) -> float:
    """When the pod's counters began, in Unix time."""
    for line in site.get(pod, "/metrics/rollout").body.splitlines():
        if line.startswith("sluice_inference_start_time_seconds "):
            return float(line.partition(" ")[2])
    raise AssertionError("no start time")


def test_it_goes_on_when_the_api_server_is_killed(site: Site, cluster: Cluster) -> None:
    host = make_host()
    site.deploy("a")
    site.route(host, [make_rule({"a": 1})])
    site.wait_answers(host, lambda one: one.revision == "a", what="the route works")
    cluster.restart("kube-apiserver")
    site.deploy("b")
    site.route(host, [make_rule({"b": 1})])
    site.wait_answers(host, lambda one: one.revision == "b", what="it follows changes")


def test_it_is_the_instances_own_and_another_lag_starts_it_anew(
    cluster: Cluster, data: DataPlane
) -> None:
    before = cluster.processes[dataplane.NAME]
    assert process.is_running(before)
    assert dataplane.start(cluster).cluster.processes[dataplane.NAME] == before
    dataplane.start(cluster, lag_ms=10)
    changed = cluster.processes[dataplane.NAME]
    assert not process.is_running(before)
    assert process.is_running(changed)
    dataplane.start(cluster)


PROBE = """
import json, socket, sys, urllib.request
api, pod, gateway, host = sys.argv[1:]
socket.create_connection((api.split("/")[2].split(":")[0], int(api.rsplit(":", 1)[1])), 5).close()
print(urllib.request.urlopen(f"http://{pod}:8080/ready", timeout=5).status)
request = urllib.request.Request(f"http://{gateway}/predict", b"{}", {"Host": host})
print(urllib.request.urlopen(request, timeout=5).status)
"""


def test_an_ordinary_process_inside_reaches_api_server_pods_and_gateway(
    site: Site, cluster: Cluster
) -> None:
    host = make_host()
    site.deploy("a")
    site.route(host, [make_rule({"a": 1})])
    site.wait_answers(host, lambda one: one.revision == "a", what="the route works")
    (pod,) = site.pods("a")
    words = [sys.executable, "-c", PROBE, cluster.server, pod["status"]["podIP"]]
    words += [site.address, host]
    done = subprocess.run(
        [*cluster.enter, *words],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == ["200", "200"], done.stderr


def test_the_operator_works_inside(cluster: Cluster, tmp_path: Path) -> None:
    install(cluster)
    kubeconfig = write_kubeconfig(cluster, tmp_path / "kubeconfig")
    operator = OperatorProcess(kubeconfig, tmp_path, enter=cluster.enter)
    operator.start()
    try:
        operator.wait_until_working()
        namespaces = (Path(f"/proc/{operator.pid}/ns/net"), Path(cluster.netns))
        inside, instance = (os.stat(path).st_ino for path in namespaces)
        assert inside == instance
        assert inside != os.stat("/proc/self/ns/net").st_ino
        assert operator.stop() == 0
    finally:
        operator.kill()
