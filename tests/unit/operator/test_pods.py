"""What pods say, read as one trouble or none."""

import json
from typing import Any

import pytest

from sluice.pods import find_trouble, project_pod, read_verdict, view_pod
from sluice.world import Trouble

VERIFIED = json.dumps({"outcome": "Verified", "digest": "sha256:ab", "files": 6, "bytes": 1})
CORRUPT = json.dumps(
    {"outcome": "Failed", "reason": "FileCorrupt", "message": "a byte is off", "permanent": True}
)
UNREACHABLE = json.dumps(
    {
        "outcome": "Failed",
        "reason": "Unreachable",
        "message": "https://x: timeout",
        "permanent": False,
    }
)


def container(
    name: str = "server",
    *,
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    ready: bool = False,
) -> dict[str, Any]:
    return {
        "name": name,
        "image": "left out",
        "ready": ready,
        "restartCount": 2 if last else 0,
        "state": state or {"running": {"startedAt": "2026-11-21T12:00:00Z"}},
        "lastState": last or {},
    }


def pod(
    *, fetch: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **scheduled: str
) -> dict[str, Any]:
    return project_pod(
        {
            "metadata": {
                "name": "pizza-1",
                "namespace": "vision",
                "uid": "1",
                "resourceVersion": "1",
                "labels": {"sluice.dev/service": "pizza", "team": "left out"},
            },
            "spec": {"containers": []},
            "status": {
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "PodScheduled", "status": "True", **scheduled},
                ],
                "initContainerStatuses": [fetch] if fetch else [],
                "containerStatuses": [server] if server else [],
            },
        }
    )


def ended(message: str, code: int = 3, reason: str = "Error") -> dict[str, Any]:
    return {
        "terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": "x"}
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


CASES: dict[str, tuple[dict[str, Any], Trouble | None]] = {
    "starting": (pod(fetch=container("fetch")), None),
    "loading": (pod(fetch=container("fetch", state=ended(VERIFIED, 0)), server=container()), None),
    "being created": (pod(server=container(state=waiting("ContainerCreating"))), None),
    "fetch says corrupt": (
        pod(fetch=container("fetch", state=ended(CORRUPT))),
        Trouble("FileCorrupt", "fetch: a byte is off", permanent=True),
    ),
    "fetch said corrupt, and waits to try again": (
        pod(fetch=container("fetch", state=waiting("CrashLoopBackOff"), last=ended(CORRUPT))),
        Trouble("FileCorrupt", "fetch: a byte is off", permanent=True),
    ),
    "fetch can't reach it": (
        pod(
            fetch=container("fetch", state=waiting("CrashLoopBackOff"), last=ended(UNREACHABLE, 4))
        ),
        Trouble("Unreachable", "fetch: https://x: timeout"),
    ),
    "no image": (
        pod(server=container(state=waiting("ImagePullBackOff", "not found"))),
        Trouble("ImagePullBackOff", "pod pizza-1: server: ImagePullBackOff: not found"),
    ),
    "killed for memory": (
        pod(server=container(state=waiting("CrashLoopBackOff"), last=ended("", 137, "OOMKilled"))),
        Trouble(
            "OOMKilled",
            "pod pizza-1: server ended with exit code 137 (OOMKilled), 2 restarts; "
            "see kubectl logs pizza-1 -c server -p",
        ),
    ),
    "crashed with last words": (
        pod(
            server=container(
                state=waiting("CrashLoopBackOff"), last=ended("boom\nValueError: no", 1)
            )
        ),
        Trouble(
            "Error",
            "pod pizza-1: server ended with exit code 1 (Error), 2 restarts: ValueError: no",
        ),
    ),
    "a reason that no condition may carry": (
        pod(server=container(state=waiting("not camel", "?"))),
        Trouble("ContainerFailed", "pod pizza-1: server: not camel: ?"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_find_trouble(name: str) -> None:
    given, want = CASES[name]

    assert find_trouble(given) == want


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (pod(fetch=container("fetch")), None),
        (pod(fetch=container("fetch", state=ended(VERIFIED, 0))), True),
        (
            pod(fetch=container("fetch", state=ended(CORRUPT))),
            Trouble("FileCorrupt", "a byte is off", permanent=True),
        ),
        (pod(fetch=container("fetch", state=ended("plain words"))), None),
        (pod(server=container(state=ended(CORRUPT))), None),
    ],
)
def test_read_verdict(given: dict[str, Any], want: object) -> None:
    assert read_verdict(given) == want


def test_the_scheduler_is_quoted_without_its_advice() -> None:
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available"
    given = pod(status="False", reason="Unschedulable", message=text)

    assert view_pod(given).unschedulable == (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )


def test_a_ready_pod_has_no_trouble() -> None:
    given = pod(server=container(last=ended("", 137, "OOMKilled")))
    given["status"]["conditions"][0]["status"] = "True"

    assert view_pod(given).ready
    assert view_pod(given).trouble is None


def test_the_projection_keeps_little() -> None:
    given = pod(server=container())

    assert "spec" not in given
    assert given["metadata"]["labels"] == {"sluice.dev/service": "pizza"}
    assert given["status"]["containerStatuses"] == [
        {"name": "server", "ready": False, "restartCount": 0, "state": {}, "lastState": {}}
    ]


def test_a_long_message_is_cut() -> None:
    given = pod(server=container(state=waiting("ImagePullBackOff", "x" * 5000)))
    trouble = find_trouble(given)

    assert trouble is not None
    assert len(trouble.message) == 600


@pytest.mark.parametrize(
    ("said", "is_cut_off"),
    [
        pytest.param(pod(server=container(ready=True)), True, id="its node makes it unready"),
        pytest.param(pod(server=container()), False, id="its own probe does"),
        pytest.param(pod(fetch=container("fetch", ready=True)), False, id="it hasn't begun"),
    ],
)
def test_a_pod_is_told_from_its_node(said: dict[str, Any], is_cut_off: bool) -> None:
    assert view_pod(said).is_cut_off == is_cut_off
