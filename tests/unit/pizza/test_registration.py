"""The ModelVersion manifest of a built version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from examples.pizza.registration import make_modelversion, write_modelversion
from examples.pizza.versions import RECIPES, Recipe
from sluice.api.modelversion import ModelVersion

DIGEST = "sha256:" + "0f" * 32


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.version)
def test_the_manifest_says_what_was_built_and_the_api_takes_it(
    recipe: Recipe, tmp_path: Path
) -> None:
    written = make_modelversion(
        recipe,
        "oci://registry.testbed:5000/models/pizza-spatial:1.0.0",
        DIGEST,
        1_500_001,
        {"accuracy": "0.912", "latencyP95Ms": "3"},
    )
    path = tmp_path / "modelversion.yaml"
    write_modelversion(path, written)
    read = yaml.safe_load(path.read_text())
    assert read == written
    assert read["metadata"]["name"] == f"pizza-spatial-{read['spec']['version']}"
    assert read["spec"]["artifact"]["size"] == "1465Ki"
    assert read["spec"]["evaluation"]["metrics"][0] == {"name": "accuracy", "value": "0.912"}
    assert ModelVersion.model_validate(read).spec.artifact.digest == DIGEST
