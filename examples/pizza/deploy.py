"""Puts the pizza model onto a testbed: publishes artifacts, applies manifests, waits, asks.

What a user does with kubectl, in the order in which a user does it.  The demo, the end-to-end tests
and the benchmarks share it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from testbed.addons import REGISTRY
from testbed.cluster import Cluster
from testbed.environment import without_proxies
from testbed.netns import BRIDGE_ADDRESS

OUT = Path(__file__).parent / "out"
MODEL = "pizza-spatial"
SERVICE = "pizza"
KIND = "inferenceservices.sluice.dev"
HOST = "pizza.example.com"
GATEWAY = {"name": "eg", "namespace": "gateways", "sectionName": "http"}
_PYTHON_PATH = "operator:inference:."

T = TypeVar("T")


def publish(cluster: Cluster, version: str) -> str:
    """Pushes a built version's artifact into the instance's registry; gives the digest."""
    host = f"127.0.0.1:{cluster.forward('registry', BRIDGE_ADDRESS, 5000)}"
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "sluice_inference", "push"),
            str(OUT / version / "artifact"),
            f"oci://{host}/models/{MODEL}:{version}",
        ],
        env={
            **without_proxies(os.environ),
            "ARTIFACT_PLAIN_HTTP": host,
            "PYTHONPATH": _PYTHON_PATH,
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return answer.stdout.strip()


def make_version(version: str) -> str:
    """The ModelVersion manifest that training wrote, as YAML."""
    return (OUT / version / "modelversion.yaml").read_text()


def make_service(
    version: str,
    image: str,
    *,
    replicas: int = 2,
    env: Mapping[str, str] | None = None,
    rollout: Mapping[str, Any] | None = None,
    **runtime: Any,
) -> str:
    """The InferenceService manifest, as JSON (which is YAML); with a rollout, it is behind the gateway."""
    variables = {"ARTIFACT_PLAIN_HTTP": REGISTRY, **(env or {})}
    service: dict[str, Any] = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": SERVICE},
        "spec": {
            "model": {"name": MODEL, "version": version},
            "runtime": {
                "image": image,
                "runtimeClassName": "nvidia",
                "env": [{"name": name, "value": value} for name, value in variables.items()],
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                **runtime,
            },
            "scaling": {"minReplicas": replicas, "maxReplicas": replicas + 2},
        },
    }
    if rollout is not None:
        service["spec"] |= {
            "traffic": {"parentRefs": [GATEWAY], "hostnames": [HOST], "timeout": "10s"},
            "rollout": dict(rollout),
        }
    return json.dumps(service)


def make_namespace(cluster: Cluster, namespace: str) -> None:
    """A namespace that enforces the restricted pod security standard."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))


def wait_ready(cluster: Cluster, namespace: str, version: str, timeout: int = 180) -> None:
    """As a user waits: until this version is stable, and until the service is Ready."""
    for condition in (f"jsonpath={{.status.stable.version}}={version}", "condition=Ready"):
        cluster.kubectl(
            *("wait", f"--for={condition}", f"{KIND}/{SERVICE}", "-n", namespace),
            f"--timeout={timeout}s",
            seconds=timeout + 10,
        )


def find_gateway(cluster: Cluster) -> str:
    """The URL of the gateway, inside the instance's namespace; it knows the service by HOST."""
    address, port = cluster.gateway_address()
    return f"http://{address}:{port}"


def wait_phase(cluster: Cluster, namespace: str, phase: str, timeout: int = 180) -> None:
    """As a user waits for a word in the PHASE column."""
    cluster.kubectl(
        *("wait", f"--for=jsonpath={{.status.phase}}={phase}", f"{KIND}/{SERVICE}"),
        *("-n", namespace, f"--timeout={timeout}s"),
        seconds=timeout + 10,
    )


def find_address(cluster: Cluster, namespace: str) -> str:
    """The URL of the Service that clients use; it answers inside the instance's namespace."""
    answer = cluster.kubectl(
        "get", "service", SERVICE, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}"
    )
    return f"http://{answer.stdout}"


def wait_answer(
    cluster: Cluster, url: str, image: Path, timeout: float = 60.0, host: str = ""
) -> dict[str, Any]:
    """Asks until the Service answers 200: kube-proxy's first sync takes some seconds."""
    last = "nothing"

    def ask() -> dict[str, Any] | None:
        nonlocal last
        try:
            return classify(cluster, url, image, host=host)
        except subprocess.CalledProcessError as error:
            last = f"{error.stdout} {error.stderr}".strip()
            return None

    try:
        return wait_for(ask, timeout, f"an answer from {url}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}; the last try said: {last}") from None


def classify(
    cluster: Cluster, url: str, image: Path, route: str = "predict", host: str = ""
) -> dict[str, Any]:
    """One image over HTTP: the JSON answer.  `host` is what a gateway knows the service by."""
    answer = subprocess.run(
        [
            *cluster.enter,
            *("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10"),
            *(("-H", f"Host: {host}") if host else ()),
            *("-H", "Content-Type: image/png", "--data-binary", f"@{image}", f"{url}/{route}"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def wait_for(look: Callable[[], T | None], timeout: float, what: str) -> T:
    """Looks until something is there; TimeoutError says what was not."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{what}: not within {timeout:.0f} s")


def list_pods(cluster: Cluster, namespace: str, version: str) -> list[str]:
    """Names of the pods of one version, those on their way out too."""
    answer = cluster.kubectl(
        *("get", "pods", "-n", namespace, "-o", "name"),
        *("-l", f"sluice.dev/service={SERVICE},sluice.dev/version={version}"),
    )
    return answer.stdout.split()


def wait_gone(cluster: Cluster, namespace: str, version: str, timeout: float = 120.0) -> None:
    """Until the last pod of a version is gone."""

    def look() -> bool | None:
        return None if list_pods(cluster, namespace, version) else True

    wait_for(look, timeout, f"the end of {version}'s pods")


@dataclass
class Load:
    """A running client; `stop` ends it and gives its report (benchmarks/load.py)."""

    process: subprocess.Popen[str]
    count: Path
    report: dict[str, Any] | None = None

    def wait_more(self, answers: int, timeout: float = 120.0) -> None:
        """Until so many more requests have been answered."""
        goal = self._answers() + answers
        wait_for(lambda: self._answers() >= goal or None, timeout, f"{answers} more answers")

    def _answers(self) -> int:
        text = self.count.read_text() if self.count.exists() else ""
        return int(text or 0)

    def stop(self) -> dict[str, Any]:
        """Lets the last answers come in, then reports."""
        if self.report is None:
            out, _ = self.process.communicate(timeout=90)
            if not out:
                raise RuntimeError(f"the client ended with {self.process.returncode} and no report")
            self.report = json.loads(out.splitlines()[-1])
        return self.report


@contextmanager
def run_load(
    cluster: Cluster, url: str, image: Path, rate: float, host: str = ""
) -> Iterator[Load]:
    """Traffic for as long as the body runs, 900 s at most, inside the instance's namespace."""
    count = cluster.folder / "load-count"
    count.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *cluster.enter,
            *(sys.executable, "-m", "benchmarks.load", "--url", f"{url}/classify"),
            *("--count", str(count)),
            *(("--host", host) if host else ()),
            *(
                "--image",
                str(image),
                "--rate",
                str(rate),
                "--seconds",
                "900",
                "--until-stdin-closes",
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    load = Load(process, count)
    try:
        yield load
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
