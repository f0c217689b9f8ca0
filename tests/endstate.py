"""What a service has come to, in a form in which two services can be compared.

Whatever differs from run to run is left out: times, addresses, revisions' hashes, and numbers that were
measured.
"""

import json
import re
from typing import Any

from tests.plane import CHILD_KINDS
from tests.space import Space

TIMES = {
    "lastTransitionTime",
    "startedTime",
    "stepStartedTime",
    "shiftedTime",
    "switchedTime",
    "progressTime",
    "estimatedCompletionTime",
    "time",
    "from",
    "to",
}
ADDRESSES = {"clusterIP", "clusterIPs"}
MEASURED = {"value", "samples"}
COUNTS = {
    "replicas",
    "readyReplicas",
}  # of a track in status: told a minute late where nothing else is new
# A Job has the time of its rollout in its name, and its own uid in its selector.
CHECKER = re.compile(r"-check-[a-z0-9]{10}")
UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
NUMBER = re.compile(r"\b\d+(\.\d+)?(%| ?m?s\b)|n=\d+")


def normalise(space: Space, name: str) -> dict[str, Any]:
    """The end state of a service, without what differs from run to run."""
    children = {
        kind: [
            {
                "name": child["metadata"]["name"],
                "content": strip(child.get("spec", child.get("data"))),
                "labels": child["metadata"]["labels"],
            }
            for child in space.children(kind, name)
        ]
        for kind in (*CHILD_KINDS, "HTTPRoute", "Job")
    }
    text = json.dumps({"children": children, "status": strip(space.status(name))})
    # The service's name is part of its revisions' hashes.
    for revision, label in name_revisions(space, name).items():
        text = text.replace(revision, label)
    text = CHECKER.sub("-check-HASH", STAMP.sub("TIME", text.replace(name, "NAME")))
    text = UID.sub("UID", text)
    found: dict[str, Any] = json.loads(text)
    for items in found["children"].values():
        items.sort(key=lambda item: item["name"])
    return found


def name_revisions(space: Space, name: str) -> dict[str, str]:
    """Revisions' hashes and what to call them: R1, R2 …"""
    return {
        record["metadata"]["labels"]["sluice.dev/revision"]: f"R{record['revision']}"
        for record in space.children("ControllerRevision", name)
    }


def strip(value: Any) -> Any:
    """Without times, addresses and measured numbers."""
    match value:
        case dict():
            return {
                key: NUMBER.sub("#", item)
                if key in {"message", "reason"} and isinstance(item, str)
                else strip(item)
                for key, item in value.items()
                if key not in TIMES | ADDRESSES
                and not (key in MEASURED and "verdict" in value)
                and not (key in COUNTS and "readyReplicas" in value)
            }
        case list():
            return [strip(item) for item in value]
        case _:
            return value


def find_differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where two end states differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted({*wanted, *found})
            for line in find_differences(wanted.get(key), found.get(key), f"{path}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [
            line
            for index, (one, other) in enumerate(zip(wanted, found, strict=True))
            for line in find_differences(one, other, f"{path}[{index}]")
        ]
    return [] if wanted == found else [f"{path}: {found!r}, wanted {wanted!r}"]
