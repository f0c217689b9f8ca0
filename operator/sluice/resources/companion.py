"""Pods that run beside a candidate and ask it: where its pods may run, under the same restrictions.

They get nothing else of theirs: no environment, volumes, secrets of the model, or device.
"""

from collections.abc import Mapping

from sluice import names
from sluice.resources.metadata import Manifest

_PLACEMENT = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "runtimeClassName",
    "priorityClassName",
    "serviceAccountName",
    "imagePullSecrets",
)


def make_companion(template: Manifest, own: Mapping[str, str], container: Manifest) -> Manifest:
    """A pod template with this container; `template` is the candidate's, `own` the labels to have."""
    found = template.get("metadata") or {}
    metadata: Manifest = {
        "labels": {
            # A user's own labels, and none that selects or counts pods of a revision.
            key: value
            for key, value in (found.get("labels") or {}).items()
            if not key.startswith(f"{names.GROUP}/")
        }
        | dict(own)
    }
    if annotations := found.get("annotations"):
        metadata["annotations"] = annotations
    spec: Manifest = {
        "containers": [container],
        "securityContext": template["spec"]["securityContext"],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }
    spec |= {key: template["spec"][key] for key in _PLACEMENT if key in template["spec"]}
    return {"metadata": metadata, "spec": spec}


def find_server(template: Manifest) -> Manifest:
    """The candidate's server container."""
    found: Manifest = next(
        item for item in template["spec"]["containers"] if item["name"] == "server"
    )
    return found
