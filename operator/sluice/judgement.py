"""How a service stands, in one row of product.md's conditions table, with the sentence for people.

Pure.  Messages say the decision, the number and its threshold, and what to do next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sluice.actions import front_revision, replica_bounds
from sluice.api import conditions as api
from sluice.plan import Plan, window_of
from sluice.prepromotion import find_wait
from sluice.rollout import machine
from sluice.rollout.course import Course
from sluice.rollout.cursor import Cursor, Goal, State
from sluice.shadow import find_obstacle
from sluice.world import PodView, RevisionView, Trouble, World

Truth = Literal["True", "False", "Unknown"]
RETRYING = "ProgressingWithRetry"
PAUSED = "Paused"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row of the conditions table."""

    ready: Truth
    reason: str
    message: str
    phase: str
    reconciling: bool = False
    stalled: bool = False
    paused: str = ""  # why a person must act, as one word
    baking: bool = False


def judge(world: World, plan: Plan, trouble: Trouble | None) -> Judgement:
    """The row for this world; `trouble` is what went wrong while the plan was carried out."""
    if found := trouble or world.foreign:
        return _judge_trouble(found)
    if world.service is not None and world.service.spec.suspend:
        return _judge_suspended(world)
    if plan.cursor is None:
        return _judge_trouble(plan.trouble or Trouble("Pending", "Waiting for the operator"))
    if plan.trouble is not None and (plan.trouble.permanent or not plan.cursor.is_moving):
        return _judge_trouble(plan.trouble)
    return _judge_rollout(world, plan, plan.cursor)


def views_of(world: World, plan: Plan) -> dict[str, RevisionView]:
    """Every revision that can be spoken of, the target among them."""
    views = dict(world.revisions)
    if plan.target is not None:
        views.setdefault(plan.target.hash, plan.target)
    return views


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
    views = views_of(world, plan)
    candidate, stable = views.get(cursor.revision), views.get(cursor.stable)
    version = candidate.version if candidate else cursor.revision
    course = plan.course
    match cursor.state:
        case State.PROGRESSING:
            return _judge_progressing(world, plan, cursor, candidate, stable)
        case State.FAILED:
            return Judgement(
                "False", cursor.reason, f"{version}: {cursor.message}", "Failed", stalled=True
            )
        case State.SWITCHING:
            message = f"{_name_move(cursor, candidate, stable)}: {_step(cursor, course)}"
            message = f"{message}{cursor.weight}% of the traffic moves to it"
            return _moving(f"{message}{_say_route(world)}")
        case State.ANALYSING:
            return _judge_analysing(plan, world, cursor, candidate, stable)
        case State.PAUSED:
            return _judge_paused(world, plan, cursor, candidate, stable)
        case State.ABORTING:
            why = f"{cursor.reason}: {cursor.message}" if cursor.reason else "spec asks for another"
            message = (
                f"{version} gives its traffic back to {_version(stable)} and finishes its requests: "
                f"{why}{_say_route(world)}"
            )
            return Judgement("Unknown", "Aborting", message, "Aborting", reconciling=True)
        case State.BAKING:
            steady = _judge_steady(world, candidate, version)
            if steady.ready != "True":
                return steady
            previous = views.get(cursor.previous)
            message = f"{steady.message}; {_version(previous)} is kept warm (rollout.bake)"
            if plan.target is not None and plan.target.hash != cursor.revision:
                message = f"{plan.target.version} waits until {version} has baked: {message}"
                return Judgement(
                    "Unknown", "Queued", message, "Baking", reconciling=True, baking=True
                )
            return Judgement("True", steady.reason, message, "Baking", baking=True)
        case State.DRAINING if candidate is None or candidate.ready_replicas == 0:
            return _judge_steady(world, candidate, version)
        case State.DRAINING:
            previous = views.get(cursor.previous)
            message = (
                f"{version} has the traffic; {previous.version if previous else 'the old revision'} "
                f"finishes its requests{_say_route(world)}"
            )
            return Judgement("Unknown", "Draining", message, "Progressing", reconciling=True)
        case State.REJECTED:
            what = "aborted" if cursor.reason == "Aborted" else "rolled back"
            message = (
                f"{what} to {_version(stable)}: {version}: {_say_why(cursor)}; "
                "change spec.model or spec.runtime, or retry, to try again"
            )
            return Judgement("False", "RolledBack", message, "RolledBack", stalled=True)
        case State.COMPLETE:
            return _judge_steady(world, stable, version)


