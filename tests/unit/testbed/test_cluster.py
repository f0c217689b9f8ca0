"""The record of an instance: where it is, what it refuses, that it never half changes."""

import io
import json
import threading

import pytest

from testbed import local, node, stateroot
from testbed.cluster import Cluster, name_from
from testbed.errors import ClusterError
from testbed.progress import Progress


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    cluster = Cluster("unit")
    cluster.prepare()
    return cluster


@pytest.mark.parametrize(
    ("environment", "name"),
    [({}, "sluice"), ({"TESTBED_NAME": ""}, "sluice"), ({"TESTBED_NAME": "b"}, "b")],
)
def test_the_default_name(environment, name):
    assert name_from(environment) == name


@pytest.mark.parametrize("name", ["", "A", "../x", "a_b", "-a", "a" * 33])
def test_a_name_that_would_not_do_as_a_namespace_is_refused(name):
    with pytest.raises(ClusterError, match="allowed: lower-case letters"):
        Cluster(name)


def test_an_instance_that_is_not_up_is_not_loaded(cluster):
    with pytest.raises(ClusterError, match=r"not up: run `python -m testbed up --name unit`"):
        Cluster.load("unit")


def test_an_instance_of_another_boot_is_stale_and_not_up(cluster):
    cluster.remember("tier", "node")
    assert Cluster.load("unit").tier == "node"
    cluster.remember("boot", "another")
    assert cluster.is_stale
    assert cluster.tier is None


def test_concurrent_changes_are_all_kept(cluster):
    threads = [threading.Thread(target=cluster.remember, args=(f"k{i}", i)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = json.loads((cluster.folder / "state.json").read_text())
    assert [state[f"k{i}"] for i in range(20)] == list(range(20))


def test_only_one_up_or_down_at_a_time(cluster):
    with (
        cluster.starting_or_stopping("up"),
        pytest.raises(ClusterError, match=r"busy: `up` runs as pid \d+"),
        Cluster("unit").starting_or_stopping("down"),
    ):
        pass
    with cluster.starting_or_stopping("down"):
        assert cluster.folder.exists()


def test_a_process_it_does_not_have_is_named_with_those_it_has(cluster):
    with pytest.raises(ClusterError, match=r"no process 'etcd'"):
        cluster.kill("etcd")


def test_the_folder_is_closed_to_others(cluster):
    assert cluster.folder.stat().st_mode & 0o077 == 0
    assert cluster.folder.parent.stat().st_mode & 0o077 == 0


def test_a_link_in_the_place_of_the_lock_is_not_followed(cluster, tmp_path):
    target = tmp_path / "somebody's"
    target.write_text("precious")
    (cluster.folder.parent / "unit.lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"), cluster.starting_or_stopping("up"):
        pass
    assert target.read_text() == "precious"


def test_the_environment_names_the_instance_and_no_proxy(cluster, monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "no_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    environment = cluster.environment()
    assert [name for name in environment if "proxy" in name.lower()] == []
    assert environment["TESTBED_NAME"] == "unit"


@pytest.mark.parametrize(
    ("is_root", "taken_down"),
    [
        pytest.param(True, ["forgotten"], id="root takes down what the node left on disk"),
        pytest.param(False, [], id="others never have a node"),
    ],
)
def test_down_after_a_reboot_that_took_the_record_along(
    cluster, tmp_path, monkeypatch, is_root, taken_down
):
    taken: list[str] = []
    (tmp_path / "data" / "forgotten").mkdir(parents=True)
    monkeypatch.setattr(node.nodespace, "data_folder", lambda name: tmp_path / "data" / name)
    monkeypatch.setattr(node, "down", lambda cluster: taken.append(cluster.name))
    monkeypatch.setattr("testbed.netns.is_root", lambda: is_root)
    monkeypatch.setattr("testbed.netns.delete", lambda name: None)
    for name in ("forgotten", "never-was"):
        local.down(Cluster(name), Progress(io.StringIO()))
    assert taken == taken_down
