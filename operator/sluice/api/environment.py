"""Environment variables of the containers, and which names the operator keeps for itself.

What a variable means is said in docs/contract.md and by the inference image.
"""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from sluice.api.base import Form, Model, Rule, cel_list
from sluice.api.scalars import EnvName, ObjectName

RESERVED_ENV: Final = (
    "MODEL_PATH",
    "MODEL_NAME",
    "MODEL_VERSION",
    "MODEL_DIGEST",
    "MODEL_FORMAT",
    "MODEL_TASKS",
    "EMBEDDING_SPACE",
    "EMBEDDING_DIMENSION",
    "PRECISION",
    "DEVICE",
    "SLUICE_SERVICE",
    "SLUICE_REVISION",
    "SLUICE_ROLE",
    "PORT",
    "DRAIN_TIMEOUT_S",
)
"""The variables that the operator sets: the table in docs/contract.md."""


class KeyRef(Model):
    """One key of a Secret or a ConfigMap in the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the service's namespace.")
    key: Annotated[
        str, Field(max_length=253), Form("[-._a-zA-Z0-9]+", "must be a key of the object")
    ] = Field(description="The key whose value is taken.")
    optional: bool | None = Field(
        None,
        description=(
            "true: the variable is left out when the object or key is missing. Default false: "
            "the pod then does not start."
        ),
    )


class EnvSource(Model):
    """Where a variable's value comes from: exactly one of the two."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "must have exactly one of secretKeyRef and configMapKeyRef",
        ),
    )

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")


class EnvVar(Model):
    """One environment variable of the containers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name in {cel_list(RESERVED_ENV)})",
            "is set by the operator and cannot be set here: remove it",
            message_expression=(
                "self.name + ' is set by the operator and cannot be set here: remove it'"
            ),
            field_path=".name",
        ),
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "must have exactly one of value and valueFrom",
        ),
    )

    name: EnvName = Field(
        description="Name of the variable. The names that the operator sets (MODEL_PATH, PORT, "
        "SLUICE_REVISION and the others of docs/contract.md) are refused."
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="The value. Exactly one of value and valueFrom."
    )
    value_from: EnvSource | None = Field(
        None, description="A Secret's or ConfigMap's key. Exactly one of value and valueFrom."
    )
