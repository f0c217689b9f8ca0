"""bench-accuracy: what training measured is what the server serves.

Builds the example's versions (cached), starts the real server once per version, sends every held-out
image to /classify as PNG, and compares. The last line of stdout is one JSON object; exit code 1 when a
served accuracy is not the trained one or a goal is missed. Must not import what it measures: it uses the
command lines and HTTP, as anyone would.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving.ours import start_ours
from benchmarks.serving.venvs import ROOT

READY_WITHIN_S = 120.0
CONNECTIONS = 4
GOAL_ACCURACY = 0.85  # of the best version; the first one stays below
GOAL_GEOMETRY = 0.10  # above the same budget without the geometry tower
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "inference"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep),
}


class ServerFailedError(RuntimeError):
    """The server did not become ready, or gave an answer that is none."""


def main() -> int:
    """Run the benchmark; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as scratch:
        built, holdout = Path(scratch) / "built", Path(scratch) / "holdout"
        run_example("build", "--out", str(built))
        run_example("holdout", "--out", str(holdout))
        summary = json.loads((built / "summary.json").read_text(encoding="utf-8"))
        lines = (holdout / "labels.jsonl").read_text(encoding="utf-8").splitlines()
        samples = [
            ((holdout / line["image"]).read_bytes(), line["label"])
            for line in map(json.loads, lines)
        ]
        results = {}
        for version in summary["versions"]:
            correct = count_correct(version, built / version["version"] / "artifact", samples)
            results[version["version"]] = {
                "trained": version["accuracy"],
                "served": correct / len(samples),
            }
    problems = judge_results(results, summary["without_geometry"])
    for problem in problems:
        say(f"MISSED {problem}")
    print(
        json.dumps(
            {
                "versions": results,
                "without_geometry": summary["without_geometry"],
                "holdout": len(samples),
            }
        )
    )
    return 1 if problems else 0


def judge_results(versions: dict[str, dict[str, float]], without_geometry: float) -> list[str]:
    """What of the goals is missed, in words; nothing when all are met. Versions from first to last."""
    problems = [
        f"{version}: served accuracy {seen['served']:.4f} is not the trained {seen['trained']:.4f}"
        for version, seen in versions.items()
        if seen["served"] != seen["trained"]
    ]
    (first, early), (last, best) = next(iter(versions.items())), list(versions.items())[-1]
    if best["trained"] < GOAL_ACCURACY:
        problems.append(f"{last}: accuracy {best['trained']:.4f}, the goal is {GOAL_ACCURACY}")
    if early["trained"] >= GOAL_ACCURACY:
        problems.append(
            f"{first}: accuracy {early['trained']:.4f}, it is to stay below {GOAL_ACCURACY}"
        )
    if best["trained"] - without_geometry < GOAL_GEOMETRY:
        problems.append(
            f"{last}: {best['trained'] - without_geometry:+.4f} by the geometry tower, "
            f"the goal is {GOAL_GEOMETRY:+}"
        )
    return problems


def count_correct(version: dict[str, Any], artifact: Path, samples: list[tuple[bytes, str]]) -> int:
    """Serve one version, ask it about every sample (PNG bytes, label); how many labels it gets right."""
    with open_server(version, artifact) as port:
        say(f"{version['version']}: serving on port {port}, sending {len(samples)} images")
        shares = [samples[start::CONNECTIONS] for start in range(CONNECTIONS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            correct = sum(pool.map(lambda share: ask_all(port, share), shares))
    say(f"{version['version']}: {correct} of {len(samples)} right")
    return correct


def ask_all(port: int, samples: list[tuple[bytes, str]]) -> int:
    """Send samples one by one over one connection; how many labels were right."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    correct = 0
    for png, label in samples:
        connection.request("POST", "/classify", body=png, headers={"Content-Type": "image/png"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ServerFailedError(f"POST /classify: {response.status} {body[:500]!r}")
        correct += json.loads(body)["predictions"][0]["label"] == label
    connection.close()
    return correct


@contextmanager
def open_server(version: dict[str, Any], artifact: Path) -> Iterator[int]:
    """The real server process on an artifact's folder; yields its port once it is ready."""
    config = json.loads((artifact / "config.json").read_text(encoding="utf-8"))
    server = start_ours(
        artifact.parent / "server.log",
        MODEL_PATH=str(artifact),
        MODEL_NAME="pizza-spatial",
        MODEL_VERSION=version["version"],
        MODEL_DIGEST=version["digest"],
        MODEL_FORMAT="ONNX",
        MODEL_TASKS=",".join(config["tasks"]),
        EMBEDDING_SPACE=config["embedding"]["space"],
        EMBEDDING_DIMENSION=str(config["embedding"]["dimension"]),
        DEVICE="cpu",
        DRAIN_LINGER_S="0",
    )
    try:
        server.wait_ready(READY_WITHIN_S)
        yield server.port
        server.terminate(40)
    finally:
        server.kill()


def run_example(*arguments: str) -> None:
    """Run a command of the example; its stdout goes to our stderr."""
    say(f"python -m examples.pizza {' '.join(arguments)}")
    subprocess.run(
        [sys.executable, "-m", "examples.pizza", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=sys.stderr,
        check=True,
    )


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
