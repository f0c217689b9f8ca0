"""Every setting of the server, read once from the environment into one frozen value.

Must not be imported for side effects, and nothing else in the package reads the environment
(`fetch` and `push` read their credentials in `artifact/credentials.py`).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice_inference.errors import SettingsError

TASKS = (
    "ImageEmbedding",
    "TextEmbedding",
    "Classification",
    "Captioning",
    "VisualQuestionAnswering",
    "OCR",
    "Similarity",
)
SERVED_TASKS = ("ImageEmbedding", "TextEmbedding", "Classification")
FORMATS = ("Safetensors", "ONNX")
BACKENDS = ("auto", "torch", "onnx", "fake")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("auto", "cpu", "cuda")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """How the test double behaves. Percentages are 0..100; times as named; infinity means never."""

    latency_ms: float
    error_percent: float
    load_seconds: float
    never_ready: bool
    fail_after_seconds: float
    fail_after_inputs: float
    label: str
    dimension: int
    image_size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one request may cost."""

    max_images: int
    max_image_bytes: int
    max_pixels: int
    max_concurrent_requests: int
    max_body_bytes_in_flight: int
    request_timeout_s: float

    @property
    def max_body_bytes(self) -> int:
        """Bytes of one request body: all images in base64 (4/3) and room for the wrapping."""
        return self.max_images * self.max_image_bytes * 4 // 3 + 64 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's settings. Names and defaults are documented in docs/inference.md."""

    model_path: Path
    model_name: str
    model_version: str
    model_digest: str
    model_format: str
    tasks: tuple[str, ...]
    embedding_space: str
    embedding_dimension: int
    precision: str
    device: str
    service: str
    revision: str
    role: str
    host: str
    port: int
    backend: str
    batch_size: int
    queue_items: int
    decode_workers: int
    compute_threads: int
    stall_s: float
    keep_alive_s: int
    drain_timeout_s: float
    drain_linger_s: float
    log_level: str
    slow_request_ms: float
    termination_log: Path
    limits: Limits
    fake: FakeSettings

    @property
    def model(self) -> str:
        """The name the answers are stamped with: NAME/VERSION."""
        return f"{self.model_name}/{self.model_version}"


class Reader:
    """Reads variables one by one and remembers every problem, so that all are told at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self.env.get(name, "").strip() or default

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.problems.append(f"{name}: {value!r} is not one of {', '.join(allowed)}")
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        raw = self.text(name)
        if not raw:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            self.problems.append(f"{name}: {raw!r} is not a number between {low:g} and {high:g}")
            return default
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        raw = self.text(name)
        if not raw:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,12}", raw) or not low <= int(raw) <= high:
            self.problems.append(f"{name}: {raw!r} is not a whole number between {low} and {high}")
            return default
        return int(raw)

    def names(self, name: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        values = tuple(part.strip() for part in self.text(name).split(",") if part.strip())
        for value in values:
            if value not in allowed:
                self.problems.append(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        return values


def read_settings(env: Mapping[str, str]) -> Settings:
    """Settings from environment variables; an empty variable counts as unset.

    Raises SettingsError with one line for each variable that can't be used.
    """
    read = Reader(env)
    cpus = count_cpus()
    settings = Settings(
        model_path=Path(read.text("MODEL_PATH", "/model")),
        model_name=read.text("MODEL_NAME", "unnamed"),
        model_version=read.text("MODEL_VERSION", "0.0.0"),
        model_digest=read.text("MODEL_DIGEST"),
        model_format=read.choice("MODEL_FORMAT", "ONNX", FORMATS),
        tasks=read.names("MODEL_TASKS", TASKS),
        embedding_space=read.text("EMBEDDING_SPACE"),
        embedding_dimension=read.integer("EMBEDDING_DIMENSION", 0, 1, 65536),
        precision=read.choice("PRECISION", "float32", PRECISIONS),
        device=read.choice("DEVICE", "auto", DEVICES),
        service=read.text("SLUICE_SERVICE"),
        revision=read.text("SLUICE_REVISION"),
        role=read.text("SLUICE_ROLE"),
        host=read.text("HOST"),
        port=read.integer("PORT", 8080, 0, 65535),
        backend=read.choice("BACKEND", "auto", BACKENDS),
        batch_size=read.integer("BATCH_SIZE", 32, 1, 1024),
        queue_items=read.integer("QUEUE_MAX_ITEMS", 256, 1, 100_000),
        decode_workers=read.integer("DECODE_WORKERS", min(cpus, 16), 1, 128),
        compute_threads=read.integer("COMPUTE_THREADS", min(cpus, 64), 1, 256),
        stall_s=read.number("ENGINE_STALL_S", 30, 1, 3600),
        # Above the hour after which Envoy gives up an idle upstream connection: whoever closes
        # first must not be the server, or a request can meet the close on its way.
        keep_alive_s=read.integer("KEEP_ALIVE_S", 3900, 5, 86_400),
        drain_timeout_s=read.number("DRAIN_TIMEOUT_S", 25, 0.5, 3600),
        drain_linger_s=read.number("DRAIN_LINGER_S", 5, 0, 3600),
        log_level=read.choice("LOG_LEVEL", "info", LOG_LEVELS),
        slow_request_ms=read.number("SLOW_REQUEST_MS", 1000, 0, 3_600_000),
        termination_log=Path(read.text("TERMINATION_LOG", "/dev/termination-log")),
        limits=Limits(
            max_images=read.integer("MAX_IMAGES", 10, 1, 1000),
            max_image_bytes=int(read.number("MAX_IMAGE_MB", 10, 0.001, 1024) * 1024 * 1024),
            max_pixels=read.integer("MAX_PIXELS", 40_000_000, 64, 1_000_000_000),
            max_concurrent_requests=read.integer("MAX_CONCURRENT_REQUESTS", 256, 1, 100_000),
            max_body_bytes_in_flight=int(
                read.number("MAX_BODY_MB_IN_FLIGHT", 512, 0.001, 1_048_576) * 1024 * 1024
            ),
            request_timeout_s=read.number("REQUEST_TIMEOUT_MS", 10_000, 1, 600_000) / 1000,
        ),
        fake=FakeSettings(
            latency_ms=read.number("FAKE_LATENCY_MS", 0, 0, 600_000),
            error_percent=read.number("FAKE_ERROR_PERCENT", 0, 0, 100),
            load_seconds=read.number("FAKE_LOAD_SECONDS", 0, 0, 3600),
            never_ready=read.choice("FAKE_NEVER_READY", "false", ("true", "false")) == "true",
            fail_after_seconds=read.number("FAKE_FAIL_AFTER_SECONDS", math.inf, 0, 86_400),
            fail_after_inputs=read.integer("FAKE_FAIL_AFTER_INPUTS", 0, 1, 1_000_000_000)
            or math.inf,
            label=read.text("FAKE_LABEL", "fake"),
            dimension=read.integer("FAKE_DIMENSION", 8, 1, 65536),
            image_size=read.integer("FAKE_IMAGE_SIZE", 32, 1, 4096),
        ),
    )
    if settings.drain_linger_s > settings.drain_timeout_s:
        read.problems.append(
            f"DRAIN_LINGER_S: {settings.drain_linger_s:g} is longer than DRAIN_TIMEOUT_S "
            f"{settings.drain_timeout_s:g}; the drain would be cut off"
        )
    if read.problems:
        raise SettingsError(read.problems)
    return settings


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs this process may really use: affinity, then the container's quota (rounded up)."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
    except (OSError, ValueError):
        return available
    if quota == "max":
        return available
    return max(1, min(available, -(-int(quota) // int(period))))
