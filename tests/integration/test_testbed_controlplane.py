"""The control-plane tier against itself: up, real controllers, a lost API server, and nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import netns, process
from testbed.cluster import Cluster
from testbed.process import wait_until

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
TOLERATIONS = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]


def run_testbed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "testbed", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def instance() -> Iterator[Cluster]:
    """An instance of these tests alone, as they break it."""
    name = f"self-{os.getpid()}"
    done = run_testbed("up", "--name", name)
    try:
        assert done.returncode == 0, done.stderr
        yield Cluster.load(name)
    finally:
        run_testbed("down", "--name", name)


def make_deployment(name: str, replicas: int) -> dict[str, object]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "tolerations": TOLERATIONS,
                    "initContainers": [
                        {"name": "fetch", "image": "x", "args": ["fetch", "--digest", "sha256:d1"]}
                    ],
                    "containers": [
                        {
                            "name": "server",
                            "image": "x",
                            "ports": [{"containerPort": 8080}],
                            "resources": {"limits": {"nvidia.com/gpu": "1"}},
                        }
                    ],
                },
            },
        },
    }


def make_pod(name: str, **says: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "annotations": {
                f"testbed.sluice.dev/{key.replace('_', '-')}": value for key, value in says.items()
            },
        },
        "spec": {
            "tolerations": TOLERATIONS,
            "initContainers": [{"name": "fetch", "image": "x"}],
            "containers": [{"name": "server", "image": "x"}],
        },
    }


def apply(cluster: Cluster, *objects: dict[str, object]) -> None:
    listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(listing))


def get(cluster: Cluster, *what: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cluster.kubectl("get", *what, "-o", "json").stdout)
    return found


def jsonpath(cluster: Cluster, path: str, *what: str) -> str:
    return cluster.kubectl("get", *what, "-o", f"jsonpath={path}").stdout


def test_up_again_changes_nothing_and_builds_nothing(instance):
    before = instance.processes
    done = run_testbed("up", "--name", instance.name)
    assert done.returncode == 0, done.stderr
    assert "build" not in done.stderr
    assert instance.processes == before


def test_a_deployment_becomes_ready_on_simulated_gpu_nodes_and_its_service_has_endpoints(instance):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    apply(instance, make_deployment("web", 3), service)
    wait_until(
        lambda: jsonpath(instance, "{.status.readyReplicas}", "deployment", "web") == "3",
        seconds=60,
        what="3 ready replicas",
    )
    slices = "{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}"
    wait_until(
        lambda: (
            len(
                jsonpath(
                    instance, slices, "endpointslices", "-l", "kubernetes.io/service-name=web"
                ).split()
            )
            == 3
        ),
        seconds=30,
        what="3 ready endpoints",
    )
    said = jsonpath(
        instance,
        "{.items[0].status.initContainerStatuses[0].state.terminated.message}",
        *("pods", "-l", "app=web"),
    )
    assert json.loads(said)["outcome"] == "Verified"
    assert json.loads(said)["digest"] == "sha256:d1"


@pytest.mark.parametrize(
    ("behaviour", "path", "want"),
    [
        ("never-ready", "{.status.phase}", "Running"),
        ("crash-loop", "{.status.containerStatuses[0].lastState.terminated.message}", "why"),
        ("fetch-failed", "{.status.initContainerStatuses[0].lastState.terminated.message}", "why"),
        ("fetch-hangs", "{.status.initContainerStatuses[0].state.running}", "startedAt"),
        (
            "image-pull-failed",
            "{.status.containerStatuses[0].state.waiting.reason}",
            "ImagePullBackOff",
        ),
    ],
)
def test_a_pod_that_says_it_fails(instance, behaviour, path, want):
    apply(instance, make_pod(behaviour, behaviour=behaviour, message="why"))
    wait_until(
        lambda: want in jsonpath(instance, path, "pod", behaviour), seconds=30, what=behaviour
    )
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    assert jsonpath(instance, ready, "pod", behaviour) == "False"


def test_a_pod_that_takes_its_time_is_not_ready_before_and_recovers_when_told(instance):
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    began = time.monotonic()
    apply(instance, make_pod("slow", load_time="3s"))
    wait_until(lambda: jsonpath(instance, ready, "pod", "slow") == "True", seconds=30, what="slow")
    assert time.monotonic() - began >= 3
    for behaviour, want in (("never-ready", "False"), ("ready", "True")):
        annotation = f"testbed.sluice.dev/behaviour={behaviour}"
        instance.kubectl("annotate", "--overwrite", "pod", "slow", annotation)
        wait_until(
            lambda want=want: jsonpath(instance, ready, "pod", "slow") == want,
            seconds=30,
            what=behaviour,
        )


def test_an_autoscaler_is_accepted_and_looked_after(instance):
    apply(instance, make_deployment("scaled", 1))
    instance.kubectl("autoscale", "deployment", "scaled", "--min=1", "--max=3", "--cpu=70%")
    wait_until(
        lambda: (
            jsonpath(
                instance, '{.status.conditions[?(@.type=="AbleToScale")].status}', "hpa", "scaled"
            )
            == "True"
        ),
        seconds=60,
        what="the autoscaler's condition",
    )


def test_the_audit_log_says_who_asked_for_what_with_which_client(instance):
    instance.kubectl("create", "configmap", "audited")

    def is_recorded() -> bool:
        for line in instance.audit_log.read_text().splitlines():
            entry = json.loads(line)
            reference = entry.get("objectRef", {})
            if reference.get("name") == "audited" and entry["verb"] == "create":
                return bool(
                    entry["user"]["username"] == "admin"
                    and reference["resource"] == "configmaps"
                    and entry["userAgent"].startswith("kubectl/")
                )
        return False

    wait_until(is_recorded, seconds=10, what="the audit log has the request")


def test_the_api_server_lost_and_restarted_keeps_objects_and_port(instance):
    instance.kubectl("create", "configmap", "kept")
    before = instance.processes["kube-apiserver"]
    instance.restart("kube-apiserver")
    after = instance.processes["kube-apiserver"]
    assert after.pid != before.pid
    assert after.argv == before.argv
    assert get(instance, "configmap", "kept")["metadata"]["name"] == "kept"


def test_the_same_kubeconfig_works_inside_the_namespace_and_pods_would_reach_the_server(instance):
    inside = instance.run_inside([str(instance.bin / "kubectl"), "get", "--raw", "/readyz"])
    assert inside.stdout == "ok"
    from_pods = f"--server={instance.server}"
    assert (
        instance.run_inside(
            [str(instance.bin / "kubectl"), from_pods, "get", "--raw", "/readyz"]
        ).stdout
        == "ok"
    )


def test_a_forwarded_port_answers_on_the_host(instance):
    port = instance.forward("etcd", "127.0.0.1", 2379)
    assert instance.forward("etcd", "127.0.0.1", 2379) == port
    done = subprocess.run(
        ["curl", "-s", f"http://127.0.0.1:{port}/health"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["health"] == "true"


def test_doctor_names_the_dead_and_up_repairs(instance):
    instance.kill("kwok")
    report = run_testbed("doctor", "--name", instance.name)
    assert report.returncode == 1
    assert any("kwok" in line and "DEAD" in line for line in report.stdout.splitlines())
    assert run_testbed("up", "--name", instance.name).returncode == 0
    assert run_testbed("doctor", "--name", instance.name).returncode == 0


def test_an_up_killed_in_the_middle_leaves_what_down_removes():
    name = f"killed-{os.getpid()}"
    up = subprocess.Popen(
        [sys.executable, "-m", "testbed", "up", "--name", name],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cluster = Cluster(name)
    wait_until(
        lambda: "kube-apiserver" in cluster.processes, seconds=60, what="the API server begins"
    )
    up.send_signal(signal.SIGKILL)
    up.wait()
    started = cluster.processes
    assert any(process.is_running(each) for each in started.values())
    assert run_testbed("down", "--name", name).returncode == 0
    assert not any(process.is_running(each) for each in started.values())
    assert not cluster.folder.exists()
    assert not netns.exists(name)


def test_down_leaves_no_process_no_namespace_no_folder_and_may_be_repeated(instance):
    started = instance.processes
    assert run_testbed("down", "--name", instance.name).returncode == 0
    assert not any(process.is_running(each) for each in started.values())
    assert not netns.exists(instance.name)
    assert not instance.folder.exists()
    assert run_testbed("down", "--name", instance.name).returncode == 0


def test_no_client_can_take_the_api_servers_port(cluster: Cluster) -> None:
    """While it was down, a client that tried again and again got the port for its own end."""
    answer = cluster.run_inside(["cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"])

    assert answer.stdout.split() == [str(cluster.api_port)]
