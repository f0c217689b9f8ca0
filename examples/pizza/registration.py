"""The ModelVersion that registers a built version: its identity and what was measured.

Responsible for one manifest. Must not build, and must not talk to a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from examples.pizza.dataset import HOLDOUT_NAME
from examples.pizza.scenes import LABELS
from examples.pizza.versions import (
    ARCHITECTURE,
    DIMENSION,
    MODEL,
    SPACE,
    TASKS,
    Recipe,
)

API_VERSION = "sluice.dev/v1alpha1"
CNN_MODEL, CNN_VERSION = "pizza-cnn", "1.0.0"


def make_modelversion(
    recipe: Recipe, uri: str, digest: str, size: int, metrics: dict[str, str]
) -> dict[str, Any]:
    """The manifest as a mapping. ``size`` in bytes of all files; ``metrics`` are decimal strings."""
    return _make_manifest(
        MODEL,
        recipe.version,
        {
            "tasks": list(TASKS),
            "architecture": ARCHITECTURE,
            "embedding": {"space": SPACE, "dimension": DIMENSION},
        },
        _make_measured(uri, digest, size, metrics),
        {"memory": "512Mi", "gpu": {"count": 1}, "precision": "float32"},
    )


def make_cnn_modelversion(
    uri: str, digest: str, size: int, metrics: dict[str, str]
) -> dict[str, Any]:
    """The fallback's manifest: no embeddings, no GPU. Arguments as for the versions."""
    return _make_manifest(
        CNN_MODEL,
        CNN_VERSION,
        {"tasks": ["Classification"], "architecture": "CNN"},
        _make_measured(uri, digest, size, metrics),
        {"memory": "256Mi", "precision": "int8"},
    )


def _make_manifest(
    model: str,
    version: str,
    kind: dict[str, Any],
    measured: dict[str, Any],
    requirements: dict[str, Any],
) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"{model}-{version}"},
        "spec": {
            "model": model,
            "version": version,
            "lifecycle": "Active",
            **kind,
            **measured,
            "requirements": requirements,
        },
    }


def _make_measured(uri: str, digest: str, size: int, metrics: dict[str, str]) -> dict[str, Any]:
    """What a build says of itself: where it is, how large, how good."""
    return {
        "artifact": {
            "uri": uri,
            "digest": digest,
            "format": "ONNX",
            "size": f"{-(-size // 1024)}Ki",
        },
        "evaluation": {
            "dataset": HOLDOUT_NAME,
            "metrics": [{"name": name, "value": value} for name, value in metrics.items()],
        },
    }


def write_modelversion(path: Path, manifest: dict[str, Any]) -> None:
    """Write it as YAML, in the order in which people read it."""
    path.write_text(
        f"# Made by `python -m examples.pizza build`: {len(LABELS)} labels, measured on "
        f"{HOLDOUT_NAME}.\n" + yaml.safe_dump(manifest, sort_keys=False),
        encoding="utf-8",
    )
