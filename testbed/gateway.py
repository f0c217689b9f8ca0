"""The gateway of the node tier: Envoy Gateway with a real Envoy, in pods of namespace ``gateways``.

HTTPRoutes of every namespace may attach to Gateway ``eg`` there.  Both programs come in one image
that is made without a builder.  Which routes there are is decided elsewhere.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from testbed import addons, build, containerd, imagearchive, manifests, process
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.progress import Progress
from testbed.scratch import make_scratch

NAMESPACE = "gateways"
CLASS = "envoy"
NAME = "eg"
PORT = 80
LOGS = f"kubectl logs -n {NAMESPACE} --all-containers -l app.kubernetes.io/name"

_CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
_PROGRAMS = ("envoy", "envoy-gateway")
_KINDS = "envoy-gateway-kinds"


def components() -> list[str]:
    """What has to be built or fetched for the gateway."""
    return [*_PROGRAMS, _KINDS]


def ensure_image(programs: dict[str, Path], progress: Progress) -> Path:
    """The archive of the image with both programs, made where the cache lacks it.

    Its name, ``KEY.tar``, follows from the programs and this machine's C library, which Envoy needs.
    """
    files = {f"usr/local/bin/{each}": programs[each] for each in _PROGRAMS}
    libraries = {str(p).lstrip("/"): p for p in imagearchive.find_libraries(programs["envoy"])}
    # What a cached program is, its folder says.
    digest = hashlib.sha256("".join(programs[each].parent.name for each in _PROGRAMS).encode())
    for name, path in libraries.items():
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    key = digest.hexdigest()[:16]
    archive = build.cache_root() / "gateway" / f"{key}.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with build.locked("gateway-image"):
        if not archive.exists():
            # Moved to its place whole, so that a killed run leaves nothing that looks finished.
            with (
                progress.step("image of the gateway (once)"),
                make_scratch(archive.parent, ".making") as scratch,
            ):
                part = scratch / archive.name
                imagearchive.write(part, {**files, **libraries}, reference_of(archive))
                part.rename(archive)
    return archive


def reference_of(archive: Path) -> str:
    """What pods call the image in ``archive``."""
    return f"{addons.REGISTRY}/testbed/gateway:{archive.stem}"


def install(cluster: Cluster, programs: dict[str, Path], archive: Path) -> None:
    """Bring image, kinds, keys and objects onto the instance; its pods start once the node is Ready."""
    image = reference_of(archive)
    containerd.import_image(cluster, archive, image, origin=archive.name)
    manifests.apply_kinds(cluster, _KINDS, programs[_KINDS])
    settings, objects = make_settings(image), make_objects(image)
    manifests.apply(cluster, "gateway-namespace", yaml.safe_dump(make_namespace()))
    _make_keys(cluster)
    manifests.apply(cluster, "gateway", yaml.safe_dump_all([settings, *objects], width=1000))


def wait(cluster: Cluster) -> None:
    """Return once the Gateway is Programmed and Envoy answers, and offer it on the host."""
    process.wait_until(
        lambda: bool(_find_address(cluster)),
        seconds=180,
        interval=0.3,
        what=f"Gateway {NAME} in namespace {NAMESPACE} Programmed (log: {LOGS})",
    )
    address = _find_address(cluster)
    url = f"http://{address}:{PORT}/"
    ask = ["curl", "--silent", "--max-time", "2", "--output", "/dev/null"]
    ask += ["--write-out", "%{http_code}", url]
    # Without a route, 404 is Envoy's own answer.
    process.wait_until(
        lambda: cluster.run_inside(ask).stdout in ("200", "404"),
        seconds=60,
        interval=0.1,
        what=f"an answer of the gateway at {url} (log: {LOGS}=envoy)",
    )
    cluster.offer_gateway(address, PORT)


def _find_address(cluster: Cluster) -> str:
    """The address of Envoy's Service; empty until the Gateway is Programmed."""
    found = cluster.kubectl("get", "gateway", NAME, "-n", NAMESPACE, "-o", "json").stdout
    status = json.loads(found).get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    addresses = status.get("addresses", [])
    if conditions.get("Programmed") != "True" or not addresses:
        return ""
    return str(addresses[0]["value"])


def _make_keys(cluster: Cluster) -> None:
    """Have Envoy Gateway make the keys that it and Envoy know each other by; keeps those there."""
    done = cluster.run_inside(
        [
            *("env", f"ENVOY_GATEWAY_NAMESPACE={NAMESPACE}"),
            *(str(cluster.bin / "envoy-gateway"), "certgen", "--disable-topology-injector"),
        ]
    )
    if done.returncode != 0:
        raise ClusterError(f"envoy-gateway certgen: {(done.stderr or done.stdout).strip()[-500:]}")


