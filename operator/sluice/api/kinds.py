"""The two kinds as the cluster knows them: names, columns, selectable fields, status default.

What stands here is what a CRD says beside its schema.
"""

from dataclasses import dataclass
from typing import Final

from sluice import names
from sluice.api.base import JSON, Model, Rule
from sluice.api.conditions import PENDING_CONDITIONS
from sluice.api.inferenceservice import InferenceServiceSpec, InferenceServiceStatus
from sluice.api.modelversion import ModelVersionSpec, ModelVersionStatus

VERSION: Final = names.API_VERSION.partition("/")[2]
NAME_LIMIT: Final = 40


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; `wide` ones are shown by `-o wide` only."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False

    def to_dict(self) -> JSON:
        """The column as an item of additionalPrinterColumns."""
        out: JSON = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        return out | {"priority": 1} if self.wide else out


@dataclass(frozen=True, slots=True)
class KindDefinition:
    """One kind of the group sluice.dev."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[Model]
    status: type[Model]
    status_default: JSON
    name_schema: JSON
    rules: tuple[Rule, ...]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...]

    @property
    def crd_name(self) -> str:
        """The CustomResourceDefinition's name."""
        return f"{self.plural}.{names.GROUP}"


def _condition(type_: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{type_}")].{field}'


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date")
_READY = Column("Ready", _condition("Ready", "status"), "Whether the object is as asked for.")
_MESSAGE = Column("Message", _condition("Ready", "message"), "Why it is ready or not.", wide=True)

MODEL_VERSION: Final = KindDefinition(
    kind="ModelVersion",
    plural="modelversions",
    short_name="mver",
    description=(
        "ModelVersion is one version of a model: what it is, where its files are, what they must "
        "hash to and what a replica needs. It never changes (but for lifecycle): a new state of "
        "a model is a new ModelVersion. InferenceServices name it to serve it."
    ),
    spec=ModelVersionSpec,
    status=ModelVersionStatus,
    status_default={"conditions": PENDING_CONDITIONS},
    name_schema={"type": "string", "maxLength": 63},
    rules=(
        Rule(
            "self.metadata.name == self.spec.model + '-' + self.spec.version",
            "must be <spec.model>-<spec.version>",
            message_expression="'must be ' + self.spec.model + '-' + self.spec.version + "
            "' (<spec.model>-<spec.version>)'",
            field_path=".metadata.name",
        ),
    ),
    columns=(
        Column("Model", ".spec.model", "Name of the model."),
        Column("Version", ".spec.version", "Semantic version."),
        _READY,
        Column("Lifecycle", ".spec.lifecycle", "Active, Deprecated or Retired."),
        Column("Used-By", ".status.usedBy.count", "Services that run it.", type="integer"),
        Column("Format", ".spec.artifact.format", "Format of the weights.", wide=True),
        Column("Size", ".spec.artifact.size", "Size of the artifact.", wide=True),
        Column(
            "Accuracy",
            '.spec.evaluation.metrics[?(@.name=="accuracy")].value',
            "Accuracy that training measured.",
            wide=True,
        ),
        Column("Digest", ".spec.artifact.digest", "Digest of the artifact's manifest.", wide=True),
        _MESSAGE,
        _AGE,
    ),
    selectable=(".spec.model", ".spec.version", ".spec.lifecycle"),
)

INFERENCE_SERVICE: Final = KindDefinition(
    kind="InferenceService",
    plural="inferenceservices",
    short_name="msvc",
    description=(
        "InferenceService serves one version of a model behind a Service of its own name. The "
        "operator makes the pods, checks the model's files before they are loaded, scales, and "
        "brings every change in without an error for clients; a change that does not become "
        "ready is given up and stable goes on serving."
    ),
    spec=InferenceServiceSpec,
    status=InferenceServiceStatus,
    status_default={
        "conditions": PENDING_CONDITIONS,
        "phase": "Pending",
        "message": "Waiting for the operator",
    },
    name_schema={
        "type": "string",
        "maxLength": NAME_LIMIT,
        "x-kubernetes-validations": [
            Rule(
                "self.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "must begin with a letter and have lower-case letters, digits and '-' only: a "
                "Service gets this name",
            ).to_dict()
        ],
    },
    rules=(),
    columns=(
        _READY,
        Column("Phase", ".status.phase", "The state in one word."),
        Column("Stable", ".status.stable.version", "The version that serves."),
        Column("Candidate", ".status.candidate.version", "The version that is rolled out."),
        Column(
            "Weight",
            ".status.candidate.weight",
            "Share of the traffic that goes to the candidate, in percent.",
            type="integer",
        ),
        Column("Step", ".status.rollout.progress", "The rollout's step, of how many."),
        Column(
            "Replicas",
            ".status.stable.readyReplicas",
            "Stable replicas that are ready.",
            type="integer",
            wide=True,
        ),
        Column("Reason", _condition("Ready", "reason"), "Why, in one word.", wide=True),
        Column("Message", ".status.message", "Why, in one sentence.", wide=True),
        _AGE,
    ),
    selectable=(".spec.model.name", ".spec.model.version", ".status.phase"),
)

KINDS: Final = (MODEL_VERSION, INFERENCE_SERVICE)
