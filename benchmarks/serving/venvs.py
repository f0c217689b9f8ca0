"""Python environments of the servers that ours is compared with, each with what its authors ask for.

Made once under build/ with uv, from the registries the machine is set up for. Every environment has the torch
of this one, so that no server is ahead by its libraries alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from testbed.progress import Progress

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench-serve"
_UV = Path(sys.executable).parent / "uv"

PACKAGES: dict[str, tuple[str, ...]] = {
    # Newer ones of click break its command line.
    "infinity": (
        "infinity-emb[torch,vision,server]",
        "transformers<5",
        "click<8.2",
        "aiohttp",  # its server reads data URIs with it, and does not ask for it
    ),
    "baseline": (
        "fastapi",
        "uvicorn[standard]",
        "python-multipart",
        "transformers>=5",
        "pillow",
        "numpy",
    ),
}


class UnavailableError(Exception):
    """A server that can't be compared with here, and why."""


def make_venv(name: str, progress: Progress) -> Path:
    """The python of the environment, installed now or before. Raises UnavailableError."""
    packages = (*PACKAGES[name], f"torch=={version('torch').partition('+')[0]}")
    key = hashlib.sha256("\n".join((sys.version, *packages)).encode()).hexdigest()[:10]
    folder = BUILD / "venvs" / f"{name}-{key}"
    python = folder / "bin" / "python"
    if (folder / ".installed").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    with progress.step(f"install {name} into an environment of its own"):
        _run(str(_UV), "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(str(_UV), "pip", "install", "--quiet", "--python", str(python), *packages)
    (folder / ".installed").touch()
    return python


def list_versions(python: Path, *names: str) -> dict[str, str]:
    """What is installed there, of `names`."""
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run([python, "-c", code, *names], capture_output=True, check=True)
    return dict(json.loads(answer.stdout))


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, check=True, stdout=sys.stderr, stderr=subprocess.PIPE, env=os.environ
        )
    except FileNotFoundError as error:
        raise UnavailableError("uv is missing: run `make setup`") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise UnavailableError(f"the installation failed: {' '.join(lines[-3:])}") from error
