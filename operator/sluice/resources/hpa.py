"""The HorizontalPodAutoscaler of one revision's Deployment."""

from sluice import labels, names
from sluice.api.inferenceservice import Scaling
from sluice.resources.metadata import Manifest, Owner, make_manifest

DEFAULT_CPU_PERCENT = 70


def make_hpa(
    owner: Owner, revision: str, model: str, version: str, scaling: Scaling, floor: int
) -> Manifest:
    """Scales between `floor` and the service's upper bound.

    The floor is what keeps the gate behind open: while a rollout moves, stable may not shrink below what
    carried the traffic when it began, nor the candidate below what its weight needs.
    """
    name = names.child_name(owner.name, revision)
    targets = {metric.type.value: metric.target_percent for metric in scaling.metrics}
    spec: Manifest = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": max(1, min(floor, scaling.max_replicas)),
        "maxReplicas": scaling.max_replicas,
        "metrics": [
            {
                "type": "Resource",
                "resource": {
                    "name": metric.lower(),
                    "target": {"type": "Utilization", "averageUtilization": percent},
                },
            }
            for metric, percent in sorted((targets or {"CPU": DEFAULT_CPU_PERCENT}).items())
        ],
    }
    if scaling.behavior is not None:
        spec["behavior"] = scaling.behavior.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
        )
    return make_manifest(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        name,
        owner,
        labels.revision_labels(owner.name, revision, model, version),
        {"spec": spec},
    )
