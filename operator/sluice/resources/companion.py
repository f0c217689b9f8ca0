"""Pods that run beside a candidate and ask it: where its pods may run, under the same restrictions.

They get nothing else of theirs: no environment, volumes, secrets of the model, or device.  Where NVIDIA's
runtime is the node's, an image that says `NVIDIA_VISIBLE_DEVICES=all` would see all of them unasked.
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


_NO_DEVICES: Manifest = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}


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
    is_said = any(item["name"] == _NO_DEVICES["name"] for item in container["env"])
    env = container["env"] if is_said else [*container["env"], _NO_DEVICES]
    spec: Manifest = {
        "containers": [container | {"env": env}],
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
