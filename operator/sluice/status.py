"""Says what is so: conditions, phase, message, history and events of an InferenceService.

The only module that makes them (product.md, "Conditions").  Pure; it decides nothing about the cluster.
Events follow from conditions: one is told whenever a condition's reason changes, so that both agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sluice.api import conditions as api
from sluice.judgement import Judgement, Truth, is_superseded, judge, views_of, weight_of
from sluice.plan import Plan
from sluice.rollout.course import Course
from sluice.rollout.cursor import Cursor, State, load_cursor
from sluice.world import RevisionView, Trouble, World

Status = dict[str, Any]
HISTORY_LIMIT = 10


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling: it becomes a Kubernetes Event and a log line."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def summarize(world: World, plan: Plan, trouble: Trouble | None, now: datetime) -> Status:
    """The whole status after `plan`; `trouble` is what went wrong while it was carried out."""
    judgement = judge(world, plan, trouble)
    cursor = plan.cursor
    status: Status = {
        "observedGeneration": world.generation,
        "phase": judgement.phase,
        "message": api.cut_text(judgement.message),
        "conditions": _make_conditions(world, judgement, cursor, now),
    }
    if handled := _make_handled(world, plan, now):
        status["lastHandledRequest"] = handled
    if cursor is None:
        # Nothing is known to be better than what stands there: an unreadable state is kept for people.
        kept = ("rollout", "stable", "candidate", "history")
        return status | {key: world.status[key] for key in kept if key in world.status}
    status["rollout"] = cursor.dump() | _describe(world, cursor, plan.course)
    views = views_of(world, plan)
    for track, revision in (("stable", cursor.stable), ("candidate", cursor.revision)):
        if revision in views and (track == "stable" or revision != cursor.stable):
            # Before there is a stable revision nobody is served, whatever the front Service selects.
            weight = weight_of(world, cursor, revision) if cursor.stable else 0
            status[track] = _make_track(views[revision], weight)
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
        if any(item["message"] == event.message for event in events):
            continue
        if item["type"] == api.READY and item["status"] == "Unknown":
            continue  # Reconciling says the same
        is_bad = item["type"] == api.STALLED or item["status"] == "False"
        events.append(Event("Warning" if is_bad else "Normal", item["reason"], item["message"]))
    asked = after.get("lastHandledRequest")
    if asked is not None and asked != before.get("lastHandledRequest"):
        events.insert(0, _tell_request(asked))
    return tuple(events)


def _tell_request(asked: Mapping[str, Any]) -> Event:
    verb = asked["request"].partition(" ")[0]
    who = asked.get("requestedBy") or "somebody"
    if asked["outcome"] == "Refused":
        return Event("Warning", "RequestRefused", f"{verb} by {who}: {asked['message']}")
    return Event("Normal", "RequestAccepted", f"{verb} by {who}: {asked['message']}")


def is_urgent(before: Mapping[str, Any], after: Status) -> bool:
    """Whether a change may not wait: anything but counts and wording (product.md: else once a minute)."""
    return _essence(before) != _essence(after)


def _essence(status: Mapping[str, Any]) -> object:
    rollout = {
        key: value
        for key, value in status.get("rollout", {}).items()
        if key not in {"message", "checks", "estimatedCompletionTime"}
    }
    checks = status.get("rollout", {}).get("checks", ())
    return (
        status.get("observedGeneration"),
        status.get("phase"),
        sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions", ())),
        [status.get(track, {}).get("revision") for track in ("stable", "candidate")],
        [status.get(track, {}).get("weight") for track in ("stable", "candidate")],
        rollout,
        sorted((check["name"], check["verdict"]) for check in checks),
        status.get("lastHandledRequest"),
        status.get("history", []),
    )


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
    if judgement.paused:
        wanted.append((api.ROLLOUT_PAUSED, "True", judgement.paused, judgement.message))
    if judgement.baking:
        wanted.append((api.BAKING, "True", "Baking", judgement.message))
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


def _make_track(view: RevisionView, weight: int) -> Status:
    track = {
        "model": view.model,
        "version": view.version,
        "revision": view.hash,
        "digest": view.digest,
        "replicas": view.replicas,
        "readyReplicas": view.ready_replicas,
        "weight": weight,
    }
    return track | ({"space": view.space} if view.space else {})


def _make_handled(world: World, plan: Plan, now: datetime) -> Status | None:
    """What came of the last request; the one before stays until another is made."""
    handled = plan.handled
    if handled is None:
        found: Status | None = world.status.get("lastHandledRequest")
        return found
    said = {
        "request": handled.request[:512],
        "outcome": "Accepted" if handled.accepted else "Refused",
        "message": api.cut_text(handled.message),
        "time": api.format_time(now),
    }
    return said | ({"requestedBy": handled.by[:512]} if handled.by else {})


def _describe(world: World, cursor: Cursor, course: Course | None) -> Status:
    """What of a rollout is there for people: how far it is, what was measured, when it ends."""
    said: Status = {}
    if course is None or not cursor.stable or cursor.step_started is None:
        return said
    steps = len(course.steps)
    said["steps"] = steps
    if steps > 1:
        said["progress"] = f"{min(cursor.step + 1, steps)}/{steps}"
    checks = [
        {
            "name": result.name,
            "verdict": str(result.verdict),
            "value": result.value,
            "threshold": result.threshold,
            "samples": result.samples,
            **({"dryRun": True} if result.dry_run else {}),
        }
        for result in world.evidence.results
    ]
    before = world.status.get("rollout") or {}
    if not checks and before.get("revision") == cursor.revision:
        checks = before.get("checks", [])
    if checks:
        said["checks"] = checks
    if cursor.is_moving and cursor.state not in {State.PAUSED, State.ABORTING} and not cursor.back:
        left = sum(step.hold for step in course.steps[cursor.step :]) + course.bake
        begun = cursor.switched or cursor.shifted or cursor.step_started
        if cursor.is_promoted:
            left = course.bake
        said["estimatedCompletionTime"] = api.format_time(begun + timedelta(seconds=left))
    return said


def _make_history(
    world: World,
    cursor: Cursor,
    views: Mapping[str, RevisionView],
    now: datetime,
) -> list[Status]:
    """Which version served from when to when; newest first."""
    history: list[Status] = [dict(entry) for entry in world.status.get("history", ())]
    stamp = api.format_time(now)
    serving = next((entry for entry in history if entry["outcome"] == "Serving"), None)
    if cursor.stable and (serving is None or serving["revision"] != cursor.stable):
        if serving is not None:
            serving |= {"to": stamp, "outcome": "Replaced"}
            if cursor.back and cursor.reason:
                serving |= {"outcome": "RolledBack", "reason": _say_reason(cursor)}
        entry = {
            "version": _version(views, cursor.stable),
            "revision": cursor.stable,
            "from": stamp,
            "weight": 100,
            "outcome": "Serving",
        }
        history.insert(0, entry)
    if cursor.state is State.REJECTED and not _is_told(history, cursor):
        history.insert(0, _make_ending(cursor, views, stamp))
    before = world.status.get("rollout") or {}
    if is_superseded(world.status, cursor):
        gone = before["revision"]
        history.insert(
            0,
            {
                "version": _version(views, gone),
                "revision": gone,
                "from": before.get("startedTime", stamp),
                "to": stamp,
                "weight": _find_weight(load_cursor(world.status), views.get(gone)),
                "outcome": "Superseded",
                "reason": "spec asked for another revision",
            },
        )
    return history[:HISTORY_LIMIT]


def _find_weight(cursor: Cursor | None, view: RevisionView | None) -> int:
    """The greatest share that a candidate had, by the course on its record."""
    if cursor is None or cursor.step_started is None or view is None or view.course is None:
        return 0
    if cursor.shifted is not None:
        return view.course.at(cursor.step).weight
    return view.course.before(cursor.step)


def _make_ending(cursor: Cursor, views: Mapping[str, RevisionView], stamp: str) -> Status:
    weight = _find_weight(cursor, views.get(cursor.revision))
    outcome = "RolledBack" if weight else "Rejected"
    if cursor.reason == "Aborted":
        outcome = "Aborted"
    return {
        "version": _version(views, cursor.revision),
        "revision": cursor.revision,
        "from": api.format_time(cursor.started) if cursor.started else stamp,
        "to": stamp,
        "weight": weight,
        "outcome": outcome,
        "reason": _say_reason(cursor),
    }


def _say_reason(cursor: Cursor) -> str:
    return f"{cursor.reason}: {cursor.message}"[:1024]


def _version(views: Mapping[str, RevisionView], revision: str) -> str:
    return views[revision].version if revision in views else ""


def _is_told(history: Sequence[Mapping[str, Any]], cursor: Cursor) -> bool:
    """Whether this ending stands there already; the same revision may end twice, after a retry."""
    started = api.format_time(cursor.started) if cursor.started else None
    return any(
        entry["outcome"] in {"Rejected", "RolledBack", "Aborted"}
        and entry["revision"] == cursor.revision
        and (started is None or entry["from"] == started or cursor.started is None)
        for entry in history
    )
