"""Says what is so: conditions, phase, message, history and events of an InferenceService.

The only module that makes them (product.md, "Conditions").  Pure; it decides nothing about the cluster.
Events follow from conditions: one is told whenever a condition's reason changes, so that both agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sluice.api import conditions as api
from sluice.plan import Plan, front_revision, replica_bounds
from sluice.rollout import rolling_update
from sluice.rollout.cursor import Cursor, State
from sluice.world import RevisionView, Trouble, World

Status = dict[str, Any]
Truth = Literal["True", "False", "Unknown"]
HISTORY_LIMIT = 10
RETRYING = "ProgressingWithRetry"


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling: it becomes a Kubernetes Event and a log line."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of the conditions table."""

    ready: Truth
    reason: str
    message: str
    phase: str
    reconciling: bool = False
    stalled: bool = False


def summarize(world: World, plan: Plan, trouble: Trouble | None, now: datetime) -> Status:
    """The whole status after `plan`; `trouble` is what went wrong while it was carried out."""
    judgement = _judge(world, plan, trouble)
    cursor = plan.cursor
    status: Status = {
        "observedGeneration": world.generation,
        "phase": judgement.phase,
        "message": api.cut_text(judgement.message),
        "conditions": _make_conditions(world, judgement, cursor, now),
    }
    if cursor is None:
        # Nothing is known to be better than what stands there: an unreadable state is kept for people.
        kept = ("rollout", "stable", "candidate", "history")
        return status | {key: world.status[key] for key in kept if key in world.status}
    status["rollout"] = cursor.dump()
    views = _views(world, plan)
    serving = front_revision(world.front)
    if cursor.stable in views:
        status["stable"] = _make_track(views[cursor.stable], serving)
    if cursor.revision != cursor.stable and cursor.revision in views:
        # Before there is a stable revision nobody is served, whatever the front Service selects.
        status["candidate"] = _make_track(views[cursor.revision], serving if cursor.stable else "")
    if history := _make_history(world, cursor, views, now):
        status["history"] = history
    return status


def tell(before: Mapping[str, Any], after: Status) -> tuple[Event, ...]:
    """The events between two statuses: a condition that appeared or changed its reason."""
    old = {item["type"]: item["reason"] for item in before.get("conditions", ())}
    events: list[Event] = []
    for item in after["conditions"]:
        if old.get(item["type"]) == item["reason"] or item["type"] == api.AVAILABLE:
            continue
        if any(event.reason == item["reason"] for event in events):
            continue
        if item["type"] == api.READY and item["status"] == "Unknown":
            continue  # Reconciling says the same
        is_bad = item["type"] == api.STALLED or item["status"] == "False"
        events.append(Event("Warning" if is_bad else "Normal", item["reason"], item["message"]))
    return tuple(events)


def is_urgent(before: Mapping[str, Any], after: Status) -> bool:
    """Whether a change may not wait: anything but counts and wording (product.md: else once a minute)."""
    return _essence(before) != _essence(after)


def _essence(status: Mapping[str, Any]) -> object:
    rollout = {k: v for k, v in status.get("rollout", {}).items() if k != "message"}
    return (
        status.get("observedGeneration"),
        status.get("phase"),
        sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions", ())),
        [status.get(track, {}).get("revision") for track in ("stable", "candidate")],
        [status.get(track, {}).get("weight") for track in ("stable", "candidate")],
        rollout,
        status.get("history", []),
    )


def _judge(world: World, plan: Plan, trouble: Trouble | None) -> Judgement:
    if found := trouble or world.foreign:
        return _judge_trouble(found)
    if world.service is not None and world.service.spec.suspend:
        return _judge_suspended(world)
    if plan.trouble is not None:
        return _judge_trouble(plan.trouble)
    if plan.cursor is None:
        return _judge_trouble(Trouble("Pending", "Waiting for the operator"))
    return _judge_rollout(world, plan, plan.cursor)