def make_namespace() -> dict[str, Any]:
    """The namespace of the Gateway and of all pods behind it."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def make_settings(image: str) -> dict[str, Any]:
    """Envoy Gateway's own configuration."""
    settings = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": _CONTROLLER},
        "provider": {
            "type": "Kubernetes",
            "kubernetes": {
                # There is only one, which need not wait for a lease.
                "leaderElection": {"disable": True},
                "shutdownManager": {"image": image},
                "proxyTopologyInjector": {"disabled": True},
            },
        },
        "logging": {"level": {"default": "info"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "envoy-gateway", "namespace": NAMESPACE},
        "data": {"envoy-gateway.yaml": yaml.safe_dump(settings)},
    }


def make_objects(image: str) -> list[dict[str, Any]]:
    """What runs Envoy Gateway, what it is to make of Envoy, and the Gateway itself."""
    account = {"name": "envoy-gateway", "namespace": NAMESPACE}
    labels = {"app.kubernetes.io/name": "envoy-gateway"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "testbed-envoy-gateway"},
            "subjects": [{"kind": "ServiceAccount", **account}],
            # Which rights it needs is its maker's business, and nothing here depends on it.
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            # Envoy asks for this very name.
            "metadata": account,
            "spec": {"selector": labels, "ports": [{"name": "grpc", "port": 18000}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": account,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _make_controller(image)},
            },
        },
        _make_proxy(image),
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {
                "controllerName": _CONTROLLER,
                "parametersRef": {
                    "group": "gateway.envoyproxy.io",
                    "kind": "EnvoyProxy",
                    "name": "envoy",
                    "namespace": NAMESPACE,
                },
            },
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "gatewayClassName": CLASS,
                "listeners": [
                    {
                        "name": "http",
                        "protocol": "HTTP",
                        "port": PORT,
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
    ]


def _make_controller(image: str) -> dict[str, Any]:
    def probe(path: str, **more: int) -> dict[str, Any]:
        probe = {"httpGet": {"path": path, "port": 8081}, "periodSeconds": 1}
        return {**probe, "timeoutSeconds": 5, **more}

    return {
        "serviceAccountName": "envoy-gateway",
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "envoy-gateway",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["envoy-gateway", "server", "--config-path=/config/envoy-gateway.yaml"],
                "env": [
                    {"name": "ENVOY_GATEWAY_NAMESPACE", "value": NAMESPACE},
                    {"name": "KUBERNETES_CLUSTER_DOMAIN", "value": "cluster.local"},
                ],
                "startupProbe": probe("/healthz", failureThreshold=60),
                "readinessProbe": probe("/readyz", failureThreshold=30),
                # Without it, it weighs next to nothing, and changed routes wait for busy pods.
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "securityContext": {
                    "runAsUser": 65532,
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "config", "mountPath": "/config", "readOnly": True},
                    {"name": "certs", "mountPath": "/certs", "readOnly": True},
                    {"name": "wasm", "mountPath": "/var/lib/eg/wasm"},
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": "envoy-gateway"}},
            {"name": "certs", "secret": {"secretName": "envoy-gateway"}},
            {"name": "wasm", "emptyDir": {}},
        ],
    }


def _make_proxy(image: str) -> dict[str, Any]:
    """How Envoy runs: nothing outside needs its address, and it outlasts a shortage of CPU."""
    # It is the only one behind its Service, so without it every new connection is refused. Envoy
    # Gateway has one answer later than a second take it out, and three restart it: a machine that
    # is merely slow then fails clients. These take 30 s and a minute for that. Both containers need
    # them: the pod is as ready as its worse one, and a shutdown-manager that ends drains Envoy.
    probes = {
        # The first answer is not waited for ten seconds.
        "startupProbe": {"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 120},
        "readinessProbe": {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6},
        "livenessProbe": {"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }
    containers = [{"name": each, **probes} for each in ("envoy", "shutdown-manager")]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyProxy",
        "metadata": {"name": "envoy", "namespace": NAMESPACE},
        "spec": {
            "provider": {
                "type": "Kubernetes",
                "kubernetes": {
                    "envoyService": {"type": "ClusterIP"},
                    "envoyDeployment": {
                        "container": {
                            "image": image,
                            # Its weight against the pods behind it, which ask for 50m to 100m each.
                            "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}},
                        },
                        "patch": {"type": "StrategicMerge", "value": patch},
                    },
                },
            },
            # An Envoy that goes takes no new work for these five seconds, in which kube-proxy learns
            # of it, and gives what runs ten.
            "shutdown": {"minDrainDuration": "5s", "drainTimeout": "10s"},
        },
    }
