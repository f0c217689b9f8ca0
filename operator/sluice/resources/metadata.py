"""What all children have in common: name, labels, owner, and the mark of what was applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice import labels, names

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """The InferenceService that a child belongs to."""

    namespace: str
    name: str
    uid: str

    def reference(self) -> Manifest:
        """A controller reference: Kubernetes' garbage collector takes the children along."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceService",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def make_manifest(
    api_version: str,
    kind: str,
    name: str,
    owner: Owner,
    child_labels: Mapping[str, str],
    body: Mapping[str, Any],
) -> Manifest:
    """A child's manifest, with the hash of its own content in an annotation.

    Server-side apply drops a field that we stop sending, but only if we apply; comparing what is there
    with what is wanted can't see a field that is no longer wanted.  The annotation can.
    """
    manifest: Manifest = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": dict(child_labels),
            "ownerReferences": [owner.reference()],
        },
        **body,
    }
    manifest["metadata"]["annotations"] = {labels.APPLIED: names.short_hash(manifest)}
    return manifest
