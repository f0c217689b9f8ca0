"""The conditions table of the API, as a check of one object: which statuses contradict themselves.

Says what is wrong; whether that fails a test is the test's business.
"""

from typing import Any

from tests.plane import Obj

ROWS = {
    # Ready, Reconciling, Stalled
    ("Unknown", "True", None): "under way",
    ("True", None, None): "steady",
    ("False", None, "True"): "a person must act",
}


def find_contradictions(obj: Obj) -> list[str]:
    """What in this InferenceService's status fits no row of the table; empty where all does."""
    status = obj.get("status")
    if not status:
        return []
    conditions: list[dict[str, Any]] = status.get("conditions", [])
    truth = {item["type"]: item["status"] for item in conditions}
    wrong = []
    if len(truth) != len(conditions):
        wrong.append("a condition is there twice")
    row = truth.get("Ready"), truth.get("Reconciling"), truth.get("Stalled")
    if row not in ROWS and "Suspended" not in truth:
        wrong.append(f"Ready, Reconciling, Stalled are {row}")
    if row[0] == "True" and truth.get("Available") != "True":
        wrong.append("Ready without Available")
    wrong += [
        f"{name} is there and {truth[name]}"
        for name in ("Reconciling", "Stalled", "Suspended")
        if truth.get(name, "True") != "True"
    ]
    for item in conditions:
        if item.get("observedGeneration", 0) > obj["metadata"]["generation"]:
            wrong.append(f"{item['type']} speaks of a generation to come")
        if not item["reason"] or not item["message"]:
            wrong.append(f"{item['type']} has no reason or no message")
    if not status.get("phase") or not status.get("message"):
        wrong.append("no phase or no message")
    if status.get("observedGeneration", 0) > obj["metadata"]["generation"]:
        wrong.append("observedGeneration is of a generation to come")
    return [f"{complaint}: {describe(obj)}" for complaint in wrong]


def describe(obj: Obj) -> str:
    """The conditions in one line."""
    conditions = obj.get("status", {}).get("conditions", [])
    return ", ".join(f"{item['type']}={item['status']}({item['reason']})" for item in conditions)