def _judge_trouble(trouble: Trouble) -> Judgement:
    if trouble.permanent:
        return Judgement("False", trouble.reason, trouble.message, "Stalled", stalled=True)
    return Judgement("Unknown", trouble.reason, trouble.message, "Waiting", reconciling=True)


def _judge_suspended(world: World) -> Judgement:
    """Ready and Stalled stay as they were; the operator only says that it stands aside."""
    message = "suspended: spec.suspend is true, nothing is changed until it is false"
    for item in world.status.get("conditions", ()):
        if item["type"] == api.READY:
            stalled = api.is_true(world.status.get("conditions", ()), api.STALLED)
            return Judgement(item["status"], item["reason"], message, "Suspended", stalled=stalled)
    return Judgement("Unknown", "Suspended", message, "Suspended")


def _judge_rollout(world: World, plan: Plan, cursor: Cursor) -> Judgement:
    views = _views(world, plan)
    candidate = views.get(cursor.revision)
    version = candidate.version if candidate else cursor.revision
    match cursor.state:
        case State.PROGRESSING:
            return _judge_progressing(plan, cursor, candidate, views.get(cursor.stable))
        case State.FAILED:
            return Judgement(
                "False", cursor.reason, f"{version}: {cursor.message}", "Failed", stalled=True
            )
        case State.SWITCHING:
            message = f"{version} is ready: moving traffic to it"
            return Judgement("Unknown", "RollingOut", message, "Progressing", reconciling=True)
        case State.DRAINING if candidate is None or candidate.ready_replicas == 0:
            return _judge_steady(world, candidate, version)
        case State.DRAINING:
            previous = views.get(cursor.previous)
            message = (
                f"{version} has the traffic; {previous.version if previous else 'the old revision'} "
                "finishes its requests"
            )
            return Judgement("Unknown", "Draining", message, "Progressing", reconciling=True)
        case State.REJECTED:
            stable = views.get(cursor.stable)
            message = (
                f"rolled back to {stable.version if stable else 'stable'}: {version}: {cursor.reason}: "
                f"{cursor.message}; change spec.model or spec.runtime to try again"
            )
            return Judgement("False", "RolledBack", message, "RolledBack", stalled=True)
        case State.COMPLETE:
            return _judge_steady(world, views.get(cursor.stable), version)


def _judge_progressing(
    plan: Plan, cursor: Cursor, candidate: RevisionView | None, stable: RevisionView | None
) -> Judgement:
    version = candidate.version if candidate else cursor.revision
    if stable is not None and stable.version != version:
        version = f"{stable.version} -> {version}"
    elif stable is not None:
        version = f"{version} with a changed runtime"
    pods = [pod for pod in candidate.pods if not pod.terminating] if candidate else []
    doomed = next((pod.trouble for pod in pods if pod.trouble and pod.trouble.permanent), None)
    if doomed:
        message = f"{version}: {doomed.message}"
        return Judgement("False", doomed.reason, message, "Failed", stalled=True)
    if held := next((pod.unschedulable for pod in pods if pod.unschedulable), ""):
        message = f"{version}: {held}"
        return Judgement(
            "Unknown", rolling_update.CAPACITY, message, "WaitingForCapacity", reconciling=True
        )
    ready = candidate.ready_replicas if candidate else 0
    message = f"{version}: {ready}/{plan.wanted} pods ready"
    trouble = next((pod.trouble for pod in pods if pod.trouble), None)
    if trouble is None and candidate is not None:
        trouble = candidate.failure
    if trouble:
        return Judgement(
            "Unknown",
            trouble.reason,
            f"{message}; {trouble.message}",
            "Progressing",
            reconciling=True,
        )
    if stable is None and ready >= plan.wanted:
        message = f"{message}, waiting until the Service reaches them"
    return Judgement("Unknown", "RollingOut", message, "Progressing", reconciling=True)


