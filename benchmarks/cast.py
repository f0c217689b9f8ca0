"""Which model a theatre plays with: the test double, which can be told to misbehave, or the trained example.

A cast knows its model's artifacts and manifests, and which flaws a candidate of it may have.  It plays
nothing and measures nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from examples.fake import deploy as fake
from examples.pizza import deploy as pizza
from examples.pizza.__main__ import main as run_pizza
from testbed.cluster import Cluster


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a candidate, and the share of the clients at which a scenario looks at it."""

    env: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # the built version whose artifact it serves
    weight: int = 20  # percent


class Cast(Protocol):
    """One model as benchmarks ship it."""

    @property
    def service(self) -> str:
        """Name of its InferenceService."""

    @property
    def host(self) -> str:
        """What the gateway knows the service by."""

    @property
    def rate(self) -> float:
        """Requests a second that two pods of each of two versions carry on two cores."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables of every version, so that each batch costs something."""

    @property
    def flaws(self) -> Mapping[str, Flaw]:
        """By the name of the scenario."""

    def publish(self, cluster: Cluster) -> None:
        """Push its artifacts; comes before any manifest."""

    def write_image(self, path: Path) -> Path:
        """A picture that clients send, as PNG; gives the path."""

    def make_version(self, version: str, source: str) -> dict[str, Any]:
        """A ModelVersion; `source` as in `Flaw`."""

    def make_service(
        self,
        version: str,
        image: str,
        env: Mapping[str, str],
        rollout: Mapping[str, Any],
        replicas: int,
    ) -> dict[str, Any]:
        """The InferenceService on that version, behind the gateway."""


@dataclass
class Fake:
    """The real server with its test double."""

    service: str = fake.MODEL
    timeout: str = "10s"
    # CPU that a pod asks for.  With 20m clients of stable met timeouts while candidates started on a busy
    # machine; that it was for want of CPU is likely, and was not measured.
    cpu: str = "100m"
    rate: float = 300.0
    env: Mapping[str, str] = field(default_factory=lambda: {"FAKE_LATENCY_MS": "10"})
    flaws: Mapping[str, Flaw] = field(
        default_factory=lambda: {
            "errs": Flaw({"FAKE_ERROR_PERCENT": "5"}),
            "slower": Flaw({"FAKE_LATENCY_MS": "13"}, weight=50),
            "never-ready": Flaw({"FAKE_NEVER_READY": "true"}),
            "fails-later": Flaw({"FAKE_FAIL_AFTER_INPUTS": "100"}),
            # Longer than the route waits, and than the server would.
            "hangs": Flaw({"FAKE_LATENCY_MS": "20000", "REQUEST_TIMEOUT_MS": "60000"}),
        }
    )
    digest: str = ""

    @property
    def host(self) -> str:
        return fake.find_host(self.service)

    def publish(self, cluster: Cluster) -> None:
        self.digest = fake.publish(cluster)

    def write_image(self, path: Path) -> Path:
        return fake.write_image(path)

    def make_version(self, version: str, source: str) -> dict[str, Any]:
        return fake.make_version(version, self.digest)

    def make_service(
        self,
        version: str,
        image: str,
        env: Mapping[str, str],
        rollout: Mapping[str, Any],
        replicas: int,
    ) -> dict[str, Any]:
        return fake.make_service(
            version,
            image,
            name=self.service,
            env=env,
            rollout=rollout,
            replicas=replicas,
            cpu=self.cpu,
            timeout=self.timeout,
        )


@dataclass
class Pizza:
    """The trained model: every version is 1.1.0 by another number, or the slow 1.2.0."""

    service: str = pizza.SERVICE
    host: str = pizza.HOST
    rate: float = 60.0
    env: Mapping[str, str] = field(default_factory=dict)
    flaws: Mapping[str, Flaw] = field(
        default_factory=lambda: {"slower": Flaw(source="1.2.0", weight=25)}
    )

    def publish(self, cluster: Cluster) -> None:
        if run_pizza(["build"]) != 0:
            raise RuntimeError("the example's versions were not built: see above")
        for version in ("1.1.0", "1.2.0"):
            pizza.publish(cluster, version)

    def write_image(self, path: Path) -> Path:
        run_pizza(["scene", "--seed", "1", "--out", str(path)])
        return path

    def make_version(self, version: str, source: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(pizza.make_version(source or "1.1.0"))
        found["metadata"]["name"] = f"{pizza.MODEL}-{version}"
        found["spec"]["version"] = version
        return found

    def make_service(
        self,
        version: str,
        image: str,
        env: Mapping[str, str],
        rollout: Mapping[str, Any],
        replicas: int,
    ) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            pizza.make_service(version, image, env=env, rollout=rollout, replicas=replicas)
        )
        return found


CASTS: Mapping[str, type[Fake | Pizza]] = {"fake": Fake, "pizza": Pizza}
