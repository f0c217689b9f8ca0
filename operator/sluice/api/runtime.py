"""`spec.runtime`: how the pods of a service run, mostly parts of core/v1 under their own names.

What the operator itself puts into a pod (docs/contract.md) is refused here, so that a user's
setting and the operator's never fight over one name.
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from sluice.api.base import LIST_ATOMIC, Model, Rule, list_map
from sluice.api.environment import EnvVar
from sluice.api.modelversion import SecretRef
from sluice.api.placement import Affinity, SpreadConstraint, Toleration
from sluice.api.scalars import (
    QUALIFIED_KEYS,
    ImageReference,
    LabelValue,
    ObjectName,
    ResourceQuantity,
)
from sluice.api.volumes import Volume, VolumeMount

RESOURCE_KEYS: Final = Rule(
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || "
    r"k.matches(r'^[a-z0-9][-a-z0-9.]*/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
    "every key must be cpu, memory, ephemeral-storage or a resource with a domain, such as "
    "nvidia.com/gpu",
)
Quantities = Annotated[dict[str, ResourceQuantity], Field(max_length=6), RESOURCE_KEYS]


class Resources(Model):
    """Compute resources of the server container."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in "
            "self.limits) || "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "requests must be less than or equal to limits, resource by resource",
            field_path=".requests",
        ),
    )

    requests: Quantities | None = Field(
        None,
        description="What the scheduler sets aside per replica: cpu, memory and others, at most 6. "
        "Default cpu 100m, and memory as the version's requirements say.",
    )
    limits: Quantities | None = Field(
        None,
        description=(
            "What a replica may never exceed: cpu, memory and others, at most 6. Default: memory "
            "as the version's requirements say."
        ),
    )


class PodMetadata(Model):
    """Labels and annotations of the pods."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.labels) || !self.labels.exists(k, k.startsWith('sluice.dev/') || k in "
            "['app.kubernetes.io/managed-by', 'app.kubernetes.io/name'])",
            "labels beginning with sluice.dev/, app.kubernetes.io/managed-by and "
            "app.kubernetes.io/name are set by the operator: remove them",
            field_path=".labels",
        ),
        Rule(
            "!has(self.annotations) || !self.annotations.exists(k, k.startsWith('sluice.dev/'))",
            "annotations beginning with sluice.dev/ are set by the operator: remove them",
            field_path=".annotations",
        ),
    )

    labels: Annotated[dict[str, LabelValue], Field(max_length=32), QUALIFIED_KEYS] | None = Field(
        None,
        description=(
            "Labels added to the pods, at most 32; not sluice.dev/…, nor those that the operator "
            "sets."
        ),
    )
    annotations: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32), QUALIFIED_KEYS
        ]
        | None
    ) = Field(None, description="Annotations added to the pods, at most 32; not sluice.dev/….")


class Runtime(Model):
    """How the pods run. A change of anything here makes a new revision, which is rolled out."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && "
            "self.volumes.exists(v, v.name == m.name))",
            "every mount must name a volume of spec.runtime.volumes",
            field_path=".volumeMounts",
        ),
    )

    image: ImageReference = Field(
        description=(
            "Image of the inference server, for the fetch and the server container. A digest "
            "(name@sha256:…) makes sure that every node runs the same."
        )
    )
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = Field(
        (),
        description=(
            "Environment variables of both containers, at most 64, one per name; the operator's "
            "own names are refused."
        ),
        json_schema_extra=list_map("name"),
    )
    resources: Resources | None = Field(
        None,
        description=(
            "Compute resources of the server container. Absent: what the version's requirements "
            "say, and a request of 100m CPU."
        ),
    )
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16), QUALIFIED_KEYS] | None = (
        Field(None, description="Labels that a node must have, at most 16. Absent: any node.")
    )
    affinity: Affinity | None = Field(
        None, description="Nodes and pods to be near to or away from. Absent: no preference."
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = Field(
        (),
        description=(
            "Taints that the pods put up with, at most 16. Where the version needs GPUs, the "
            "taint of their resource is tolerated without being named here."
        ),
        json_schema_extra=LIST_ATOMIC,
    )
    runtime_class_name: ObjectName | None = Field(
        None, description="RuntimeClass of the pods, such as nvidia. Absent: the cluster's default."
    )
    priority_class_name: ObjectName | None = Field(
        None, description="PriorityClass of the pods. Absent: the cluster's default."
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the pods; its token is not mounted. Absent: default.",
    )
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] = Field(
        (),
        description=(
            "Secrets with credentials for pulling the image, at most 8. Absent: those of the "
            "ServiceAccount."
        ),
        json_schema_extra=list_map("name"),
    )
    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = Field(
        (), description="More volumes of the pods, at most 16.", json_schema_extra=list_map("name")
    )
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16)] = Field(
        (),
        description="Where those volumes appear in both containers, at most 16.",
        json_schema_extra=list_map("mountPath"),
    )
    topology_spread_constraints: Annotated[tuple[SpreadConstraint, ...], Field(max_length=8)] = (
        Field(
            (),
            description=(
                "How the pods spread over domains, at most 8. Absent: over nodes where possible."
            ),
            json_schema_extra=list_map("topologyKey", "whenUnsatisfiable"),
        )
    )
    pod_metadata: PodMetadata | None = Field(
        None, description="Labels and annotations added to the pods."
    )