def _say_why(cursor: Cursor) -> str:
    """A failed check's words say it all; other reasons say what happened."""
    if cursor.reason in {machine.FAILED_CHECK, "Aborted", "RolledBackByRequest"}:
        return cursor.message or cursor.reason
    return f"{cursor.reason}: {cursor.message}"


def _version(view: RevisionView | None) -> str:
    return view.version if view else "stable"


def _name_move(cursor: Cursor, candidate: RevisionView | None, stable: RevisionView | None) -> str:
    version = candidate.version if candidate else cursor.revision
    if stable is None:
        return version
    if stable.version != version:
        return f"{stable.version} -> {version}"
    return f"{version} with a changed runtime"


def _step(cursor: Cursor, course: Course | None) -> str:
    """ "step 2/4 weight 25: ", empty for a course of one plain step."""
    if course is None or cursor.back or not cursor.stable or len(course.steps) < 2:
        return ""
    step = course.at(cursor.step)
    what = f"shadow {step.shadow}%" if step.shadow else f"weight {step.weight}"
    what = what if step.weight or step.shadow else "preview"
    return f"step {cursor.step + 1}/{len(course.steps)} {what}: "


def _say_route(world: World) -> str:
    if world.route is not None and world.route.trouble:
        return f"; gateway {world.route.trouble}"
    return ""


def _moving(message: str) -> Judgement:
    return Judgement("Unknown", "RollingOut", message, "Progressing", reconciling=True)


def _judge_progressing(
    world: World,
    plan: Plan,
    cursor: Cursor,
    candidate: RevisionView | None,
    stable: RevisionView | None,
) -> Judgement:
    version = f"{_name_move(cursor, candidate, stable)}: {_step(cursor, plan.course)}".rstrip(": ")
    pods = [pod for pod in candidate.pods if not pod.terminating] if candidate else []
    doomed = next((pod.trouble for pod in pods if pod.trouble and pod.trouble.permanent), None)
    if doomed:
        message = f"{version}: {doomed.message}"
        return Judgement("False", doomed.reason, message, "Failed", stalled=True)
    trouble = next((pod.trouble for pod in pods if pod.trouble), None)
    if trouble is None and candidate is not None:
        trouble = candidate.failure
    held = next((pod.unschedulable for pod in pods if pod.unschedulable), "")
    ready = candidate.ready_replicas if candidate else 0
    if held and not trouble and ready < plan.wanted:
        return Judgement(
            "Unknown",
            machine.CAPACITY,
            f"{version}: {held}",
            "WaitingForCapacity",
            reconciling=True,
        )
    message = f"{version}: {ready}/{plan.wanted} pods ready"
    if trouble:
        return Judgement(
            "Unknown",
            trouble.reason,
            f"{message}; {trouble.message}",
            "Progressing",
            reconciling=True,
        )
    if found := _find_gateway_trouble(world):
        return Judgement(
            "Unknown", found.reason, f"{message}; {found.message}", "Progressing", reconciling=True
        )
    if ready >= plan.wanted:
        is_proven = cursor.weight > 0 or cursor.revision in world.evidence.proven
        reach = _say_reach(world, stable, is_proven=is_proven)
        wait = find_wait(world, cursor, plan.course)[0] if plan.course else ""
        obstacle = find_obstacle(world, cursor, plan.course) if plan.course and is_proven else ""
        message = f"{message}, {wait or obstacle or reach}"
    return _moving(f"{_say_passed(world, cursor)}{message}")


def _say_passed(world: World, cursor: Cursor) -> str:
    """What let the step before pass, for as long as it is the news."""
    results = [result for result in world.evidence.results if not result.dry_run]
    window = world.evidence.window  # begins as plan.window_of writes it
    is_of_it = window.startswith(f"{cursor.revision}/{cursor.step - 1}/")
    if cursor.step == 0 or cursor.shifted is not None or not results or not is_of_it:
        return ""
    return f"step {cursor.step} passed: {'; '.join(result.message for result in results)}. Now "


def _say_reach(world: World, stable: RevisionView | None, *, is_proven: bool) -> str:
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    if world.service.spec.traffic is None:
        return "waiting until the Service reaches them" if stable is None else "about to move"
    if is_proven:
        return "about to move"
    probe = f": {world.evidence.probe}" if world.evidence.probe else ""
    return f"waiting until they answer through the gateway{probe}"


