"""Builds that are kept, so that only the first one takes minutes.

Responsible for finding a build by what went into it: the sources, the libraries' versions and the
kind of machine. Must not import torch: a build that is there is found in a second.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

_HERE = Path(__file__).parent
_SERVER = _HERE.parents[1] / "inference" / "sluice_inference"
# Everything that decides a byte of an artifact. The command line and the manifests do not.
_SOURCES = (
    *(
        _HERE / f"{name}.py"
        for name in (
            "artifact",
            "build",
            "dataset",
            "export",
            "render",
            "scenes",
            "summary",
            "training",
            "versions",
            "views",
            "vocabulary",
        )
    ),
    _SERVER / "models" / "spatial.py",
    _SERVER / "export" / "graphs.py",
)
# What the fallback is made of besides.
_FALLBACK_SOURCES = (
    *_SOURCES,
    _HERE / "cnn.py",
    _HERE / "fallback.py",
    _SERVER / "export" / "exporter.py",
    _SERVER / "export" / "quantise.py",
    _SERVER / "export" / "trial.py",
)
_LIBRARIES = ("torch", "numpy", "onnx", "onnxruntime", "tokenizers", "safetensors", "pillow")


def compute_key() -> str:
    """The content key of a build of the versions: 16 hex digits."""
    return _hash(_SOURCES)


def compute_fallback_key() -> str:
    """The content key of a build of the fallback."""
    return _hash(_FALLBACK_SOURCES)


def _hash(sources: Iterable[Path]) -> str:
    seen = hashlib.sha256()
    for source in sources:
        seen.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for library in _LIBRARIES:
        seen.update(f"{library}=={version(library)}\n".encode())
    seen.update(platform.machine().encode())
    return seen.hexdigest()[:16]


def find_root() -> Path:
    """``$XDG_CACHE_HOME/sluice/pizza``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sluice" / "pizza"


def ensure_built(root: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of build ``key`` under ``root``; made by ``build`` when it is not there.

    A build appears by one rename, so a broken one is never found, and of two at once one wins.
    """
    found = root / key
    if found.is_dir():
        return found
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{key}-", dir=root) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        build(made)
        try:
            made.rename(found)
        except OSError:
            if not found.is_dir():
                raise
    return found


def copy_folder(source: Path, target: Path) -> None:
    """Replace ``target`` by a copy of ``source``."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
