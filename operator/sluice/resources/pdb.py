"""The PodDisruptionBudget of one revision's pods."""

from sluice import labels, names
from sluice.resources.metadata import Manifest, Owner, make_manifest


def make_pdb(owner: Owner, revision: str, model: str, version: str) -> Manifest:
    """One pod at a time may be evicted: `minAvailable` would block a node's drain where there is one pod."""
    return make_manifest(
        "policy/v1",
        "PodDisruptionBudget",
        names.child_name(owner.name, revision),
        owner,
        labels.revision_labels(owner.name, revision, model, version),
        {
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": labels.pod_selector(owner.name, revision)},
            }
        },
    )
