"""A revision: its inputs, and the ControllerRevision that keeps them.

The inputs are what a user chose (version and runtime).  What they render to is kept beside them, because
an operator that renders differently must not restart what runs (product.md, "What a rollout is").
"""

from typing import Any

from sluice import labels, names
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.resources.metadata import Manifest, Owner, make_manifest

Inputs = dict[str, Any]


def make_inputs(service: InferenceService, version: ModelVersion) -> Inputs:
    """Everything that makes one revision differ from another.

    Fields left at their defaults are left out, so that a default added to the API later changes no hash.
    """
    spec = version.spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    artifact = spec["artifact"]
    inputs: Inputs = {
        "model": {"name": version.spec.model, "version": version.spec.version},
        "artifact": {
            key: artifact[key]
            for key in ("uri", "digest", "format", "credentialsSecretRef")
            if key in artifact
        },
        "architecture": spec["architecture"],
        "tasks": sorted(spec["tasks"]),
        "runtime": runtime_inputs(service),
    }
    for key in ("embedding", "requirements"):
        if key in spec:
            inputs[key] = spec[key]
    return inputs


def runtime_inputs(service: InferenceService) -> dict[str, Any]:
    """The runtime part of the inputs, without defaults."""
    dumped: dict[str, Any] = service.spec.runtime.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    return dumped


def make_controller_revision(
    owner: Owner, revision: str, inputs: Inputs, template: Manifest, sequence: int
) -> Manifest:
    """The record from which this revision is applied for as long as it lives."""
    model = inputs["model"]
    return make_manifest(
        "apps/v1",
        "ControllerRevision",
        names.child_name(owner.name, revision),
        owner,
        labels.revision_labels(owner.name, revision, model["name"], model["version"]),
        {"revision": sequence, "data": {"inputs": inputs, "template": template}},
    )
