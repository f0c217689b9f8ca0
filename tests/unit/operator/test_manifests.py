"""Golden files of everything that a revision renders to.  UPDATE_GOLDEN=1 writes them anew."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.actions import Apply
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.labels import COURSE
from sluice.plan import plan
from sluice.resources.metadata import Owner
from sluice.rollout.course import load_course
from sluice.world import Policy, World
from tests.builders import ServiceBuilder, VersionBuilder, inference_service, model_version

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = {
    "smallest": (inference_service(), model_version()),
    "gpu": (
        inference_service()
        .scales(2, 10)
        .runtime(runtimeClassName="nvidia", nodeSelector={"pool": "gpu"}),
        model_version().memory("4Gi").gpus(1, memory="40Gi", products=["NVIDIA-H100-80GB-HBM3"]),
    ),
    "claim": (inference_service(), model_version().uri("pvc://models/pizza/1.0.0")),
}


class Plain(yaml.SafeDumper):
    """No anchors: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(service: ServiceBuilder, version: VersionBuilder) -> str:
    obj = service.obj()
    world = World(
        owner=Owner("vision", "pizza", "uid-pizza"),
        generation=1,
        status={},
        service=InferenceService.parse(obj),
        version=ModelVersion.parse(version.obj()),
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    first = plan(world, now, Policy())
    (record,) = first.actions
    assert isinstance(record, Apply)
    assert first.target is not None
    # The record comes first, and everything else once it is there.
    view = replace(
        first.target,
        children={record.kind: record.manifest},
        course=load_course(record.manifest["metadata"]["annotations"][COURSE]),
    )
    decided = plan(replace(world, revisions={view.hash: view}), now, Policy())
    manifests = [action.manifest for action in decided.actions if isinstance(action, Apply)]
    manifests.insert(0, record.manifest)
    return yaml.dump_all(manifests, Dumper=Plain, sort_keys=False)


@pytest.mark.parametrize(("service", "version"), CASES.values(), ids=CASES)
def test_the_manifests_are_as_recorded(
    service: ServiceBuilder, version: VersionBuilder, request: pytest.FixtureRequest
) -> None:
    golden = GOLDEN / f"manifests-{request.node.callspec.id}.yaml"
    rendered = render(service, version)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(rendered)

    assert rendered == golden.read_text(), f"UPDATE_GOLDEN=1 writes {golden.name} anew"
