"""Our server beside others, on the same model, the same pictures and the same machine: `make bench-serve`.

Three servers get the same JPEG files from the same clients over HTTP: ours, `infinity-emb`, and a plain
FastAPI + transformers server (the best of its settings). They take turns for several rounds, and whoever
waits is stopped, so that a machine that drifts drifts for all; the model's forward pass alone, without any
server, has its turn too and is the ceiling. Last line of stdout: one JSON object; exit 1 when a goal that
was measured is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.instance import clean_up_when_told_to_end
from benchmarks.serving import report as reporting
from benchmarks.serving.ceiling import Ceiling
from benchmarks.serving.checkpoint import SHAPES, make_checkpoint
from benchmarks.serving.client import write_requests
from benchmarks.serving.contestants import (
    READY_S,
    Contestant,
    Task,
    list_baselines,
    make_infinity,
    make_ours,
)
from benchmarks.serving.gpu import GpuWatch
from benchmarks.serving.load import Load, Measured, apply_load
from benchmarks.serving.pictures import make_jpegs
from benchmarks.serving.process import ServerProcess
from benchmarks.serving.venvs import BUILD, UnavailableError
from benchmarks.serving.wire import Connection
from testbed.progress import Progress

PICTURES = 128
COMPARED = 16
LOGS = BUILD / "logs"  # what the servers said; kept
RIVALS = ("infinity", "baseline")


@dataclass(slots=True)
class Entrant:
    """A contestant that runs, and what was measured of it."""

    contestant: Contestant
    process: ServerProcess
    requests: Path
    ready_s: float
    vectors: list[list[float]]
    measured: Measured = field(default_factory=Measured)
    rounds: list[float | None] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    rss_mb: float = 0.0
    gpu: list[dict[str, Any]] = field(default_factory=list)

    def apply(self, load: Load, *, is_round: bool = False) -> Measured:
        """One window of load, while everybody else is stopped. How busy the GPU is, rounds alone tell."""
        watch = GpuWatch()
        self.process.resume()
        cpu, began = self.process.measure_cpu_s(), time.monotonic()
        watch.start()
        try:
            measured = apply_load(self.contestant.port, self.requests, load)
        finally:
            gpu = watch.stop()
        self.cpu_s += self.process.measure_cpu_s() - cpu
        self.wall_s += time.monotonic() - began
        self.rss_mb = max(self.rss_mb, self.process.measure_rss_mb())
        if gpu is not None and is_round:
            self.gpu.append(gpu)
        self.process.pause()
        return measured


class Contest:
    """Prepares, plays the rounds, and reports."""

    def __init__(self, options: argparse.Namespace, scratch: Path, progress: Progress) -> None:
        self._options = options
        self._scratch = scratch
        self._progress = progress
        self._task = Task(
            model=options.model,
            checkpoint=make_checkpoint(options.model, progress),
            device=options.device,
            dtype=options.dtype,
            batch=options.batch,
            images_per_request=options.images_per_request,
            threads=options.threads,
        )
        with progress.step(f"make {PICTURES} pictures"):
            self._pictures = make_jpegs(PICTURES)
        self._load = Load(options.clients, options.processes, options.seconds, options.warm_seconds)
        self._entrants: dict[str, Entrant] = {}
        self._reasons: dict[str, str] = {}
        self._tried: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def _running(self) -> Iterator[Ceiling]:
        with contextlib.ExitStack() as stack:
            with self._progress.step("start the forward pass alone"):
                task = self._task
                ceiling = Ceiling(
                    task.checkpoint,
                    task.device,
                    task.dtype,
                    self._options.ceiling_batch,
                    task.threads,
                )
                stack.callback(ceiling.kill)
                ceiling.wait_ready()
            env = dict(one.split("=", 1) for one in self._options.env)
            self._entrants["ours"] = self._enter(make_ours(task, self._progress, env), stack)
            for name in self._options.against:
                try:
                    if name == "infinity":
                        contestant = make_infinity(task, self._progress)
                        self._entrants[name] = self._enter(contestant, stack)
                    else:
                        self._entrants[name] = self._choose_baseline(stack)
                except (UnavailableError, RuntimeError) as error:
                    self._reasons[name] = str(error)
                    self._progress.say(f"{name} is left out: {error}")
            yield ceiling

    def _enter(self, contestant: Contestant, stack: contextlib.ExitStack) -> Entrant:
        """Start a server, wait for it and hold its first answer; then it waits for its turn."""
        requests = self._scratch / f"{contestant.name}.requests"
        size = self._task.images_per_request
        with self._progress.step(f"start {contestant.name}"):
            process = contestant.start(LOGS)
            stack.callback(process.kill)
            ready_s = process.wait_ready(READY_S)
        write_requests(
            requests,
            [
                contestant.encode([self._pictures[(at + more) % PICTURES] for more in range(size)])
                for at in range(PICTURES)
            ],
        )
        vectors = asyncio.run(ask_vectors(contestant, self._pictures[:COMPARED]))
        entrant = Entrant(contestant, process, requests, ready_s, vectors)
        entrant.apply(replace(self._load, seconds=1.0))
        return entrant

    def _choose_baseline(self, stack: contextlib.ExitStack) -> Entrant:
        """The fastest of the baseline's settings; the others are ended."""
        best: tuple[float, Entrant] | None = None
        for contestant in list_baselines(self._task, self._progress):
            entrant = self._enter(contestant, stack)
            with self._progress.step(f"try {contestant.name}"):
                measured = entrant.apply(replace(self._load, seconds=self._options.try_seconds))
            figures = reporting.describe(measured, self._task.images_per_request)
            self._tried.append({**contestant.settings, **figures})
            if best is None or measured.per_second > best[0]:
                best, loser = (measured.per_second, entrant), best
            else:
                loser = (0.0, entrant)
            if loser is not None:
                loser[1].process.kill()
        assert best is not None
        return best[1]

    def run(self) -> dict[str, Any]:
        """All rounds, then the report."""
        options, ours = self._options, "ours"
        size = self._task.images_per_request
        runs = {"images": 0.0, "seconds": 0.0}
        ceilings = []
        with self._running() as ceiling:
            before = self._read_stages()
            for number in range(options.rounds):
                with self._progress.step(f"round {number + 1} of {options.rounds}: forward alone"):
                    run = ceiling.measure(options.seconds / 2)
                runs = {key: runs[key] + run[key] for key in runs}
                ceilings.append(round(run["images"] / run["seconds"], 2))
                for entrant in self._entrants.values():
                    with self._progress.step(f"round {number + 1}: {entrant.contestant.name}"):
                        measured = entrant.apply(self._load, is_round=True)
                    entrant.measured.add(measured)
                    entrant.rounds.append(round(measured.per_second * size, 2))
            stages = reporting.describe_stages(before, self._read_stages())
            cosines = self._compare_vectors()
            figures = {name: self._describe(entrant) for name, entrant in self._entrants.items()}
            for name, entrant in self._entrants.items():
                figures[name] |= self._measure_latency(entrant)
        ceiling_per_s = round(runs["images"] / runs["seconds"], 2)
        rivals = {name: figures.get(name) for name in RIVALS}
        mine = figures[ours]
        found: dict[str, Any] = {
            **{key: mine[key] for key in ("images_per_s", "p50_ms", "p95_ms", "p99_ms", "failed")},
            "ceiling_images_per_s": ceiling_per_s,
            **reporting.compare(mine, ceiling_per_s, rivals),
            "gpu_busy_pct": mine.get("gpu_busy_pct"),
            "ceiling_rounds": ceilings,
            "stages": stages,
            "servers": figures,
            "not_compared": self._reasons | reporting.find_unfit(rivals),
            "baselines_tried": self._tried,
            "cosines": cosines,
            "least_cosine": min(cosines.values(), default=None),
            "setting": self._describe_setting(),
        }
        return {**found, "missed": reporting.find_missed(found, self._task.device)}

    def _describe(self, entrant: Entrant) -> dict[str, Any]:
        gpu = entrant.gpu
        return {
            **reporting.describe(entrant.measured, self._task.images_per_request),
            "rounds": entrant.rounds,
            "ready_s": round(entrant.ready_s, 1),
            "server_cpus": round(entrant.cpu_s / entrant.wall_s, 2) if entrant.wall_s else None,
            "rss_mb": round(entrant.rss_mb),
            "settings": entrant.contestant.settings,
            **(
                {"gpu_busy_pct": min(one["busy_pct"] for one in gpu), "gpu": gpu[-1]["name"]}
                if gpu
                else {}
            ),
        }

    def _measure_latency(self, entrant: Entrant) -> dict[str, Any]:
        """Latency with a steady stream below its maximum (open loop), and with a single client."""
        name, load = entrant.contestant.name, self._load
        rate = self._options.open_loop or 0.7 * entrant.measured.per_second
        if rate <= 0:
            return {}
        with self._progress.step(f"open loop: {name} at {rate:.1f} requests/s"):
            steady = entrant.apply(replace(load, rate=rate))
        with self._progress.step(f"one client: {name}"):
            alone = entrant.apply(Load(1, 1, min(load.seconds, 10.0), min(load.warm_s, 1.0)))
        size = self._task.images_per_request
        return {
            "open_loop": {"rate": round(rate, 2), **reporting.describe(steady, size)},
            "one_client": reporting.describe(alone, size),
        }

    def _compare_vectors(self) -> dict[str, float]:
        """The least cosine between our vectors and each rival's, over some pictures."""
        ours = self._entrants["ours"].vectors
        return {
            name: reporting.find_least_cosine(ours, entrant.vectors)
            for name, entrant in self._entrants.items()
            if name != "ours"
        }

    def _read_stages(self) -> dict[str, float]:
        entrant = self._entrants["ours"]
        entrant.process.resume()
        _, body = entrant.process.get(entrant.contestant.metrics)
        entrant.process.pause()
        return reporting.read_stages(body.decode())

    def _describe_setting(self) -> dict[str, Any]:
        import torch

        task = self._task
        return {
            "model": task.model,
            "device": task.device,
            "dtype": task.dtype,
            "batch": task.batch,
            "threads": task.threads,
            "cpus": len(os.sched_getaffinity(0)),
            "gpu": torch.cuda.get_device_name() if task.device == "cuda" else None,
            "torch": torch.__version__,
            "clients": self._load.clients,
            "images_per_request": task.images_per_request,
            "seconds_per_round": self._load.seconds,
            "rounds": self._options.rounds,
            "jpeg_kb": round(sum(map(len, self._pictures)) / PICTURES / 1000, 1),
        }


