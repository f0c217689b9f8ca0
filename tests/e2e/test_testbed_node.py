"""The node tier is a real node: real pods, packets, names, logs and images on the running instance.

Needs `python -m testbed up --tier node`; TESTBED_NAME says which instance.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testbed import addons, cgroup, images, kubelet, local, netns, nodespace
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.process import is_running, wait_until
from testbed.progress import Progress

pytestmark = pytest.mark.node

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
WEB = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080, bind='0.0.0.0')"


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster.load()


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    return images.ensure(cluster, ["operator"])["operator"]


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"node-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply(
        cluster,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=true", seconds=120)


@pytest.fixture(scope="module")
def web(cluster: Cluster, namespace: str, image: str) -> str:
    """The ClusterIP of a Service over two ready pods."""
    pod = make_pod_spec(image, WEB)
    pod["containers"][0] |= {
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }
    labels = {"app": "web"}
    apply(
        cluster,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
        },
    )
    cluster.kubectl(
        *("rollout", "status", "deployment/web", "-n", namespace, "--timeout=90s"), seconds=100
    )
    service = cluster.kubectl("get", "service", "web", "-n", namespace, "-o", "json").stdout
    return str(json.loads(service)["spec"]["clusterIP"])


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))


def make_pod_spec(image: str, code: str) -> dict[str, Any]:
    """A pod that the `restricted` Pod Security Standard lets in; it runs Python ``code``."""
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "main",
                "image": image,
                "command": ["python", "-c", code],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def make_gpu_pod(name: str, namespace: str, image: str, code: str, gpus: int) -> dict[str, Any]:
    spec = make_pod_spec(image, code)
    spec |= {"runtimeClassName": "nvidia", "restartPolicy": "Never"}
    spec["containers"][0]["resources"] = {"limits": {kubelet.GPU_RESOURCE: str(gpus)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def wait_for_success(cluster: Cluster, namespace: str, pod: str) -> None:
    def status() -> dict[str, Any]:
        told = cluster.kubectl("get", "pod", "-n", namespace, pod, "-o", "json").stdout
        found: dict[str, Any] = json.loads(told)["status"]
        return found

    wait_until(
        lambda: status()["phase"] in {"Succeeded", "Failed"},
        seconds=90,
        interval=0.5,
        what=f"the end of pod {pod}",
    )
    assert status()["phase"] == "Succeeded", status()


def run_in_web(cluster: Cluster, namespace: str, code: str) -> str:
    return cluster.kubectl(
        "exec", "-n", namespace, "deployment/web", "--", "python", "-c", code
    ).stdout.strip()


def allocatable_gpus(cluster: Cluster) -> int:
    node = json.loads(cluster.kubectl("get", "node", kubelet.NODE, "-o", "json").stdout)
    return int(node["status"]["allocatable"].get(kubelet.GPU_RESOURCE, "0"))


def last_heartbeat(cluster: Cluster) -> str:
    path = '{.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}'
    return cluster.kubectl("get", "node", kubelet.NODE, "-o", f"jsonpath={path}").stdout


def containers_of_web(cluster: Cluster, namespace: str) -> set[str]:
    pods = cluster.kubectl("get", "pods", "-n", namespace, "-l", "app=web", "-o", "json").stdout
    return {
        container["containerID"]
        for pod in json.loads(pods)["items"]
        for container in pod["status"]["containerStatuses"]
    }


def test_node_is_ready_and_advertises_gpus_as_a_gpu_node_does(cluster: Cluster) -> None:
    node = json.loads(cluster.kubectl("get", "node", kubelet.NODE, "-o", "json").stdout)
    conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert node["status"]["allocatable"][kubelet.GPU_RESOURCE] == str(kubelet.count_gpus())
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert not node["spec"].get("taints")


def test_restricted_pod_gets_one_gpu_and_its_output_can_be_read(
    cluster: Cluster, namespace: str, image: str
) -> None:
    code = (
        "import errno, json, kopf, os\n"
        "try: open('/here', 'w'); writable = True\n"
        "except OSError as error: writable = error.errno != errno.EROFS\n"
        "print(json.dumps({'gpus': os.environ['NVIDIA_VISIBLE_DEVICES'].split(','),"
        " 'user': os.getuid(), 'writable': writable}))"
    )
    apply(cluster, make_gpu_pod("gpu", namespace, image, code, 1))
    wait_for_success(cluster, namespace, "gpu")
    said = json.loads(cluster.kubectl("logs", "-n", namespace, "gpu").stdout)
    assert [each.startswith("GPU-") for each in said["gpus"]] == [True]
    assert said["user"] == 65532
    assert said["writable"] is False


def test_pod_asking_more_gpus_than_there_are_waits(
    cluster: Cluster, namespace: str, image: str
) -> None:
    apply(cluster, make_gpu_pod("greedy", namespace, image, "", kubelet.count_gpus() + 1))

    def why() -> str:
        found = cluster.kubectl("get", "pod", "greedy", "-n", namespace, "-o", "json").stdout
        conditions = json.loads(found)["status"].get("conditions", [])
        return " ".join(each.get("message", "") for each in conditions)

    wait_until(lambda: "Insufficient nvidia.com/gpu" in why(), seconds=30, what="the reason")
    cluster.kubectl("delete", "pod", "greedy", "-n", namespace)


def test_pod_outside_the_restricted_standard_is_refused(
    cluster: Cluster, namespace: str, image: str
) -> None:
    pod = make_gpu_pod("open", namespace, image, "", 1)
    pod["spec"]["securityContext"] = {}
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
        apply(cluster, pod)


def test_service_answers_inside_the_namespace(cluster: Cluster, web: str) -> None:
    # Endpoints reach kube-proxy some moments after the pods are ready.
    cluster.wait_for(f"http://{web}:80/", what="web", seconds=30)


def test_pod_reaches_itself_and_others_through_the_service(
    cluster: Cluster, namespace: str, web: str
) -> None:
    cluster.wait_for(f"http://{web}:80/", what="web", seconds=30)
    code = (
        "import urllib.request as r\n"
        "print({r.urlopen('http://web/', timeout=5).status for _ in range(20)})"
    )
    assert run_in_web(cluster, namespace, code) == "{200}"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        pytest.param("web", "", id="a Service by its short name"),
        pytest.param("kubernetes.default.svc.cluster.local", netns.API_SERVICE_ADDRESS, id="API"),
        pytest.param("registry.testbed", netns.BRIDGE_ADDRESS, id="the registry"),
    ],
)
def test_names_resolve_in_a_pod(
    cluster: Cluster, namespace: str, web: str, name: str, address: str
) -> None:
    code = f"import socket; print(socket.gethostbyname({name!r}))"
    assert run_in_web(cluster, namespace, code) == (address or web)


def test_unknown_names_do_not_exist(cluster: Cluster, namespace: str, web: str) -> None:
    code = (
        "import socket\n"
        "try: socket.gethostbyname('nothing.example')\n"
        "except socket.gaierror as error: print(error.errno == socket.EAI_NONAME)"
    )
    assert run_in_web(cluster, namespace, code) == "True"


@pytest.mark.usefixtures("web")
def test_usage_of_pods_can_be_read(cluster: Cluster, namespace: str) -> None:
    def is_known() -> bool:
        try:
            lines = cluster.kubectl("top", "pod", "-n", namespace, "--no-headers").stdout
        except ClusterError as error:
            if "not available yet" in str(error) or "No resources found" in str(error):
                return False
            raise
        return lines.count("web-") == 2

    # The second scrape after the pods' start, at a resolution of 15 s, gives the first figures.
    wait_until(is_known, seconds=90, interval=1, what="figures of both pods")


@pytest.mark.usefixtures("web")
def test_registry_takes_an_artifact_and_a_pod_reads_it(cluster: Cluster, namespace: str) -> None:
    port = cluster.forward("registry", netns.BRIDGE_ADDRESS, 5000)
    repository = f"http://127.0.0.1:{port}/v2/test/{namespace}"
    blob = b'{"some": "model"}'
    digest = push_blob(repository, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/json", "digest": digest, "size": len(blob)},
        "layers": [],
    }
    send("PUT", f"{repository}/manifests/v1", json.dumps(manifest).encode(), MANIFEST_TYPE)

    url = f"http://{addons.REGISTRY}/v2/test/{namespace}/blobs/{digest}"
    code = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=5).read().decode())"
    assert run_in_web(cluster, namespace, code) == blob.decode()


def test_kubelet_starting_again_keeps_pods_and_finds_its_gpus(
    cluster: Cluster, namespace: str, web: str, image: str
) -> None:
    before = containers_of_web(cluster, namespace)
    heard = last_heartbeat(cluster)
    cluster.restart("kubelet")
    cluster.wait_for(f"http://{web}:80/", what="web", seconds=30)
    # Admitted only once the device plugin has registered anew: until the new kubelet has spoken, the
    # node has the GPUs that the old one saw, and a pod that is bound to it then fails for good.
    code = "import os; print(os.environ['NVIDIA_VISIBLE_DEVICES'].count('GPU-'))"
    gpus = kubelet.count_gpus()
    wait_until(lambda: last_heartbeat(cluster) != heard, seconds=60, what="the new kubelet's word")
    wait_until(lambda: allocatable_gpus(cluster) == gpus, seconds=60, what="the GPUs")
    apply(cluster, make_gpu_pod("after", namespace, image, code, gpus))
    wait_for_success(cluster, namespace, "after")
    assert cluster.kubectl("logs", "-n", namespace, "after").stdout == f"{gpus}\n"
    assert containers_of_web(cluster, namespace) == before


def test_an_image_that_is_there_is_neither_built_nor_pushed_again(cluster: Cluster) -> None:
    first = images.ensure(cluster, ["operator"])
    said = io.StringIO()
    assert images.ensure(cluster, ["operator"], Progress(said)) == first
    assert said.getvalue() == ""


def test_another_node_lives_beside_and_leaves_nothing(cluster: Cluster) -> None:
    other = Cluster(f"{cluster.name}-other")
    said = Progress(io.StringIO())
    try:
        local.up(other, "node", said)
        assert allocatable_gpus(other) == allocatable_gpus(cluster) == kubelet.count_gpus()
        processes = list(other.processes.values())
    finally:
        local.down(other, said)

    assert [each.name for each in processes if is_running(each)] == []
    assert not other.folder.exists()
    assert not nodespace.data_folder(other.name).exists()
    assert not nodespace.run_folder(other.name).exists()
    assert not netns.path_of(other.name).exists()
    assert cgroup.folders_of(other.name) == []
    assert other.name not in Path("/proc/self/mountinfo").read_text()


def push_blob(repository: str, blob: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    upload = send("POST", f"{repository}/blobs/uploads/", b"", "application/octet-stream")
    separator = "&" if "?" in upload else "?"
    send("PUT", f"{upload}{separator}digest={digest}", blob, "application/octet-stream")
    return digest


def send(method: str, url: str, body: bytes, media_type: str) -> str:
    """Send ``body``; the Location of the answer."""
    answer = httpx.request(method, url, content=body, headers={"Content-Type": media_type})
    answer.raise_for_status()
    return str(answer.headers.get("Location", ""))
