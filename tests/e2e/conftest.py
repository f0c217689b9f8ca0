"""What end-to-end tests share: a node tier with Sluice on it, and the pizza model in its registry."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.pizza import deploy
from examples.pizza.__main__ import main as pizza
from testbed import images, install
from testbed.cluster import Cluster
from testbed.progress import Progress


@dataclass(frozen=True)
class Stage:
    """Everything that a test plays on."""

    cluster: Cluster
    image: str  # the inference image's reference
    scene: Path  # a held-out scene, PNG
    digests: dict[str, str]  # of the published versions


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster.load()


@pytest.fixture(scope="session")
def stage(cluster: Cluster) -> Stage:
    """Operator and images on the node tier, both versions trained and published."""
    assert pizza(["build"]) == 0
    progress = Progress()
    image = images.ensure(cluster, ["inference-cpu"], progress)["inference-cpu"]
    install.install_operator(cluster, progress)
    scene = cluster.folder / "scene.png"
    pizza(["scene", "--seed", "1", "--out", str(scene)])
    digests = {version: deploy.publish(cluster, version) for version in ("1.0.0", "1.1.0")}
    return Stage(cluster, image, scene, digests)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, with the restricted standard enforced; nobody waits for its end."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    deploy.make_namespace(cluster, name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def read(cluster: Cluster, *command: str) -> dict[str, object]:
    """What kubectl prints as JSON."""
    found: dict[str, object] = json.loads(cluster.kubectl(*command, "-o", "json").stdout)
    return found
