"""Every constraint of the schemas has a sample that breaks it, and parsing agrees with the schema."""

import re

import pytest

from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.errors import UserError
from tests.samples.catalog import Sample, list_constraints, load_samples

PARSERS = {"ModelVersion": ModelVersion.parse, "InferenceService": InferenceService.parse}
# The API server writes a map's key as `[key]`, parsing as `.key`.
_MAP_KEY = re.compile(r"\[([a-z]+)\]")

VALID = load_samples("valid")
INVALID = load_samples("invalid")
# What parsing holds too: requirements and bounds. Forms are in test_scalars; rules over several
# fields and doubles are the API server's alone.
PARSED = [
    sample
    for sample in INVALID
    if sample.breaks.startswith("spec") and ": rule " not in sample.breaks
    if not sample.breaks.endswith((": duplicate", "metadata.name: maxLength"))
]


def by_name(sample: Sample) -> str:
    return sample.name


@pytest.mark.parametrize("kind", ["ModelVersion", "InferenceService"])
def test_every_constraint_has_a_sample_that_breaks_it(kind: str) -> None:
    broken = {sample.breaks for sample in INVALID if sample.kind == kind}
    assert list_constraints(kind) - broken == set(), "constraints without a sample"
    assert broken - list_constraints(kind) == set(), "samples for constraints that are gone"


@pytest.mark.parametrize("sample", VALID, ids=by_name)
def test_valid_sample_is_parsed(sample: Sample) -> None:
    (document,) = sample.documents
    parsed = PARSERS[sample.kind](document)
    assert parsed.metadata.name == document["metadata"]["name"]


@pytest.mark.parametrize("sample", PARSED, ids=by_name)
def test_invalid_value_is_refused_with_its_path(sample: Sample) -> None:
    with pytest.raises(UserError) as refused:
        PARSERS[sample.kind](sample.documents[-1])
    assert refused.value.reason == "InvalidSpec"
    paths = [_MAP_KEY.sub(r".\1", field) for field, _ in sample.causes]
    assert any(f"{path}: " in refused.value.message for path in paths), refused.value.message
