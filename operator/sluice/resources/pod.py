"""The pod template of a revision: `docs/contract.md`, seen from the operator.

Rendered once, when a revision is first seen; afterwards the ControllerRevision's copy is the truth.
"""

import math
from collections.abc import Mapping
from typing import Any

from sluice import labels
from sluice.quantity import parse_quantity
from sluice.resources.metadata import Manifest
from sluice.resources.revision import Inputs

MODEL_PATH = "/model"
ARTIFACT_MOUNT = "/artifact"
SERVER_PORT = 8080
USER_ID = 65532

PRE_STOP_SECONDS = 5
# What the server has at least to finish what it was asked, and what it has beyond the longest answer.
DRAIN_TIMEOUT_SECONDS = 30
DRAIN_MARGIN_SECONDS = 5
# For the process to leave, after preStop and drain.
EXIT_SECONDS = 10
# The server's own setting, in milliseconds: no answer takes longer (docs/inference.md).
REQUEST_TIMEOUT = "REQUEST_TIMEOUT_MS"

DEFAULT_CPU = "100m"
DEFAULT_MEMORY = "1Gi"


def make_pod_template(service: str, revision: str, inputs: Inputs) -> Manifest:
    """The whole template: a fetching init container and the server."""
    runtime = inputs["runtime"]
    model = inputs["model"]
    extra = runtime.get("podMetadata", {})
    spec: Manifest = {
        "initContainers": [_make_fetch(inputs)],
        "containers": [_make_server(service, revision, inputs)],
        "volumes": _make_volumes(inputs),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": PRE_STOP_SECONDS + find_drain(inputs) + EXIT_SECONDS,
        "topologySpreadConstraints": _make_spread(
            service, revision, runtime.get("topologySpreadConstraints", [])
        ),
    }
    for key in (
        "nodeSelector",
        "runtimeClassName",
        "priorityClassName",
        "serviceAccountName",
        "imagePullSecrets",
    ):
        if key in runtime:
            spec[key] = runtime[key]
    if affinity := _make_affinity(runtime.get("affinity", {}), _gpu(inputs)):
        spec["affinity"] = affinity
    if tolerations := _make_tolerations(runtime.get("tolerations", []), _gpu(inputs)):
        spec["tolerations"] = tolerations
    own_labels = labels.revision_labels(service, revision, model["name"], model["version"])
    metadata: Manifest = {"labels": {**extra.get("labels", {}), **own_labels}}
    if annotations := extra.get("annotations"):
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def find_drain(inputs: Inputs) -> int:
    """Seconds that a pod has to finish what it was asked: longer than its longest answer.

    Where that is not a plain number here (a secret's, or one that the server refuses), it is as by default.
    """
    said = [item for item in inputs["runtime"].get("env", []) if item["name"] == REQUEST_TIMEOUT]
    text = str(said[-1].get("value") or "") if said else ""
    try:
        longest = math.ceil(float(text) / 1000)
    except (ValueError, OverflowError):
        longest = 0
    return max(DRAIN_TIMEOUT_SECONDS, min(longest, 600) + DRAIN_MARGIN_SECONDS)


def _gpu(inputs: Inputs) -> Mapping[str, Any] | None:
    gpu: Mapping[str, Any] | None = inputs.get("requirements", {}).get("gpu")
    return gpu


def _gpu_resource(gpu: Mapping[str, Any]) -> str:
    return str(gpu.get("resource", "nvidia.com/gpu"))


