"""The settings of one model that this process runs: which artifact, how it is run, in what batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sluice_inference.settings.reader import Reader, count_cpus
from sluice_inference.settings.trust import Trust, read_trust

TASKS = (
    "ImageEmbedding",
    "TextEmbedding",
    "Classification",
    "Captioning",
    "VisualQuestionAnswering",
    "OCR",
    "Similarity",
)
# Those that are answered in words; they need a model that reads a question with its picture.
WORD_TASKS = ("Captioning", "VisualQuestionAnswering", "OCR")
FORMATS = ("Safetensors", "ONNX")
BACKENDS = ("auto", "torch", "onnx", "fake")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """How the test double behaves. Percentages are 0..100; times as named; infinity means never.

    `confidence` is the best label's probability.
    """

    latency_ms: float
    error_percent: float
    load_seconds: float
    never_ready: bool
    fail_after_seconds: float
    fail_after_inputs: float
    label: str
    confidence: float
    dimension: int
    image_size: int


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model: what it is, and how it is run."""

    path: Path
    name: str
    version: str
    digest: str
    format: str
    tasks: tuple[str, ...]
    embedding_space: str
    embedding_dimension: int
    precision: str
    device: str
    backend: str
    batch_size: int
    queue_items: int
    queue_bytes: int
    compute_threads: int
    stall_s: float
    compile: bool
    trust: Trust
    fake: FakeSettings

    @property
    def title(self) -> str:
        """The name that answers are stamped with: NAME/VERSION."""
        return f"{self.name}/{self.version}"


def read_model(read: Reader) -> ModelSettings:
    """The primary model's settings."""
    return ModelSettings(
        path=Path(read.text("MODEL_PATH", "/model")),
        name=read.text("MODEL_NAME", "unnamed"),
        version=read.text("MODEL_VERSION", "0.0.0"),
        digest=read.text("MODEL_DIGEST"),
        format=read.choice("MODEL_FORMAT", "ONNX", FORMATS),
        tasks=read.names("MODEL_TASKS", TASKS),
        embedding_space=read.text("EMBEDDING_SPACE"),
        embedding_dimension=read.integer("EMBEDDING_DIMENSION", 0, 1, 65536),
        precision=read.choice("PRECISION", "float32", PRECISIONS),
        device=read.choice("DEVICE", "auto", DEVICES),
        backend=read.choice("BACKEND", "auto", BACKENDS),
        batch_size=read.integer("BATCH_SIZE", 32, 1, 1024),
        queue_items=read.integer("QUEUE_MAX_ITEMS", 256, 1, 100_000),
        queue_bytes=int(read.number("QUEUE_MAX_MB", 256, 0.001, 1_048_576) * 1024 * 1024),
        compute_threads=read.integer("COMPUTE_THREADS", min(count_cpus(), 64), 1, 256),
        stall_s=read.number("ENGINE_STALL_S", 30, 1, 3600),
        compile=read.flag("COMPILE", default=False),
        trust=read_trust(read),
        fake=_read_fake(read),
    )


def _read_fake(read: Reader) -> FakeSettings:
    return FakeSettings(
        latency_ms=read.number("FAKE_LATENCY_MS", 0, 0, 600_000),
        error_percent=read.number("FAKE_ERROR_PERCENT", 0, 0, 100),
        load_seconds=read.number("FAKE_LOAD_SECONDS", 0, 0, 3600),
        never_ready=read.flag("FAKE_NEVER_READY", default=False),
        fail_after_seconds=read.number("FAKE_FAIL_AFTER_SECONDS", math.inf, 0, 86_400),
        fail_after_inputs=read.integer("FAKE_FAIL_AFTER_INPUTS", 0, 1, 1_000_000_000) or math.inf,
        label=read.text("FAKE_LABEL", "fake"),
        confidence=read.number("FAKE_CONFIDENCE", 0.95, 0.5, 0.999),
        dimension=read.integer("FAKE_DIMENSION", 8, 1, 65536),
        image_size=read.integer("FAKE_IMAGE_SIZE", 32, 1, 4096),
    )
