"""Says what is so about a ModelVersion: was its artifact verified, who uses it.  Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sluice import labels
from sluice.api import conditions as api
from sluice.api.modelversion import ModelVersion
from sluice.pods import Pod, read_verdict
from sluice.world import Trouble

Status = dict[str, Any]
NAMED_SERVICES = 20


def summarize_version(
    version: ModelVersion,
    before: Status,
    generation: int,
    pods: Iterable[Pod],
    services: Sequence[dict[str, Any]],
    records: Sequence[dict[str, Any]],
    now: datetime,
) -> Status:
    """The whole status of a version: its pods' reports, the services that name it, and what became of it.

    `records` are the ControllerRevisions of its revisions.
    """
    known: Sequence[api.ConditionDict] = before.get("conditions", ())
    verified, reason, message = _judge_artifact(version, known, pods)
    conditions = api.absent(known, api.RECONCILING, api.STALLED)

    def put(type_: str, truth: Any, why: str, text: str) -> None:
        nonlocal conditions
        conditions = api.set_condition(
            conditions,
            type_,
            truth,
            reason=why,
            message=text,
            observed_generation=generation,
            now=now,
        )

    put(api.ARTIFACT_VERIFIED, verified, reason, message)
    quarantine = _find_quarantine(known, records)
    if quarantine and verified != "False":
        verified, reason, message = "False", "Quarantined", f"quarantined: {quarantine}"
    if verified == "False":
        put(api.READY, "False", reason, message)
        stalled = api.find_condition(known, api.STALLED)
        conditions += [stalled] if stalled else []
        put(api.STALLED, "True", reason, message)
    else:
        put(api.READY, "True", *_describe_lifecycle(version))
    if quarantine:
        put(api.QUARANTINED, "True", "AnalysisFailed", quarantine)
    else:
        conditions = api.absent(conditions, api.QUARANTINED)
    return {
        "observedGeneration": generation,
        "conditions": conditions,
        "usedBy": _make_used_by(version, services),
    }


def is_urgent(before: Status, after: Status) -> bool:
    """Whether a change may not wait: who uses a version may."""

    def essence(status: Status) -> object:
        found = status.get("conditions", ())
        return (
            status.get("observedGeneration"),
            sorted((item["type"], item["status"], item["reason"]) for item in found),
            bool(status.get("usedBy", {}).get("count")),
        )

    return essence(before) != essence(after)


def _judge_artifact(
    version: ModelVersion, known: Sequence[api.ConditionDict], pods: Iterable[Pod]
) -> tuple[str, str, str]:
    """A verdict outlives the pod that gave it: the digest can't change under it."""
    verdicts = [verdict for pod in pods if (verdict := read_verdict(pod)) is not None]
    troubles = [verdict for verdict in verdicts if isinstance(verdict, Trouble)]
    for trouble in troubles:
        if trouble.permanent:
            return "False", trouble.reason, trouble.message
    artifact = version.spec.artifact
    if True in verdicts:
        return "True", "Verified", f"{artifact.uri} matches {artifact.digest}"
    before = api.find_condition(known, api.ARTIFACT_VERIFIED)
    if before is not None and before["status"] != "Unknown":
        return before["status"], before["reason"], before["message"]
    for trouble in troubles:
        return "Unknown", trouble.reason, trouble.message
    return "Unknown", "NotFetched", f"no pod has fetched {artifact.uri} yet"


def _find_quarantine(known: Sequence[api.ConditionDict], records: Sequence[dict[str, Any]]) -> str:
    """The service whose clients it failed, and how; an empty string where it may be rolled out.

    A quarantine outlives the service that found out; a retry there, which clears the record, ends it.
    """
    found: dict[str, str] = {}
    for record in records:
        metadata = record["metadata"]
        service = (metadata.get("labels") or {}).get(labels.SERVICE, "")
        words = (metadata.get("annotations") or {}).get(labels.QUARANTINE, "")
        found[service] = found.get(service) or words
    for service, words in sorted(found.items()):
        if words:
            return f"{service}: {words}"
    before = api.find_condition(known, api.QUARANTINED)
    if before is None or before["status"] != "True":
        return ""
    service = before["message"].partition(": ")[0]
    return "" if service in found else str(before["message"])


def _describe_lifecycle(version: ModelVersion) -> tuple[str, str]:
    match version.spec.lifecycle.value:
        case "Retired":
            return "Retired", "retired: services that run it go on, no other may choose it"
        case "Deprecated":
            return "Deprecated", "deprecated: it may be deployed, a newer version is better"
        case _:
            return "Registered", "may be deployed"


def _make_used_by(version: ModelVersion, services: Sequence[dict[str, Any]]) -> Status:
    users = []
    for service in sorted(services, key=lambda item: str(item["metadata"]["name"])):
        stable = (service.get("status") or {}).get("stable") or {}
        serves = (stable.get("model"), stable.get("version")) == (
            version.spec.model,
            version.spec.version,
        )
        users.append(
            {"name": service["metadata"]["name"], "role": "Stable" if serves else "Candidate"}
        )
    return {"count": len(users), "services": users[:NAMED_SERVICES]}
