"""What kubelets and the operator ask of a server needs no key: they have none to show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sluice.analysis import pods
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.resources.pod import make_pod_template
from sluice.resources.revision import make_inputs
from sluice_inference.guarding.roles import ALWAYS_OPEN
from tests.builders import inference_service, model_version

CONTRACT = (Path(__file__).parents[3] / "docs" / "contract.md").read_text()


def find_probes() -> set[str]:
    """The paths that the operator has kubelets ask."""
    inputs = make_inputs(
        InferenceService.parse(inference_service().obj()),
        ModelVersion.parse(model_version().obj()),
    )
    spec: dict[str, Any] = make_pod_template("pizza", "bcdfghjklm", inputs)["spec"]
    return {
        value["httpGet"]["path"]
        for name, value in spec["containers"][0].items()
        if name.endswith("Probe")
    }


def test_what_is_asked_without_a_key_is_open_always() -> None:
    probes = find_probes()
    assert probes == {"/health", "/ready"}
    assert probes | {pods.PATH} <= ALWAYS_OPEN


def test_the_contract_names_them() -> None:
    sentence = re.search(r"^(.*) need no key, whatever", CONTRACT, re.MULTILINE)
    assert sentence
    assert set(re.findall(r"`([^`]+)`", sentence[1])) == find_probes() | {pods.PATH}