def _make_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _make_fetch(inputs: Inputs) -> Manifest:
    artifact, runtime = inputs["artifact"], inputs["runtime"]
    mounts: list[Manifest] = [
        {"name": "model", "mountPath": MODEL_PATH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount point in the pod, no file of ours
    ]
    if artifact["uri"].startswith("pvc://"):
        mounts.append({"name": "artifact", "mountPath": ARTIFACT_MOUNT, "readOnly": True})
    container: Manifest = {
        "name": "fetch",
        "image": runtime["image"],
        "args": [
            "fetch",
            "--uri",
            artifact["uri"],
            "--digest",
            artifact["digest"],
            "--into",
            MODEL_PATH,
            # The kubelet tries again too, and people read what is wrong only when a try has ended.
            "--retry-seconds",
            "20",
        ],
        "command": ["sluice-inference"],
        "env": [
            {"name": "MODEL_NAME", "value": inputs["model"]["name"]},
            {"name": "MODEL_VERSION", "value": inputs["model"]["version"]},
            *runtime.get("env", []),
        ],
        "resources": {
            "requests": {"cpu": DEFAULT_CPU, "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": _make_security(),
        "terminationMessagePolicy": "File",
        "volumeMounts": [*mounts, *runtime.get("volumeMounts", [])],
    }
    if secret := artifact.get("credentialsSecretRef"):
        container["envFrom"] = [{"secretRef": {"name": secret["name"]}}]
    return container


def _make_server(service: str, revision: str, inputs: Inputs) -> Manifest:
    runtime = inputs["runtime"]
    return {
        "name": "server",
        "image": runtime["image"],
        "command": ["sluice-inference"],
        "args": ["serve"],
        "env": [*_make_environment(service, revision, inputs), *runtime.get("env", [])],
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "resources": _make_resources(inputs),
        "securityContext": _make_security(),
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_PATH, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
            *runtime.get("volumeMounts", []),
        ],
        # Loading takes as long as it takes: the rollout's own deadline decides, not the kubelet.
        "startupProbe": make_probe("/ready", period=1, timeout=2, failures=3600),
        "readinessProbe": make_probe("/ready", period=2, timeout=3, failures=3),
        "livenessProbe": make_probe("/health", period=10, timeout=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "terminationMessagePolicy": "File",
    }


def _make_environment(service: str, revision: str, inputs: Inputs) -> list[Manifest]:
    embedding = inputs.get("embedding", {})
    values = {
        "MODEL_PATH": MODEL_PATH,
        "MODEL_NAME": inputs["model"]["name"],
        "MODEL_VERSION": inputs["model"]["version"],
        "MODEL_DIGEST": inputs["artifact"]["digest"],
        "MODEL_FORMAT": inputs["artifact"]["format"],
        "MODEL_TASKS": ",".join(inputs["tasks"]),
        "PRECISION": inputs.get("requirements", {}).get("precision", "float32"),
        "DEVICE": "auto",
        "SLUICE_SERVICE": service,
        "SLUICE_REVISION": revision,
        "SLUICE_ROLE": labels.PRIMARY,
        "PORT": str(SERVER_PORT),
        "DRAIN_TIMEOUT_S": str(find_drain(inputs)),
    }
    if embedding:
        values["EMBEDDING_SPACE"] = embedding["space"]
        values["EMBEDDING_DIMENSION"] = str(embedding["dimension"])
    return [{"name": name, "value": value} for name, value in values.items()]


def _make_resources(inputs: Inputs) -> Manifest:
    """What the user asks for first, then what the version says it needs, then small defaults.

    The HPA can't compute a percentage without a CPU request, so there is always one.
    """
    asked = inputs["runtime"].get("resources", {})
    needs = inputs.get("requirements", {})
    requests = {"cpu": DEFAULT_CPU, "memory": needs.get("memory", DEFAULT_MEMORY)}
    limits = {"memory": needs["memory"]} if "memory" in needs else {}
    requests |= asked.get("requests", {})
    limits |= asked.get("limits", {})
    if "memory" in limits and parse_quantity(requests["memory"]) > parse_quantity(limits["memory"]):
        # One of the two was asked for and the other is a default: what was asked for wins.
        if "memory" in asked.get("limits", {}):
            requests["memory"] = limits["memory"]
        else:
            limits["memory"] = requests["memory"]
    if "cpu" in limits and "cpu" not in asked.get("requests", {}):
        requests["cpu"] = limits["cpu"]
    if gpu := _gpu(inputs):
        # Extended resources can't be overcommitted: request and limit are one number.
        count = str(gpu.get("count", 1))
        requests[_gpu_resource(gpu)] = limits[_gpu_resource(gpu)] = count
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def make_probe(path: str, *, period: int, timeout: int, failures: int) -> Manifest:
    """A probe of the server's own port; times are in seconds."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _make_volumes(inputs: Inputs) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "model", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    uri = inputs["artifact"]["uri"]
    if uri.startswith("pvc://"):
        claim = uri.removeprefix("pvc://").partition("/")[0]
        volumes.append(
            {
                "name": "artifact",
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
        )
    return [*volumes, *inputs["runtime"].get("volumes", [])]


def _make_spread(service: str, revision: str, asked: list[Manifest]) -> list[Manifest]:
    """The user's constraints over this revision's pods, or one of ours.

    One node's loss should not take a whole revision, but a small cluster must still schedule it.
    """
    own = {"labelSelector": {"matchLabels": labels.pod_selector(service, revision)}}
    default = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
    }
    return [own | constraint for constraint in asked or [default]]


def _make_tolerations(asked: list[Manifest], gpu: Mapping[str, Any] | None) -> list[Manifest]:
    """GPU nodes are commonly tainted with their resource's name; a pod that asks for one tolerates it."""
    if gpu is None:
        return list(asked)
    resource = _gpu_resource(gpu)
    own = {"key": resource, "operator": "Exists", "effect": "NoSchedule"}
    return [*asked, own] if own not in asked else list(asked)


def _make_affinity(asked: Manifest, gpu: Mapping[str, Any] | None) -> Manifest:
    """The user's affinity, and the GPU's product and memory required on top.

    Node selector terms are alternatives, so the requirement goes into each of them.
    """
    needed: list[Manifest] = []
    if gpu and gpu.get("products"):
        needed.append(
            {
                "key": "nvidia.com/gpu.product",
                "operator": "In",
                "values": list(gpu["products"]),
            }
        )
    if gpu and gpu.get("memory"):
        mebibytes = -(-parse_quantity(gpu["memory"]) // 2**20)
        needed.append(
            {
                "key": "nvidia.com/gpu.memory",
                "operator": "Gt",
                "values": [str(int(mebibytes) - 1)],
            }
        )
    if not needed:
        return dict(asked)
    node = dict(asked.get("nodeAffinity") or {})
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*(term.get("matchExpressions") or []), *needed]}
            for term in terms
        ]
    }
    return {**asked, "nodeAffinity": node}
