"""What the machine can do without a server: the model's forward pass alone, at one batch size.

    python -m benchmarks.serving.ceiling --model FOLDER --device cpu --batch 32 --threads 2

Loads, warms up, says "ready", then answers each line with a number of seconds by one JSON object:
{"images", "seconds"}. A process of its own, so that nothing else shares its interpreter or its threads.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_WARM_RUNS = 3


class Ceiling:
    """The process, from outside. Stopped while it is not asked."""

    def __init__(self, folder: Path, device: str, dtype: str, batch: int, threads: int) -> None:
        self._process = subprocess.Popen(
            (
                *(sys.executable, "-m", "benchmarks.serving.ceiling", "--model", str(folder)),
                *("--device", device, "--dtype", dtype),
                *("--batch", str(batch), "--threads", str(threads)),
            ),
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def wait_ready(self) -> None:
        """Raises RuntimeError if it ends before."""
        if self._out.readline().strip() != "ready":
            raise RuntimeError("the forward pass alone could not be measured: its process ended")
        self._process.send_signal(signal.SIGSTOP)

    def measure(self, seconds: float) -> dict[str, float]:
        """{"images", "seconds"} of whole runs, at least so long. Raises RuntimeError if it ends."""
        self._process.send_signal(signal.SIGCONT)
        self._in.write(f"{seconds}\n")
        self._in.flush()
        line = self._out.readline()
        if not line:
            raise RuntimeError("the forward pass alone could not be measured: its process ended")
        self._process.send_signal(signal.SIGSTOP)
        return dict(json.loads(line))

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def make_runner(folder: str, device: str, dtype: str, batch: int) -> Callable[[], None]:
    """One run of the image tower over random pictures that are already on the device."""
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(
        folder, local_files_only=True, dtype=getattr(torch, dtype)
    )
    model.to(device).eval()
    size = model.config.vision_config.image_size
    pixels = torch.randn(batch, 3, size, size).to(device, model.dtype)

    def run() -> None:
        with torch.inference_mode():
            model.get_image_features(pixel_values=pixels)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure(run: Callable[[], None], batch: int, seconds: float) -> dict[str, float]:
    """Whole runs for at least so long."""
    began, runs = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        run()
        runs += 1
    return {"images": runs * batch, "seconds": elapsed}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.ceiling")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    run = make_runner(options.model, options.device, options.dtype, options.batch)
    for _ in range(_WARM_RUNS):
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(run, options.batch, float(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
