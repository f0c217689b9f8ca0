"""The PodDisruptionBudget of one revision's pods."""

from sluice import labels, names
from sluice.resources.metadata import Manifest, Owner, make_manifest


def make_pdb(owner: Owner, revision: str, model: str, version: str) -> Manifest:
    """One pod at a time may be evicted: `minAvailable` would block a node's drain where there is one pod.

    One that isn't ready may always be: it serves nobody, and a revision of such pods would block the drain.
    """
    return make_manifest(
        "policy/v1",
        "PodDisruptionBudget",
        names.child_name(owner.name, revision),
        owner,
        labels.revision_labels(owner.name, revision, model, version),
        {
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": labels.pod_selector(owner.name, revision)},
            }
        },
    )
