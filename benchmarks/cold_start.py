"""bench-cold-start: from the start of the server's process to its first 200 on /ready; and the images' sizes.

    python -m benchmarks.cold_start [--runs 5]

Models: the example's best version and its INT8 fallback (ONNX Runtime), and a CLIP ViT-B/32 of random weights
(torch), adopted as a published one would be. Files are in the page cache, as they are where `fetch` has just
written them. Sizes are those of the images that the testbed has built (`make images`), unpacked. Must not
import what it measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fallback import ROOT, make_fallback
from benchmarks.serving.ours import start_ours
from benchmarks.serving.process import ServerProcess
from testbed.errors import ClusterError
from testbed.progress import Progress

READY_S = 300.0
TICK_S = 0.01
CLIP = "clip-vit-b32"


@dataclass(frozen=True)
class Model:
    """What is started. `format` as in a ModelVersion."""

    name: str
    artifact: Path
    format: str


def main() -> int:
    """Run the benchmark; the exit code is 1 where a model can't be made or started."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="starts of each model")
    options = parser.parse_args()
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="bench-cold-start-") as scratch:
        models = list_models(Path(scratch), progress)
        starts = {}
        for model in models:
            with progress.step(f"start {model.name} {options.runs} times"):
                log = Path(scratch) / "server.log"
                starts[model.name] = summarise([start(model, log) for _ in range(options.runs)])
    print(json.dumps({"starts": starts, "images": measure_images(read_storage(), find_keys())}))
    return 0


def list_models(scratch: Path, progress: Progress) -> list[Model]:
    """The models, made where they are not kept from before."""
    from benchmarks.serving.checkpoint import make_checkpoint
    from benchmarks.serving.contestants import Task, make_artifact

    version = "1.1.0"
    subprocess.run(
        (
            sys.executable,
            "-m",
            *f"examples.pizza build --version {version} --out".split(),
            str(scratch),
        ),
        cwd=ROOT,
        stdout=sys.stderr,
        check=True,
    )
    checkpoint = make_checkpoint(CLIP, progress)
    clip = make_artifact(Task(CLIP, checkpoint, "cpu", "float32", 32, 1, 2), progress)
    return [
        Model("pizza-spatial", scratch / version / "artifact", "ONNX"),
        Model("pizza-cnn-int8", make_fallback(scratch), "ONNX"),
        Model(CLIP, clip, "Safetensors"),
    ]


def start(model: Model, log: Path) -> dict[str, float]:
    """Start and end the server once; seconds to the first /health and to /ready, and of load and warm-up."""
    began = time.monotonic()
    server = start_ours(
        log,
        MODEL_PATH=str(model.artifact),
        MODEL_FORMAT=model.format,
        DEVICE="cpu",
        DRAIN_LINGER_S="0",
    )
    try:
        alive = wait_for(server, "/health", began)
        ready = wait_for(server, "/ready", began)
        metrics = server.get("/metrics")[1].decode()
        server.terminate(40)
    finally:
        server.kill()
    return {
        "alive_s": alive,
        "ready_s": ready,
        "load_s": read_metric(metrics, "sluice_inference_model_load_seconds"),
        "warmup_s": read_metric(metrics, "sluice_inference_warmup_seconds"),
    }


def wait_for(server: ServerProcess, path: str, began: float) -> float:
    """Seconds since `began` at the first 200. Raises RuntimeError with the server's last words."""
    while server.get(path)[0] != 200:
        if time.monotonic() - began > READY_S or not is_alive(server.pid):
            raise RuntimeError(f"{path} is not 200: {server.read_last_words()}")
        time.sleep(TICK_S)
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not waited for doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def read_metric(text: str, name: str) -> float:
    """The first sample of a metric, with or without labels; NaN where there is none."""
    for line in text.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")):
            return float(line.rpartition(" ")[2])
    return float("nan")


def summarise(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure, and the longest time to ready."""
    medians = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    return {**medians, "ready_max_s": round(max(run["ready_s"] for run in runs), 3)}


def measure_images(stored: list[dict[str, Any]], keys: Mapping[str, str]) -> dict[str, str | None]:
    """Sizes by image, as the storage says them; None for one that was not built from this tree."""
    sizes = {name: image["size"] for image in stored for name in image.get("names") or ()}
    return {image: sizes.get(f"localhost/sluice-{image}:{key}") for image, key in keys.items()}


def find_keys() -> dict[str, str]:
    """The tags that the images of this tree have, built or not."""
    from testbed import base, images

    return {
        name: images.key_of(images.IMAGES[name], ROOT, base.reference())
        for name in ("inference-cpu", "inference-gpu")
    }


def read_storage() -> list[dict[str, Any]]:
    """What the testbed's image storage holds; nothing where there is no buildah."""
    from testbed import buildah

    try:
        listed: list[dict[str, Any]] = json.loads(buildah.run("images", "--json") or "[]")
    except ClusterError as error:
        print(f"no image sizes: {error}", file=sys.stderr)
        return []
    return listed


if __name__ == "__main__":
    sys.exit(main())
