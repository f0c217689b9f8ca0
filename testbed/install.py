"""Puts Sluice itself onto an instance: CRDs, admission policies, and the operator's pods with their rights.

It applies `config/default` as a platform team would.  Models and services are others' business.
"""

import json
from pathlib import Path

from testbed import images
from testbed.cluster import Cluster
from testbed.progress import Progress

_ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "sluice-system"
# The image's name in config/operator/deployment.yaml.
_PLACEHOLDER = "image: sluice/operator:latest"


def install_crds(cluster: Cluster) -> None:
    """The kinds and their admission policies."""
    cluster.kubectl("apply", "--server-side", "-k", str(_ROOT / "crds"))
    cluster.kubectl(
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/modelversions.sluice.dev",
        "crd/inferenceservices.sluice.dev",
    )
    # After the CRDs: one of the policies reads ModelVersions.
    cluster.kubectl("apply", "--server-side", "-k", str(_ROOT / "config" / "admission"))


def install_operator(cluster: Cluster, progress: Progress, *, replicas: int = 1) -> str:
    """The operator in the cluster, from its image; gives the image's reference."""
    reference = images.ensure(cluster, ["operator"], progress)["operator"]
    with progress.step("install CRDs, permissions and the operator"):
        install_crds(cluster)
        manifests = cluster.kubectl("kustomize", str(_ROOT / "config" / "default")).stdout
        if _PLACEHOLDER not in manifests:
            raise AssertionError(
                f"config/default has no line {_PLACEHOLDER!r} to put {reference} into"
            )
        manifests = manifests.replace(_PLACEHOLDER, f"image: {reference}")
        manifests = manifests.replace("replicas: 2", f"replicas: {replicas}", 1)
        cluster.kubectl("apply", "--server-side", "-f", "-", input=manifests)
        cluster.kubectl(
            "rollout", "status", "deployment/sluice-operator", "-n", NAMESPACE, "--timeout=180s"
        )
    return reference


def operator_pods(cluster: Cluster) -> list[str]:
    """Names of the operator's pods."""
    answer = cluster.kubectl(
        "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=sluice-operator", "-o", "json"
    )
    return [item["metadata"]["name"] for item in json.loads(answer.stdout)["items"]]
