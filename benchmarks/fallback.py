"""bench-fallback: the example's INT8 CNN on this machine's CPUs, over HTTP, with 50 clients that don't wait.

    python -m benchmarks.fallback [--clients 50] [--seconds 20]

Makes the fallback (cached), starts the real server on it, and asks /classify with distinct 500x375 JPEGs,
each client sending its next one when it has the last answer. Then the same at a steady rate below
saturation, where latency is the server's and not the queue's. The clients run on the same CPUs; their share
is in the result. Must not import what it measures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.serving.client import write_requests
from benchmarks.serving.load import Load, Measured, apply_load
from benchmarks.serving.ours import UNCACHED, start_ours
from benchmarks.serving.pictures import make_jpegs
from benchmarks.serving.process import ServerProcess
from benchmarks.serving.wire import make_request

ROOT = Path(__file__).resolve().parents[1]
READY_S = 120.0
PICTURES = 64
WARM_S = 3.0
RATE = 60.0  # images a second of the second window: what the fallback is asked to carry at least
GOAL_P95_S = 1.0
GOAL_RSS_MB = 1024.0


def main() -> int:
    """Run the benchmark; the exit code is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fallback", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1, help="of the clients")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two windows")
    options = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}s] {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-fallback-") as scratch:
        artifact = make_fallback(Path(scratch))
        requests = Path(scratch) / "requests"
        write_requests(
            requests,
            [make_request("/classify", one, "image/jpeg") for one in make_jpegs(PICTURES)],
        )
        server = start_server(artifact, Path(scratch) / "server.log")
        try:
            say(f"ready after {server.wait_ready(READY_S):.2f} s")
            full = Load(options.clients, options.processes, options.seconds, WARM_S)
            cpu = server.measure_cpu_s()
            closed = apply_load(server.port, requests, full)
            cpu = server.measure_cpu_s() - cpu
            say(f"{options.clients} clients: {closed.per_second:.0f} images/s")
            steady = Load(options.clients, options.processes, options.seconds, WARM_S, RATE)
            paced = apply_load(server.port, requests, steady)
            rss_mb = read_peak_mb(server.pid)
            server.terminate(40)
        finally:
            server.kill()
    result = report(closed, paced, rss_mb, cpu / (options.seconds + WARM_S))
    problems = judge(result)
    for problem in problems:
        say(f"MISSED {problem}")
    print(json.dumps(result))
    return 1 if problems else 0


def report(closed: Measured, paced: Measured, rss_mb: float, server_cpus: float) -> dict[str, Any]:
    """The figures by name. Latencies in seconds; CPUs are how many were busy on average."""
    return {
        "p95_s": round(closed.quantile_ms(0.95) / 1000, 4),
        "images_per_s": round(closed.per_second, 1),
        "rss_mb": round(rss_mb, 1),
        "p50_s": round(closed.quantile_ms(0.5) / 1000, 4),
        "failed": closed.failed + paced.failed,
        f"p95_at_{RATE:g}_per_s": round(paced.quantile_ms(0.95) / 1000, 4),
        "server_cpus": round(server_cpus, 2),
        "client_cpus": round(closed.client_cpu_s / closed.seconds, 2),
        "cpus": len(os.sched_getaffinity(0)),
    }


def judge(result: dict[str, Any]) -> list[str]:
    """What of the goals is missed, in words."""
    problems = []
    if not result["p95_s"] < GOAL_P95_S:
        problems.append(f"p95_s {result['p95_s']}, the goal is below {GOAL_P95_S:g}")
    if not result["rss_mb"] < GOAL_RSS_MB:
        problems.append(f"rss_mb {result['rss_mb']}, the goal is below {GOAL_RSS_MB:g}")
    if result["failed"]:
        problems.append(f"{result['failed']} requests failed, the goal is none")
    return problems


def make_fallback(folder: Path) -> Path:
    """The fallback's artifact, from the example's own command line."""
    subprocess.run(
        [sys.executable, "-m", "examples.pizza", "fallback", "--out", str(folder)],
        cwd=ROOT,
        stdout=sys.stderr,
        check=True,
    )
    return folder / "pizza-cnn" / "artifact"


def start_server(artifact: Path, log: Path) -> ServerProcess:
    """The server as the operator starts a fallback: its defaults, on the CPU."""
    return start_ours(
        log,
        MODEL_PATH=str(artifact),
        MODEL_NAME="pizza-cnn",
        MODEL_VERSION="1.0.0",
        MODEL_FORMAT="ONNX",
        MODEL_TASKS="Classification",
        PRECISION="int8",
        DEVICE="cpu",
        DRAIN_LINGER_S="0",
        **UNCACHED,
    )


def read_peak_mb(pid: int) -> float:
    """The most memory that a process ever had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmHWM; it has ended")


if __name__ == "__main__":
    sys.exit(main())