async def ask_vectors(contestant: Contestant, pictures: Sequence[bytes]) -> list[list[float]]:
    """What a server makes of some pictures. Raises RuntimeError where it is no embedding."""
    connection = await Connection.open(contestant.port)
    vectors = []
    try:
        for picture in pictures:
            answer = await connection.ask(contestant.encode([picture]))
            if answer.status != 200:
                raise RuntimeError(f"it answers {answer.status}: {answer.body[:300]!r}")
            vectors.append(contestant.read(json.loads(answer.body))[0])
    except OSError as error:
        raise RuntimeError(f"it does not answer: {error}") from error
    finally:
        connection.hang_up()
    return vectors


def make_parser() -> argparse.ArgumentParser:
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    say = parser.add_argument
    say("--model", choices=list(SHAPES), default="clip-vit-b32")
    say("--device", choices=["cpu", "cuda"], default="cpu")
    say("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    say("--batch", type=int, default=32, help="most images of one model run, for all servers")
    say("--ceiling-batch", type=int, default=32, help="images of a run of the forward pass alone")
    say("--threads", type=int, default=cpus, help="of the model on a CPU")
    say("--clients", type=int, default=32, help="that wait for their answer before they ask again")
    say("--processes", type=int, default=max(2, min(8, cpus // 4)), help="that clients are in")
    say("--images-per-request", type=int, default=1)
    say("--seconds", type=float, default=30.0, help="of each server in each round")
    say("--warm-seconds", type=float, default=4.0, help="before each of them, not counted")
    say("--try-seconds", type=float, default=10.0, help="for each setting of the baseline")
    say("--rounds", type=int, default=3)
    say("--open-loop", type=float, metavar="RATE", help="requests a second; else 70 %% of its most")
    say("--against", nargs="*", choices=RIVALS, default=list(RIVALS))
    say("--env", action="append", default=[], metavar="NAME=VALUE", help="for our server alone")
    return parser


def main() -> int:
    """Prepares, measures, prints."""
    options = make_parser().parse_args()
    clean_up_when_told_to_end()
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-serve-") as scratch:
        report = Contest(options, Path(scratch), Progress()).run()
    print(json.dumps(report), flush=True)
    return 1 if report["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
