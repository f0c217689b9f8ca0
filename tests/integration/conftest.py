"""What integration tests share: the cluster they run against, and the operator at work on it."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import dataplane
from testbed.cluster import Cluster
from testbed.dataplane import DataPlane
from testbed.errors import ClusterError
from tests.audit import AuditLog
from tests.integration.redis_server import RedisServer, start_redis
from tests.operator_process import USER, OperatorProcess, install, write_kubeconfig
from tests.plane import Obj, Plane
from tests.rows import find_contradictions
from tests.space import Space

ROOT = Path(__file__).parents[2]
# How long the operator lets a predecessor finish its requests: no client is on a simulated pod.
DRAIN_LAG_S = 1.0


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A redis-server of the test's own; it may kill it."""
    with start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The instance that TESTBED_NAME names (default sluice), brought up when it is not running."""
    name = os.environ.get("TESTBED_NAME", "sluice")
    try:
        return Cluster.load(name)
    except ClusterError:
        command = [sys.executable, "-m", "testbed", "up", "--name", name]
        subprocess.run(command, check=True, cwd=ROOT)
        return Cluster.load(name)


@pytest.fixture(scope="session")
def plane(cluster: Cluster) -> Iterator[Plane]:
    """The API server, as administrator."""
    plane = Plane(cluster.kubeconfig)
    yield plane
    plane.close()


@pytest.fixture(scope="session")
def data(cluster: Cluster) -> Iterator[DataPlane]:
    """The data plane: simulated pods answer requests, Gateways of class `simulated` forward them."""
    plane = dataplane.start(cluster)
    yield plane
    plane.stop()


@pytest.fixture(scope="session")
def whole_audit(cluster: Cluster) -> AuditLog:
    """What the operator asked of the API server since these tests began."""
    return AuditLog(cluster.audit_log, USER)


@pytest.fixture(scope="session")
def installed_operator(
    cluster: Cluster, whole_audit: AuditLog, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator with the rights of config/rbac; use `operator`, which sees to it that it runs."""
    folder = tmp_path_factory.mktemp("operator")
    install(cluster)
    kubeconfig = write_kubeconfig(cluster, folder / "kubeconfig")
    process = OperatorProcess(kubeconfig, folder, enter=cluster.enter, drain_lag=DRAIN_LAG_S)
    yield process
    process.kill()


@pytest.fixture
def operator(installed_operator: OperatorProcess) -> OperatorProcess:
    """The operator, at work."""
    if not installed_operator.is_running:
        installed_operator.start()
    installed_operator.wait_until_working()
    return installed_operator


@pytest.fixture
def space(plane: Plane, operator: OperatorProcess) -> Iterator[Space]:
    """A namespace of the test's own.  No service in it may ever contradict the conditions table."""
    space = Space(plane, f"t-{uuid.uuid4().hex[:8]}")
    space.make()
    wrong: list[str] = []

    def look(_: str, obj: Obj) -> None:
        wrong.extend(find_contradictions(obj))

    try:
        with plane.following("InferenceService", space.name, look):
            yield space
    finally:
        space.remove()
    assert wrong == []


@pytest.fixture
def audit(cluster: Cluster) -> AuditLog:
    """What the operator asks of the API server from now on."""
    return AuditLog(cluster.audit_log, USER)
