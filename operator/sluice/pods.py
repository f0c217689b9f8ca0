"""Reads pods: what the scheduler, the kubelet, `fetch` and the server say, as one trouble or none.

Pure.  The operator never opens an artifact; its pods' termination messages say what became of it
(`docs/contract.md`, "What fetch says").
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sluice import labels
from sluice.world import PodView, Trouble

Pod = dict[str, Any]

_LABELS = (
    labels.MANAGED_BY,
    labels.SERVICE,
    labels.REVISION,
    labels.COMPARES,
    labels.CHECKS,
    labels.JOB_NAME,
    labels.MODEL,
    labels.VERSION,
)
_WAITING_IS_FINE = {"", "PodInitializing", "ContainerCreating"}
_CAMEL_CASE = re.compile(r"^[A-Za-z][A-Za-z0-9]*$")
_MESSAGE_LIMIT = 600


def project_pod(pod: Pod) -> Pod:
    """Only what is read here: a thousand pods shall cost a megabyte, not ten."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    kept = {
        key: metadata[key]
        for key in ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")
        if key in metadata
    }
    found = metadata.get("labels") or {}
    kept["labels"] = {key: found[key] for key in _LABELS if key in found}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": kept,
        "status": {
            "phase": status.get("phase", ""),
            "podIP": status.get("podIP", ""),
            "conditions": [
                {key: item[key] for key in ("type", "status", "reason", "message") if key in item}
                for item in status.get("conditions") or ()
                if item["type"] in {"Ready", "PodScheduled"}
            ],
            "initContainerStatuses": [
                _project_container(item) for item in status.get("initContainerStatuses") or ()
            ],
            "containerStatuses": [
                _project_container(item) for item in status.get("containerStatuses") or ()
            ],
        },
    }


def _project_container(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        "name": status["name"],
        "ready": status.get("ready", False),
        "restartCount": status.get("restartCount", 0),
    }
    for key in ("state", "lastState"):
        state = status.get(key) or {}
        kept[key] = {
            name: {
                field: value[field] for field in ("reason", "message", "exitCode") if field in value
            }
            for name, value in state.items()
            if name in {"waiting", "terminated"}
        }
    return kept


def view_pod(pod: Pod) -> PodView:
    """A projected pod as the planner sees it."""
    ready = _condition(pod, "Ready").get("status") == "True"
    scheduled = _condition(pod, "PodScheduled")
    unschedulable = ""
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        # The scheduler's advice on preemption is about other pods; people need the first sentence.
        unschedulable = scheduled.get("message", "").partition(" preemption:")[0].strip()
        unschedulable = unschedulable or "no node can take the pod"
    return PodView(
        name=pod["metadata"]["name"],
        ready=ready,
        is_cut_off=not ready and _is_cut_off(pod),
        terminating="deletionTimestamp" in pod["metadata"],
        unschedulable=unschedulable,
        restarts=sum(item["restartCount"] for item in pod["status"]["containerStatuses"]),
        address=pod["status"].get("podIP", ""),
        trouble=None if ready else find_trouble(pod),
    )


# A process writes to two streams, and which of their last lines is the last of its log is chance.
_LAST_LINES = 3


def view_checker(pod: Pod) -> PodView:
    """A pod of a Job: its trouble is how it ended, where it ended badly."""
    view = view_pod(pod)
    for container in pod["status"]["containerStatuses"]:
        ended = container["state"].get("terminated")
        if _has_failed(ended):
            lines = (ended.get("message") or "").strip().splitlines()
            last = " | ".join(line.strip() for line in lines[-_LAST_LINES:])
            words = f"exit code {ended['exitCode']}" + (f": {last}" if last else "")
            return replace(view, trouble=Trouble(_word(ended.get("reason")), _cut(words)))
    return view


def _is_cut_off(pod: Pod) -> bool:
    """Whether the pod is unready for its node's sake and not its own.

    The node controller takes the condition away from every pod of a node that it no longer hears of, and
    leaves the containers' own readiness, which only the kubelet writes, as it was.
    """
    containers = pod["status"]["containerStatuses"]
    return bool(containers) and all(item["ready"] for item in containers)


def find_trouble(pod: Pod) -> Trouble | None:
    """What keeps a pod from becoming ready, the most telling first."""
    name = pod["metadata"]["name"]
    for container in _containers(pod):
        for state in ("state", "lastState"):
            if (said := _read_report(container[state])) and said.get("outcome") == "Failed":
                message = f"{container['name']}: {said.get('message', 'no message')}"
                return Trouble(
                    _word(said.get("reason")), _cut(message), permanent=bool(said.get("permanent"))
                )
    for container in _containers(pod):
        waiting = container["state"].get("waiting", {})
        reason = waiting.get("reason", "")
        ended = container["lastState"].get("terminated") or container["state"].get("terminated")
        if reason == "CrashLoopBackOff" or (reason in _WAITING_IS_FINE and _has_failed(ended)):
            return Trouble(
                _word((ended or {}).get("reason")), _cut(_say_end(name, container, ended))
            )
        if reason not in _WAITING_IS_FINE:
            text = waiting.get("message", "no message")
            return Trouble(
                _word(reason), _cut(f"pod {name}: {container['name']}: {reason}: {text}")
            )
    return None


def read_verdict(pod: Pod) -> Trouble | bool | None:
    """What `fetch` found out about the artifact: True when verified, a Trouble, or None as yet."""
    for container in pod["status"]["initContainerStatuses"]:
        if container["name"] != "fetch":
            continue
        for state in ("state", "lastState"):
            said = _read_report(container[state])
            if said is None:
                continue
            if said.get("outcome") == "Verified":
                return True
            return Trouble(
                _word(said.get("reason")),
                _cut(str(said.get("message", "no message"))),
                permanent=bool(said.get("permanent")),
            )
    return None


def _containers(pod: Pod) -> Iterator[dict[str, Any]]:
    yield from pod["status"]["initContainerStatuses"]
    yield from pod["status"]["containerStatuses"]


def _condition(pod: Pod, type_: str) -> Mapping[str, str]:
    return next((item for item in pod["status"]["conditions"] if item["type"] == type_), {})


def _read_report(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON of a termination message; anything else a container wrote there is not ours."""
    message = (state.get("terminated") or {}).get("message", "")
    try:
        said = json.loads(message)
    except ValueError:
        return None
    return said if isinstance(said, dict) and "outcome" in said else None


def _has_failed(ended: Mapping[str, Any] | None) -> bool:
    return ended is not None and ended.get("exitCode", 0) != 0


def _say_end(name: str, container: Mapping[str, Any], ended: Mapping[str, Any] | None) -> str:
    if ended is None:
        return f"pod {name}: {container['name']} keeps crashing"
    detail = (ended.get("message") or "").strip().splitlines()
    text = f": {detail[-1]}" if detail else f"; see kubectl logs {name} -c {container['name']} -p"
    return (
        f"pod {name}: {container['name']} ended with exit code {ended.get('exitCode')} "
        f"({ended.get('reason', 'no reason')}), {container['restartCount']} restarts{text}"
    )


def _word(reason: object) -> str:
    """A reason that a condition may carry."""
    text = str(reason or "")
    return text[:128] if _CAMEL_CASE.match(text) else "ContainerFailed"


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"