def _find_gateway_trouble(world: World) -> Trouble | None:
    """What keeps clients' requests from coming in, in the gateway's own words."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    if world.service.spec.traffic is None:
        return None
    if not world.has_gateway_api:
        message = (
            "spec.traffic needs the Gateway API, and this cluster has no HTTPRoute: install it and "
            "restart the operator, or remove spec.traffic"
        )
        return Trouble("GatewayAPIMissing", message, permanent=True)
    for gateway in world.gateways:
        if not gateway.address:
            message = f"Gateway {gateway.name} is missing, or has no address or no fitting listener"
            return Trouble("GatewayNotReady", message)
    if world.route is not None and world.route.trouble:
        return Trouble("RouteNotAccepted", f"gateway {world.route.trouble}")
    return None


def _judge_analysing(
    plan: Plan,
    world: World,
    cursor: Cursor,
    candidate: RevisionView | None,
    stable: RevisionView | None,
) -> Judgement:
    message = f"{_name_move(cursor, candidate, stable)}: {_step(cursor, plan.course)}"
    course = plan.course
    step = course.at(cursor.step) if course else None
    results = world.evidence.results if world.evidence.window == window_of(cursor) else ()
    if course is not None and course.is_measured_at(cursor.step) and results:
        found = "; ".join(result.message for result in results)
    elif step is not None and step.hold and cursor.shifted is not None:
        found = f"held for {step.hold}s since {api.format_time(cursor.shifted)}"
    else:
        found = "waiting for samples"
    return Judgement("Unknown", "Analysing", message + found, "Progressing", reconciling=True)


_BETWEEN = "resume lets it go on, promote-full gives it all clients, abort ends it"
_NEXT = {
    machine.APPROVAL: "promote lets it go on, abort ends it",
    machine.BY_REQUEST: "resume lets it go on, abort ends it",
    machine.FEW_SAMPLES: "promote lets it go on, resume waits again, abort ends it",
    machine.FAILED_CHECK: "promote lets it go on, abort ends it",
    machine.SPACES: (
        "embeddings written since are in the new space, so nothing goes back by itself: rollback "
        "goes back, promote keeps it"
    ),
    machine.NO_WAY_BACK: "resume tries again, abort gives the rollback up",
}


def _judge_paused(
    world: World,
    plan: Plan,
    cursor: Cursor,
    candidate: RevisionView | None,
    stable: RevisionView | None,
) -> Judgement:
    message = (
        f"{_name_move(cursor, candidate, stable)}: {_step(cursor, plan.course)}{cursor.paused}"
    )
    if cursor.message:
        message = f"{message}: {cursor.message}"
    is_between = cursor.paused == machine.FAILED_CHECK and cursor.shifted is None
    following = _BETWEEN if is_between else _NEXT.get(cursor.paused, "resume or abort")
    message = f"{message}; {following}"
    return Judgement(
        "Unknown", PAUSED, message, PAUSED, reconciling=True, paused=cursor.paused or PAUSED
    )


def _judge_steady(world: World, stable: RevisionView | None, version: str) -> Judgement:
    low, _ = replica_bounds(world)
    ready = stable.ready_replicas if stable else 0
    counts = f"{ready}/{max(low, stable.replicas if stable else low)} pods ready"
    trouble = _find_trouble(stable.pods) if stable else None
    if trouble is None and stable is not None:
        trouble = stable.failure
    why = f"; {trouble.message}" if trouble else ""
    if ready == 0:
        message = f"{version} is stable and has no ready pod: {counts}{why}"
        return Judgement("False", "StableUnhealthy", message, "Degraded", stalled=True)
    if found := _find_gateway_trouble(world):
        # What is deployed serves inside the cluster; clients of the gateway may wait.
        message = f"{version}: {counts}; {found.message}"
        if found.permanent:
            return Judgement("False", found.reason, message, "Stalled", stalled=True)
        return Judgement("Unknown", found.reason, message, "Waiting", reconciling=True)
    if ready < low:
        message = f"{version}: {counts}, fewer than scaling.minReplicas {low}{why}"
        return Judgement("Unknown", RETRYING, message, "Recovering", reconciling=True)
    return Judgement("True", "Serving", f"{version}: {counts}", "Healthy")


def _find_trouble(pods: tuple[PodView, ...]) -> Trouble | None:
    return next((pod.trouble for pod in pods if pod.trouble), None)


def weight_of(world: World, cursor: Cursor, revision: str) -> int:
    """Percent of the clients that go to a revision now, by what they go through."""
    if world.route is not None:
        return world.route.weights.get(revision, 0)
    return 100 if cursor.stable and front_revision(world.front) == revision else 0


def is_superseded(before: Mapping[str, Any], cursor: Cursor) -> bool:
    """Whether the rollout that the last status spoke of has just made room for another."""
    rollout = before.get("rollout") or {}
    return (
        rollout.get("state") == State.ABORTING
        and rollout.get("goal") == Goal.SUPERSEDED
        and cursor.state is not State.ABORTING
    )
