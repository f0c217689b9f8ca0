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
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"{MODEL}-{recipe.version}"},
        "spec": {
            "model": MODEL,
            "version": recipe.version,
            "lifecycle": "Active",
            "tasks": list(TASKS),
            "architecture": ARCHITECTURE,
            "embedding": {"space": SPACE, "dimension": DIMENSION},
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
            "requirements": {
                "memory": "512Mi",
                "gpu": {"count": 1},
                "precision": "float32",
            },
        },
    }


def make_cnn_modelversion(
    uri: str, digest: str, size: int, metrics: dict[str, str]
) -> dict[str, Any]:
    """The fallback's manifest: no embeddings, no GPU. Arguments as for the versions."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {"name": f"{CNN_MODEL}-{CNN_VERSION}"},
        "spec": {
            "model": CNN_MODEL,
            "version": CNN_VERSION,
            "lifecycle": "Active",
            "tasks": ["Classification"],
            "architecture": "CNN",
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
            "requirements": {"memory": "256Mi", "precision": "int8"},
        },
    }


def write_modelversion(path: Path, manifest: dict[str, Any]) -> None:
    """Write it as YAML, in the order in which people read it."""
    path.write_text(
        f"# Made by `python -m examples.pizza build`: {len(LABELS)} labels, measured on "
        f"{HOLDOUT_NAME}.\n" + yaml.safe_dump(manifest, sort_keys=False),
        encoding="utf-8",
    )
