"""Volumes of the pods and where they are mounted, and which of them the operator keeps for itself.

The sources' own fields pass through as they are: core/v1 says what is in them.
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from sluice.api.base import Form, Model, Opaque, Rule, cel_list
from sluice.api.scalars import NO_PARENT, Label

RESERVED_VOLUMES: Final = ("model", "tmp", "artifact")

_SOURCES: Final = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)


class Volume(Model):
    """A volume of the pods: a name, and one source exactly as in core/v1.

    Only sources that the restricted Pod Security Standard allows (and images): whoever may write a
    service must not get at a node's file system through it.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {cel_list(RESERVED_VOLUMES)})",
            "is a volume of the operator: choose another name",
            message_expression="self.name + ' is a volume of the operator: choose another name'",
            field_path=".name",
        ),
        Rule(
            f"[{', '.join(f'has(self.{source})' for source in _SOURCES)}].exists_one(x, x)",
            f"must have exactly one source: {', '.join(_SOURCES[:-1])} or {_SOURCES[-1]}",
        ),
    )

    name: Label = Field(
        description=(
            "Name that volumeMounts refer to, a DNS label; not model, tmp or artifact, which the "
            "operator makes."
        )
    )
    config_map: Opaque | None = Field(
        None, description=("A ConfigMap's keys as files, as in core/v1.")
    )
    csi: Opaque | None = Field(None, description="An inline volume of a CSI driver, as in core/v1.")
    downward_api: Opaque | None = Field(
        None, alias="downwardAPI", description="The pod's own fields as files, as in core/v1."
    )
    empty_dir: Opaque | None = Field(
        None, description="A folder that lives as long as the pod, as in core/v1."
    )
    ephemeral: Opaque | None = Field(
        None, description="A claim that lives as long as the pod, as in core/v1."
    )
    image: Opaque | None = Field(None, description="An OCI image's files, as in core/v1.")
    persistent_volume_claim: Opaque | None = Field(
        None, description="A claim in the service's namespace, as in core/v1."
    )
    projected: Opaque | None = Field(
        None, description="Several sources in one folder, as in core/v1."
    )
    secret: Opaque | None = Field(None, description="A Secret's keys as files, as in core/v1.")


class VolumeMount(Model):
    """Where a volume of `volumes` appears in the containers."""

    name: Label = Field(description="Name of a volume in spec.runtime.volumes.")
    mount_path: Annotated[
        str,
        Field(max_length=512),
        Form("/[^:]*", "must be an absolute path without ':'"),
        NO_PARENT,
        Rule(
            r"!self.matches(r'^/+((model|artifact)(/.*)?|tmp/*)$')",
            "/model, /tmp and /artifact are mounted by the operator: choose another path",
        ),
    ] = Field(
        description=(
            "Absolute path in both containers; not /model, /tmp or /artifact, which the operator "
            "mounts. One mount per path."
        )
    )
    sub_path: (
        Annotated[
            str, Field(max_length=512), Form(r"[^/].*", ("must be a relative path")), NO_PARENT
        ]
        | None
    ) = Field(None, description="Path inside the volume that is mounted. Absent: its root.")
    read_only: bool | None = Field(
        None, description="true: the containers cannot write to it. Default false."
    )
