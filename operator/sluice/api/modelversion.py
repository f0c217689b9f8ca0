"""ModelVersion: one immutable, verified version of a model.

Types and rules of the kind only: whether a version is ready or in use is decided elsewhere.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field

from sluice.api.base import JSON, LIST_ATOMIC, LIST_SET, Form, Model, Rule, list_map
from sluice.api.conditions import Condition
from sluice.api.metadata import Resource, parse_resource
from sluice.api.scalars import (
    MAX_GENERATION,
    NO_PARENT,
    Decimal,
    Label,
    ObjectName,
    QualifiedName,
    QuantityString,
    SemVer,
)


class Lifecycle(StrEnum):
    """What may be done with a version."""

    ACTIVE = "Active"
    DEPRECATED = "Deprecated"
    RETIRED = "Retired"


class Task(StrEnum):
    """What a model can be asked for."""

    IMAGE_EMBEDDING = "ImageEmbedding"
    TEXT_EMBEDDING = "TextEmbedding"
    CLASSIFICATION = "Classification"
    SIMILARITY = "Similarity"
    CAPTIONING = "Captioning"
    VISUAL_QUESTION_ANSWERING = "VisualQuestionAnswering"
    OCR = "OCR"


class Architecture(StrEnum):
    """The network's shape; the server knows how to build each one."""

    SPATIAL_DUAL_ENCODER = "SpatialDualEncoder"
    CLIP = "CLIP"
    SIGLIP = "SigLIP"
    VISION_TEXT_DUAL_ENCODER = "VisionTextDualEncoder"
    CNN = "CNN"
    IMAGE_TEXT_TO_TEXT = "ImageTextToText"
    TEXT_READER = "TextReader"


class ArtifactFormat(StrEnum):
    """How weights are stored; it chooses the server's backend."""

    SAFETENSORS = "Safetensors"
    ONNX = "ONNX"


class Precision(StrEnum):
    """The number format of the computation."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    INT8 = "int8"


class Embedding(Model):
    """The vector space that a model's embeddings live in."""

    space: Label = Field(
        description=(
            "Name of the embedding space, a DNS label. Vectors of two versions may be compared "
            "only if the space is the same; the server sends it with every embedding."
        )
    )
    dimension: int = Field(
        ge=1,
        le=65536,
        description="Length of a vector, in numbers. The server refuses to start when the artifact "
        "says otherwise.",
    )


class SecretRef(Model):
    """A Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret, in the ModelVersion's namespace.")


class Artifact(Model):
    """Where the model's files are, and what they must be."""

    uri: Annotated[
        str,
        Field(max_length=2048),
        Form(
            r"oci://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
            r"|https://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?/[-A-Za-z0-9._~!$&()*+,;=:@%/]*"
            r"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[-A-Za-z0-9._]+)+/?",
            "must be oci://registry[:port]/repository:tag, https://host[:port]/folder/ or "
            "pvc://claim/path, without credentials or a query (credentials go into a Secret, see "
            "credentialsSecretRef)",
        ),
        NO_PARENT,
    ] = Field(
        description="Where the artifact is read from: oci://registry[:port]/repository:tag, "
        "https://host[:port]/folder/ (a folder with manifest.json in it) or pvc://claim/path (a "
        "PersistentVolumeClaim in the same namespace). Only the pods' fetch container reads it."
    )
    digest: Annotated[
        str,
        Field(max_length=71),
        Form(
            "sha256:[0-9a-f]{64}",
            "must be sha256: followed by 64 lower-case hexadecimal digits, as printed by "
            "`sluice-inference manifest DIR`",
        ),
    ] = Field(
        description=(
            "sha256: and the SHA-256 of the artifact's manifest.json, in hexadecimal. It is the "
            "version's identity: files that do not match it are never loaded."
        )
    )
    format: ArtifactFormat = Field(
        description=(
            "Format of the weights. Safetensors is served by the torch backend, ONNX by ONNX "
            "Runtime."
        )
    )
    size: QuantityString | None = Field(
        None,
        description="Size of all files together, a quantity of bytes such as 1800Mi. For people.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        None,
        description=(
            "Secret whose keys (ARTIFACT_USERNAME, ARTIFACT_PASSWORD, ARTIFACT_TOKEN) become "
            "environment of the fetch container, and of no other. Absent: read without "
            "credentials."
        ),
    )


class Metric(Model):
    """One measured number."""

    name: Annotated[
        str,
        Field(max_length=63),
        Form(
            "[a-z][A-Za-z0-9]*",
            "must be a camelCase name of letters and digits, such as accuracy or latencyP95Ms",
        ),
    ] = Field(
        description="Name of the metric in camelCase, with its unit at the end where it has one: "
        "accuracy, latencyP95Ms. At most once per evaluation."
    )
    value: Decimal = Field(description='The measured value, a decimal number in quotes: "0.912".')


class Evaluation(Model):
    """What training measured on held-out data."""

    dataset: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        description="Name of the held-out data set that the metrics were measured on."
    )
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=64)] = Field(
        description="The measured metrics, at most 64, one per name.",
        json_schema_extra=list_map("name"),
    )


