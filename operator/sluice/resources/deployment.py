"""The Deployment that runs one revision."""

from sluice import labels, names
from sluice.resources.metadata import Manifest, Owner, make_manifest


def make_deployment(
    owner: Owner, revision: str, model: str, version: str, template: Manifest, replicas: int
) -> Manifest:
    """One revision's pods.  Its template never changes, so it never rolls by itself.

    `replicas` is kept out of the hash of what was applied: an HPA moves it, and that isn't drift.
    """
    manifest = make_manifest(
        "apps/v1",
        "Deployment",
        names.child_name(owner.name, revision),
        owner,
        labels.revision_labels(owner.name, revision, model, version),
        {
            "spec": {
                "selector": {"matchLabels": labels.pod_selector(owner.name, revision)},
                "template": template,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
                },
                "revisionHistoryLimit": 1,
            }
        },
    )
    manifest["spec"]["replicas"] = replicas
    return manifest
