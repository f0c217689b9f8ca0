"""Which simulated pod answers at which address, and what it takes from a pod's own words."""

import pytest

from testbed.simpods import PodServers
from testbed.stages import read_instructions
from testbed.watching import Obj

ADDRESS = "10.245.0.7"


def make_pod(
    uid: str = "u1", *, address: str = ADDRESS, phase: str = "Running", **more: object
) -> Obj:
    state = "running" if phase == "Running" else "waiting"
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": uid, **more},
        "spec": {"containers": [{"name": "server"}]},
        "status": {
            "phase": phase,
            "podIP": address,
            "containerStatuses": [{"state": {state: {}}}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_a_pod_is_found_while_its_containers_run():
    servers = PodServers()
    servers.take("n/p", make_pod(phase="Pending"))
    assert servers.find(ADDRESS) is None
    servers.take("n/p", make_pod())
    first = servers.find(ADDRESS)
    assert first is not None
    servers.take("n/p", make_pod(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert servers.find(ADDRESS) is first
    assert first.state == "draining"
    servers.take("n/p", None)
    assert servers.find(ADDRESS) is None


def test_containers_that_ran_again_are_another_process():
    servers = PodServers()
    servers.take("n/p", make_pod())
    first = servers.find(ADDRESS)
    crashed = make_pod()
    crashed["status"]["containerStatuses"] = [{"state": {"waiting": {}}}]
    servers.take("n/p", crashed)
    assert servers.find(ADDRESS) is None
    servers.take("n/p", make_pod())
    assert servers.find(ADDRESS) is not first


def test_another_pod_of_the_same_name_or_address_is_another_process():
    servers = PodServers()
    servers.take("n/p", make_pod("u1"))
    first = servers.find(ADDRESS)
    servers.take("n/p", make_pod("u2"))
    second = servers.find(ADDRESS)
    assert second is not first
    servers.take("n/other", make_pod("u3"))
    third = servers.find(ADDRESS)
    assert third is not second
    # The end of the pod that had the address before comes late, and is not the end of this one.
    servers.take("n/p", None)
    assert servers.find(ADDRESS) is third


def test_pods_of_a_real_node_are_left_alone():
    servers = PodServers()
    servers.take("n/p", make_pod(address="10.244.0.9"))
    assert servers.find("10.244.0.9") is None


@pytest.mark.parametrize(
    ("annotations", "found"),
    [
        ({}, {"error-percent": "5", "load-time": "2s"}),
        (
            {"testbed.sluice.dev/error-percent": "7", "other": "x"},
            {"error-percent": "7", "load-time": "2s"},
        ),
    ],
)
def test_an_annotation_wins_over_a_variable(annotations, found):
    pod = make_pod(annotations=annotations)
    pod["spec"]["containers"][0]["env"] = [
        {"name": "TESTBED_ERROR_PERCENT", "value": "5"},
        {"name": "TESTBED_LOAD_TIME", "value": "2s"},
        {"name": "MODEL_NAME", "value": "pizza"},
        {"name": "TESTBED_FROM", "valueFrom": {}},
    ]
    assert read_instructions(pod) == found