class Gpu(Model):
    """GPUs that one replica needs."""

    count: int = Field(
        ge=1, le=16, description="Whole GPUs per replica, 1 to 16: request and limit of the server."
    )
    memory: QuantityString | None = Field(
        None,
        description=(
            "Least memory of each GPU, a quantity of bytes such as 6Gi. Pods go only to nodes "
            "whose label nvidia.com/gpu.memory says at least that. Absent: any GPU."
        ),
    )
    resource: QualifiedName = Field(
        "nvidia.com/gpu",
        description="Extended resource that counts the GPUs. Default nvidia.com/gpu.",
    )
    products: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=16)
    ] = Field(
        (),
        description=(
            "GPU products that will do, as in the node label nvidia.com/gpu.product, at most 16. "
            "Absent: any product."
        ),
        json_schema_extra=LIST_SET,
    )


class Requirements(Model):
    """What one replica needs to run this version."""

    memory: QuantityString | None = Field(
        None,
        description=(
            "Memory of one replica, a quantity of bytes such as 4Gi: request and limit of the "
            "server unless the service's runtime.resources says otherwise. Absent: a request of "
            "1Gi, no limit."
        ),
    )
    gpu: Gpu | None = Field(
        None, description="GPUs of one replica. Absent: the version is served on CPUs."
    )
    precision: Precision = Field(
        Precision.FLOAT32,
        description=(
            "Number format the server computes in: bfloat16, float16, float32 or int8. Default "
            "float32."
        ),
    )


class ModelVersionSpec(Model):
    """A version of a model: what it is, where its files are, and what it needs.

    Nothing but `lifecycle` may change.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!self.tasks.exists(t, t in ['ImageEmbedding', 'TextEmbedding', 'Similarity']) || "
            "has(self.embedding)",
            "embedding is required when tasks lists ImageEmbedding, TextEmbedding or Similarity: "
            "say its space and dimension",
            field_path=".embedding",
        ),
    )
    mutable: ClassVar[frozenset[str] | None] = frozenset({"lifecycle"})

    model: Label = Field(
        description="Name of the model, a DNS label. With version it makes the object's name, "
        "<model>-<version>."
    )
    version: SemVer = Field(
        description=(
            "Semantic version 2.0 such as 2.1.0 or 2.1.0-rc.1: pre-releases in lower case, no "
            "leading v, no build metadata."
        )
    )
    lifecycle: Lifecycle = Field(
        Lifecycle.ACTIVE,
        description=(
            "Active: may be deployed. Deprecated: still served, new use is discouraged. Retired: "
            "no longer to be used. The only field that may change. Default Active."
        ),
    )
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=8)] = Field(
        description=(
            "What the model can be asked for: ImageEmbedding, TextEmbedding, Similarity, "
            "Classification, Captioning, VisualQuestionAnswering, OCR. The server answers these "
            "and no others."
        ),
        json_schema_extra=LIST_SET,
    )
    architecture: Architecture = Field(
        description=(
            "Shape of the network: SpatialDualEncoder (image and text towers, a geometry tower "
            "and a classifier), CLIP, SigLIP or VisionTextDualEncoder (public dual encoders), CNN "
            "(an image classifier), ImageTextToText (answers pictures and questions in words), "
            "TextReader (OCR)."
        )
    )
    embedding: Embedding | None = Field(
        None,
        description=(
            "The space of the model's embeddings. Required when tasks lists ImageEmbedding, "
            "TextEmbedding or Similarity."
        ),
    )
    artifact: Artifact = Field(description="The model's files.")
    evaluation: Evaluation | None = Field(
        None,
        description="What training measured. Absent: nothing is known of the version's quality.",
    )
    requirements: Requirements | None = Field(
        None,
        description="What one replica needs. Absent: 1Gi of memory is requested, no GPU, float32.",
    )


class UsedByService(Model):
    """A service that runs this version."""

    namespace: Label | None = Field(
        None, description="Namespace of the service. Absent: the version's own."
    )
    name: Label = Field(description="Name of the InferenceService.")
    role: Annotated[str, Field(max_length=32)] = Field(
        description="What the version is to the service: Stable or Candidate."
    )


class UsedBy(Model):
    """Which services run this version."""

    count: int = Field(ge=0, le=1_000_000, description="How many services run this version.")
    services: Annotated[tuple[UsedByService, ...], Field(max_length=20)] = Field(
        (), description="The first 20 of them by name.", json_schema_extra=LIST_ATOMIC
    )


class ModelVersionStatus(Model):
    """What the operator has found out about a version."""

    observed_generation: int | None = Field(
        None,
        ge=0,
        le=MAX_GENERATION,
        description="metadata.generation that this status speaks of.",
    )
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        (),
        description=(
            "Ready: the version may be deployed. ArtifactVerified: a pod fetched the artifact "
            "and it matched the digest. Reconciling and Stalled are there only while true."
        ),
        json_schema_extra=list_map("type"),
    )
    used_by: UsedBy | None = Field(None, description="The services that run this version.")


class ModelVersion(Resource):
    """A parsed ModelVersion: metadata and spec."""

    spec: ModelVersionSpec

    @classmethod
    def parse(cls, obj: JSON) -> Self:
        """The ModelVersion in `obj`; UserError(InvalidSpec) names the wrong fields by path."""
        return parse_resource(cls, obj)