def _judge_steady(world: World, stable: RevisionView | None, version: str) -> Judgement:
    low, _ = replica_bounds(world)
    ready = stable.ready_replicas if stable else 0
    counts = f"{ready}/{max(low, stable.replicas if stable else low)} pods ready"
    trouble = next((pod.trouble for pod in stable.pods if pod.trouble), None) if stable else None
    if trouble is None and stable is not None:
        trouble = stable.failure
    why = f"; {trouble.message}" if trouble else ""
    if ready == 0:
        message = f"{version} is stable and has no ready pod: {counts}{why}"
        return Judgement("False", "StableUnhealthy", message, "Degraded", stalled=True)
    if ready < low:
        message = f"{version}: {counts}, fewer than scaling.minReplicas {low}{why}"
        return Judgement("Unknown", RETRYING, message, "Recovering", reconciling=True)
    return Judgement("True", "Serving", f"{version}: {counts}", "Healthy")


def _make_conditions(
    world: World, judgement: Judgement, cursor: Cursor | None, now: datetime
) -> list[api.ConditionDict]:
    stable = world.revisions.get(cursor.stable) if cursor and cursor.stable else None
    served = stable.ready_replicas if stable else 0
    is_available = served > 0
    available: tuple[Truth, str, str] = (
        ("True", "StableServes", f"{stable.version} serves")
        if is_available and stable
        else ("False", "NoReadyPod", "no revision has been ready yet")
        if stable is None
        else ("False", "NoReadyPod", f"{stable.version} has no ready pod")
    )
    wanted: list[tuple[str, Truth, str, str]] = [
        (api.READY, judgement.ready, judgement.reason, judgement.message),
        (api.AVAILABLE, *available),
    ]
    if judgement.reconciling:
        wanted.append((api.RECONCILING, "True", judgement.reason, judgement.message))
    if judgement.stalled:
        wanted.append((api.STALLED, "True", judgement.reason, judgement.message))
    if judgement.phase == "Suspended":
        wanted.append((api.SUSPENDED, "True", "Suspended", judgement.message))
    before: Sequence[api.ConditionDict] = world.status.get("conditions", ())
    result: list[api.ConditionDict] = []
    for type_, truth, reason, message in wanted:
        known = [item for item in before if item["type"] == type_]
        result += api.set_condition(
            known,
            type_,
            truth,
            reason=reason,
            message=message,
            observed_generation=world.generation,
            now=now,
        )
    return result


def _views(world: World, plan: Plan) -> dict[str, RevisionView]:
    views = dict(world.revisions)
    if plan.target is not None:
        views.setdefault(plan.target.hash, plan.target)
    return views


def _make_track(view: RevisionView, serving: str) -> Status:
    return {
        "model": view.model,
        "version": view.version,
        "revision": view.hash,
        "digest": view.digest,
        "replicas": view.replicas,
        "readyReplicas": view.ready_replicas,
        "weight": 100 if view.hash == serving else 0,
    }


def _make_history(
    world: World, cursor: Cursor, views: Mapping[str, RevisionView], now: datetime
) -> list[Status]:
    """Which version served from when to when; newest first."""
    history: list[Status] = [dict(entry) for entry in world.status.get("history", ())]
    stamp = api.format_time(now)
    serving = next((entry for entry in history if entry["outcome"] == "Serving"), None)
    if cursor.stable and (serving is None or serving["revision"] != cursor.stable):
        if serving is not None:
            serving |= {"to": stamp, "outcome": "Replaced"}
        view = views.get(cursor.stable)
        history.insert(
            0,
            {
                "version": view.version if view else "",
                "revision": cursor.stable,
                "from": stamp,
                "outcome": "Serving",
            },
        )
    if cursor.state is State.REJECTED and not _is_told(history, cursor):
        view = views.get(cursor.revision)
        history.insert(
            0,
            {
                "version": view.version if view else "",
                "revision": cursor.revision,
                "from": api.format_time(cursor.started or now),
                "to": stamp,
                "outcome": "Rejected",
                "reason": f"{cursor.reason}: {cursor.message}"[:1024],
            },
        )
    return history[:HISTORY_LIMIT]


def _is_told(history: Sequence[Mapping[str, Any]], cursor: Cursor) -> bool:
    return any(
        entry["outcome"] == "Rejected" and entry["revision"] == cursor.revision for entry in history
    )
