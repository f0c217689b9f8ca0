"""The servers that are compared: how each is started, and how it wants pictures and gives vectors.

A contestant serves the same checkpoint on the same device; what differs is the server.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.ours import COMMAND, READY, UNCACHED, make_env
from benchmarks.serving.process import ServerProcess, find_port
from benchmarks.serving.venvs import BUILD, ROOT, make_venv
from benchmarks.serving.wire import make_request
from testbed.progress import Progress

Encode = Callable[[Sequence[bytes]], bytes]
_BOUNDARY = "sluice-benchmark-boundary"
READY_S = 600.0


@dataclass(frozen=True, slots=True)
class Task:
    """What everyone is to serve. `checkpoint` is in the layout of Hugging Face."""

    model: str
    checkpoint: Path
    device: str
    dtype: str
    batch: int
    images_per_request: int
    threads: int


@dataclass(slots=True)
class Contestant:
    """One way to run one server."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    port: int
    ready: str
    encode: Encode
    read: Callable[[Any], list[list[float]]]
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: str = ""

    def start(self, logs: Path) -> ServerProcess:
        """The process, not waited for."""
        return ServerProcess(
            self.command, self.env, self.port, self.ready, logs / f"{self.name}.log"
        )


def make_ours(task: Task, progress: Progress, env: Mapping[str, str] | None = None) -> Contestant:
    """Our server on an artifact made of the checkpoint; nothing is cached and nobody is limited."""
    artifact = make_artifact(task, progress)
    config = json.loads((artifact / "config.json").read_text())
    port = find_port()
    values = make_env(
        port,
        MODEL_PATH=str(artifact),
        MODEL_NAME=task.model,
        MODEL_VERSION="1.0.0",
        MODEL_FORMAT="Safetensors",
        MODEL_TASKS="ImageEmbedding",
        EMBEDDING_SPACE=config["embedding"]["space"],
        EMBEDDING_DIMENSION=str(config["embedding"]["dimension"]),
        DEVICE=task.device,
        PRECISION=task.dtype,
        BATCH_SIZE=str(task.batch),
        COMPUTE_THREADS=str(task.threads),
        LOG_LEVEL="error",
        **UNCACHED,
        **(env or {}),
    )
    return Contestant(
        "sluice",
        COMMAND,
        values,
        port,
        READY,
        encode_native,
        lambda answer: answer["embeddings"],
        settings=dict(env or {}),
        metrics="/metrics",
    )


def make_artifact(task: Task, progress: Progress) -> Path:
    """The checkpoint as `sluice-inference adopt` writes it; made once."""
    folder = BUILD / "artifacts" / task.checkpoint.name
    if (folder / "manifest.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    adopt = (sys.executable, "-m", "sluice_inference", "adopt", str(task.checkpoint), str(folder))
    with progress.step("adopt the model: our artifact from it"):
        subprocess.run(
            (*adopt, "--space", "benchmark"),
            env={**os.environ, "PYTHONPATH": str(ROOT / "inference")},
            stdout=sys.stderr,
            check=True,
        )
    return folder


def make_infinity(task: Task, progress: Progress) -> Contestant:
    """infinity-emb with its defaults. Raises UnavailableError."""
    python = make_venv("infinity", progress)
    port = find_port()
    command = (
        *(str(python.parent / "infinity_emb"), "v2"),
        *("--model-id", str(task.checkpoint), "--served-model-name", "benchmark"),
        *("--engine", "torch", "--device", task.device, "--dtype", task.dtype),
        *("--batch-size", str(task.batch), "--host", "127.0.0.1", "--port", str(port)),
        *("--log-level", "error", "--no-trust-remote-code"),
    )
    env = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    return Contestant(
        "infinity",
        command,
        env,
        port,
        "/health",
        encode_infinity,
        lambda answer: [one["embedding"] for one in answer["data"]],
    )


def make_baseline(
    task: Task, progress: Progress, *, torch_threads: int, workers: int, batch: int
) -> Contestant:
    """FastAPI and transformers, with one of its settings. Raises UnavailableError."""
    python = make_venv("baseline", progress)
    port = find_port()
    settings = {"torch_threads": torch_threads, "workers": workers, "batch": batch}
    command = (
        *(str(python), str(Path(__file__).with_name("baseline.py"))),
        *("--model", str(task.checkpoint), "--port", str(port), "--device", task.device),
        *("--dtype", task.dtype, "--torch-threads", str(torch_threads)),
        *("--workers", str(workers), "--batch", str(batch)),
    )
    return Contestant(
        f"baseline-{torch_threads}-{workers}-{batch}",
        command,
        {"HF_HUB_OFFLINE": "1"},
        port,
        "/health",
        encode_native,
        lambda answer: answer["embeddings"],
        settings=settings,
    )


def list_baselines(task: Task, progress: Progress) -> list[Contestant]:
    """The settings that are worth trying on this machine: with and without batching, few and all threads."""
    cpus = len(os.sched_getaffinity(0))
    threads = sorted({max(1, task.threads // 2), task.threads})
    return [
        make_baseline(task, progress, torch_threads=count, workers=min(16, cpus), batch=batch)
        for batch in sorted({1, task.batch})
        for count in (threads if task.device == "cpu" else threads[-1:])
    ]


def encode_native(images: Sequence[bytes]) -> bytes:
    """One picture as the body, several as a form: what our own route and the baseline take."""
    if len(images) == 1:
        return make_request("/embed", images[0], "image/jpeg")
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{at}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
        for at, image in enumerate(images)
    ]
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    return make_request("/embed", body, f"multipart/form-data; boundary={_BOUNDARY}")


def encode_infinity(images: Sequence[bytes]) -> bytes:
    """Pictures as data URIs in JSON, the only way in that infinity has for bytes."""
    urls = ["data:image/jpeg;base64," + base64.b64encode(one).decode() for one in images]
    body = json.dumps({"model": "benchmark", "modality": "image", "input": urls}).encode()
    return make_request("/embeddings", body, "application/json")
