"""A Prometheus inside the instance scrapes what a folder says, Envoy's own figures for example.

Needs `python -m testbed up --tier node`; TESTBED_NAME says which instance.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import gateway, prometheus
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from tests.waiting import wait_for

pytestmark = pytest.mark.node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster.load()
    yield cluster
    prometheus.stop(cluster)


def write(folder: Path, targets: dict[str, str]) -> Path:
    """A configuration that scrapes `targets`, a path by address, every second."""
    folder.mkdir(exist_ok=True)
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": address, "metrics_path": path, "static_configs": [{"targets": [address]}]}
            for address, path in targets.items()
        ],
    }
    (folder / prometheus.CONFIGURATION).write_text(yaml.safe_dump(configuration))
    return folder


def query(cluster: Cluster, words: str) -> dict[str, float]:
    """The value by job of an instant query."""
    command = ["curl", "--silent", "--fail", "--get", f"{prometheus.URL}/api/v1/query"]
    done = cluster.run_inside([*command, "--data-urlencode", f"query={words}"])
    assert done.returncode == 0, done
    results: list[dict[str, Any]] = json.loads(done.stdout)["data"]["result"]
    return {each["metric"]["job"]: float(each["value"][1]) for each in results}


def test_it_scrapes_envoy_and_forgets_what_another_folder_said(
    cluster: Cluster, tmp_path: Path
) -> None:
    address = cluster.kubectl(
        *("get", "pods", "-n", gateway.NAMESPACE, "-l", "app.kubernetes.io/name=envoy"),
        *("-o", "jsonpath={.items[0].status.podIP}"),
    ).stdout
    envoy = f"{address}:19001"
    assert prometheus.start(cluster, write(tmp_path / "a", {envoy: "/stats/prometheus"}))
    wait_for(lambda: query(cluster, "up") == {envoy: 1}, what="a scrape of Envoy")
    assert query(cluster, "sum by (job) (envoy_server_live)") == {envoy: 1}

    host, _, port = prometheus.URL.removeprefix("http://").partition(":")
    itself = f"{host}:{port}"
    prometheus.start(cluster, write(tmp_path / "b", {itself: "/metrics"}))
    wait_for(lambda: query(cluster, "up") == {itself: 1}, what="a scrape of itself alone")
    prometheus.stop(cluster)
    assert prometheus.NAME not in cluster.processes


def test_a_folder_without_a_configuration_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"prometheus.yml: not there; write Prometheus'"):
        prometheus.start(cluster, tmp_path)
