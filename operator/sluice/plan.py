"""Decides what to do about one service.  Pure: no clock, no I/O, no randomness.

`plan` moves the cursor by one step at most, lists the writes that follow from it (`actions`), and says
what must be measured before it can go on.  It never says what people read; `status.summarize` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sluice import labels, names
from sluice.actions import Action, front_revision, plan_actions, plan_record, replica_bounds
from sluice.api.rolloutstatus import Verdict
from sluice.prepromotion import find_wait
from sluice.requests import PREVIOUS, RequestError
from sluice.resources.pod import make_pod_template
from sluice.resources.revision import make_inputs, runtime_inputs
from sluice.rollout import machine
from sluice.rollout.asked import answer
from sluice.rollout.course import Course, make_course, make_way_back, without_gateway
from sluice.rollout.cursor import Cursor, CursorError, Goal, State, load_cursor
from sluice.rollout.sight import Sight, Track
from sluice.shadow import find_comparer, find_obstacle
from sluice.world import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    GatewayView,
    Policy,
    RevisionView,
    Trouble,
    World,
)

NOTHING_TO_COMPARE = (
    "the checks are RelativeToStable, and where all clients move at once stable has none to compare with: "
    "add a check that is Absolute or FromEvaluation"
)

_SAMPLED = {State.PROGRESSING, State.SWITCHING, State.ANALYSING, State.PAUSED, State.BAKING}


@dataclass(frozen=True, slots=True)
class Handled:
    """A request from a person, and what came of it."""

    request: str
    by: str
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class ProbeDemand:
    """Answers of a revision are wanted through every gateway."""

    revision: str
    gateways: tuple[GatewayView, ...]
    host: str
    mixes_with: str = (
        ""  # the revision that the route's mix shares the clients with, if there is a mix
    )


@dataclass(frozen=True, slots=True)
class SampleDemand:
    """The checks of a rollout are to be evaluated, again and again, over one window."""

    window: str
    since: datetime
    course: Course
    weight: int | None  # percent; None while it changes
    candidate: str
    stable: str
    pods: Mapping[str, Mapping[str, str]]  # by revision: address by pod name
    evaluation: Mapping[str, str]  # what training measured, by metric
    # Percent of mirrored requests that must be answered alike, 0: any; None: none are mirrored.
    agreement: int | None = None
    comparer: Mapping[str, str] = field(default_factory=dict)  # address by pod name


Demand = ProbeDemand | SampleDemand


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` decided: the cursor to write first, then the actions."""

    cursor: Cursor | None
    actions: tuple[Action, ...] = ()
    trouble: Trouble | None = None  # why the target isn't known or can't be had
    target: RevisionView | None = None
    course: Course | None = None  # of the rollout at hand
    wanted: int = 0  # ready pods that the candidate needs for the step at hand
    handled: Handled | None = None
    demand: Demand | None = None
    is_preparing: bool = False  # what must be on record before the cursor may say that it began
    requeue_after: float | None = None


def plan(world: World, now: datetime, policy: Policy) -> Plan:
    """The next step for this world."""
    try:
        stored = load_cursor(world.status)
    except CursorError as error:
        return Plan(None, trouble=Trouble("StoredStateInvalid", str(error), permanent=True))
    if world.service is None:
        return Plan(stored, trouble=world.invalid)
    cursor = _find_stable(stored, world)
    target, trouble = find_target(world, cursor)
    if world.service.spec.suspend:
        if cursor is not None and cursor.is_moving and cursor.held != machine.SUSPENDED:
            cursor = replace(cursor, held=machine.SUSPENDED)
        handled = _refuse(world, "spec.suspend is true: nothing is changed until it is false")
        return Plan(cursor, trouble=trouble, target=target, handled=handled)
    sight = look(world, cursor, target, policy)
    handled = None
    if cursor is None:
        if target is None:
            return Plan(None, trouble=trouble)
        after = machine.begin("", sight, now)
        handled = _refuse(world, "nothing is rolled out yet")
    else:
        cursor = machine.recast(cursor, sight)
        after, handled = _decide(world, cursor, sight, now)
    if (
        target is not None
        and _begins(cursor, after)
        and (record := plan_record(world, target, make_course(world.service.spec)))
    ):
        # The course is on record before the cursor says that it began: a crash between the two finds
        # either nothing begun, or everything that it needs to go on.
        return Plan(cursor, (record,), trouble, target, is_preparing=True)
    revisions = dict(world.revisions) | ({target.hash: target} if target else {})
    course = find_course(world, after, target)
    sight = look(world, after, target, policy)
    return Plan(
        after,
        tuple(plan_actions(world, after, revisions, course, sight, policy)),
        trouble,
        target,
        course,
        sight.needs(course.at(after.step)) if after.stable else sight.candidate.wanted,
        handled,
        _find_demand(world, after, course, sight),
        requeue_after=machine.wake_after(after, sight, now),
    )


def _decide(
    world: World, cursor: Cursor, sight: Sight, now: datetime
) -> tuple[Cursor, Handled | None]:
    """What a person asks for comes first; else what is seen decides."""
    request = world.request
    if request is None or is_handled(world):
        return machine.advance(cursor, sight, now), None
    if isinstance(request, RequestError):
        return machine.advance(cursor, sight, now), Handled(
            request.text, "", accepted=False, message=request.message
        )
    if world.created is not None and request.time < world.created.replace(microsecond=0):
        message = "it is older than the InferenceService, so it was meant for another one"
        return cursor, Handled(request.text, request.by, accepted=False, message=message)
    said = answer(cursor, sight, request, lambda target: _find_ancestor(world, cursor, target), now)
    handled = Handled(request.text, request.by, said.accepted, said.message)
    return said.cursor, handled


def is_handled(world: World) -> bool:
    """Whether the request on the object was answered before."""
    last = world.status.get("lastHandledRequest") or {}
    return world.request is not None and last.get("request") == world.request.text[:512]


def _refuse(world: World, message: str) -> Handled | None:
    request = world.request
    if request is None or is_handled(world):
        return None
    by = "" if isinstance(request, RequestError) else request.by
    return Handled(request.text, by, accepted=False, message=message)


def _find_ancestor(world: World, cursor: Cursor, target: str) -> str:
    """The recorded revision that a rollback's target names: the one before stable, or a version's."""
    recorded = [view for view in world.revisions.values() if CONTROLLER_REVISION in view.children]
    if target == PREVIOUS:
        served = [
            entry["revision"]
            for entry in world.status.get("history", ())
            if entry["outcome"] == "Replaced" and entry["revision"] != cursor.stable
        ]
        known = {view.hash for view in recorded}
        return next((revision for revision in served if revision in known), "")
    found = [view for view in recorded if view.version == target and view.hash != cursor.stable]
    return max(found, key=lambda view: view.sequence).hash if found else ""


def _begins(before: Cursor | None, after: Cursor) -> bool:
    """Whether a rollout along a course of its own begins here."""
    if after.state is not State.PROGRESSING or after.back:
        return False
    return before is None or not before.is_moving or before.revision != after.revision


def find_course(world: World, cursor: Cursor | None, target: RevisionView | None) -> Course:
    """The course of the rollout at hand: as recorded, or what spec asks for where nothing is."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    wanted = make_course(world.service.spec)
    if cursor is None:
        return wanted
    if cursor.back:
        return make_way_back(wanted)
    view = world.revisions.get(cursor.revision)
    course = (view.course if view else None) or wanted
    return course if world.service.spec.traffic is not None else without_gateway(course)


def find_target(world: World, cursor: Cursor | None) -> tuple[RevisionView | None, Trouble | None]:
    """The revision that the spec asks for, or why there is none."""
    service, version = world.service, world.version
    assert service is not None, "plan returned before"  # noqa: S101 - narrows the type
    wanted = service.spec.model
    stable = world.revisions.get(cursor.stable) if cursor else None
    is_stable = (
        stable is not None
        and (stable.model, stable.version) == (wanted.name, wanted.version)
        and stable.inputs.get("runtime") == runtime_inputs(service)
    )
    name = names.version_name(wanted.name, wanted.version)
    if version is None:
        message = (
            f"ModelVersion {name} is not in namespace {world.owner.namespace}: "
            "apply it, or correct spec.model"
        )
        if is_stable:
            return stable, None
        return None, world.invalid or Trouble("WaitingForVersion", message)
    inputs = make_inputs(service, version)
    revision = names.revision_hash(world.owner.name, labels.PRIMARY, inputs)
    begun = {cursor.stable, cursor.revision if cursor.is_moving else ""} if cursor else set()
    if version.spec.lifecycle == "Retired" and revision not in begun:
        message = (
            f"ModelVersion {name} is Retired: choose another "
            "version in spec.model.version, or set its spec.lifecycle to Active"
        )
        return None, Trouble("VersionRetired", message, permanent=True)
    view = RevisionView(
        hash=revision,
        model=wanted.name,
        version=wanted.version,
        digest=version.spec.artifact.digest,
        sequence=1 + max((view.sequence for view in world.revisions.values()), default=0),
        inputs=inputs,
        template=make_pod_template(world.owner.name, revision, inputs),
    )
    if known := world.revisions.get(revision):
        # The spec has the inputs of a record that somebody deleted; what runs has the template.
        if CONTROLLER_REVISION not in known.children:
            known = replace(known, inputs=inputs, template=known.template or view.template)
        view = known
    is_retried = (
        cursor is not None and cursor.state is State.REJECTED and cursor.revision == revision
    )
    if revision not in begun and (trouble := _find_bar(world, stable, view, is_retried=is_retried)):
        return None, trouble
    return view, None


def _find_bar(
    world: World, stable: RevisionView | None, view: RevisionView, *, is_retried: bool
) -> Trouble | None:
    """Why a revision that could run must not be begun."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    if world.quarantine and view.rejected is None and not is_retried:
        # Where it was rejected by this very service, the rejection is what is told, and may be retried.
        message = (
            f"{view.version} is quarantined: {world.quarantine}; choose another version, "
            "or retry it where it failed"
        )
        return Trouble("VersionQuarantined", message, permanent=True)
    if stable is None or stable.space == view.space:
        return None
    if not make_course(world.service.spec).mixes:
        return None
    message = (
        f"{view.version} embeds into space {view.space or '(none)'} and stable {stable.version} "
        f"into {stable.space or '(none)'}: answers of both would mix under one route; set "
        "spec.rollout.strategy to BlueGreen, which switches in one write"
    )
    return Trouble("EmbeddingSpaceChanged", message, permanent=True)


def _find_stable(cursor: Cursor | None, world: World) -> Cursor | None:
    """Rebuilds what a lost status knew: stable is the revision that the front Service selects.

    The route's weights would tell too, but past half of a canary they would name the candidate.
    """
    if cursor is not None:
        return cursor
    selected = front_revision(world.front)
    if selected not in world.revisions:
        return None
    others = [
        view
        for view in world.revisions.values()
        if view.hash != selected and DEPLOYMENT in view.children
    ]
    if others:
        # It may have had clients a moment ago, as a candidate or as what came before: they get their time.
        newest = max(others, key=lambda view: view.sequence).hash
        return Cursor(State.ABORTING, newest, selected, goal=Goal.SUPERSEDED)
    return Cursor(State.COMPLETE, selected, selected)


def look(world: World, cursor: Cursor | None, target: RevisionView | None, policy: Policy) -> Sight:
    """The world as the state machine sees it."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    spec = world.service.spec
    candidate = world.revisions.get(cursor.revision) if cursor else target
    previous = world.revisions.get(cursor.previous) if cursor else None
    stable = world.revisions.get(cursor.stable) if cursor else None
    before = previous or stable
    rejected = target.rejected if target else None
    revision = cursor.revision if cursor else ""
    course = find_course(world, cursor, target)
    verdict, finding = _read_evidence(world, cursor, course)
    unchecked, check_failed = find_wait(world, cursor, course)
    lag = timedelta(seconds=policy.drain_lag_seconds)
    if spec.traffic is not None:
        lag += spec.traffic.timeout_after
    return Sight(
        target=target.hash if target else "",
        candidate=_track(world, cursor, candidate),
        course=course,
        other_ready=before.ready_replicas if before else 0,
        previous_ready=previous.ready_replicas if previous else 0,
        rejected=(rejected.reason, rejected.message) if rejected else None,
        carried=_find_carried(world, revision),
        reachable=_find_reachable(world),
        weighs=spec.traffic is not None,
        proven=spec.traffic is None or revision in world.evidence.proven,
        unmirrored=find_obstacle(world, cursor, course),
        unchecked=unchecked,
        check_failed=check_failed,
        verdict=verdict,
        finding=finding,
        is_recast=_is_recast(world, cursor, target),
        mixable=(before.space if before else "") == (candidate.space if candidate else ""),
        lag=lag,
        settles=_is_on_record(world, cursor),
        stable_exists=stable is not None,
        stable_replicas=stable.replicas if stable else 0,
        deadline=int(spec.rollout.deadline_after.total_seconds()),
    )


def _is_recast(world: World, cursor: Cursor | None, target: RevisionView | None) -> bool:
    """Whether a rejected target's record has another course than spec asks for by now."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    if cursor is None or cursor.state is not State.REJECTED or target is None:
        return False
    return target.course is not None and target.course != make_course(world.service.spec)


def _is_on_record(world: World, cursor: Cursor | None) -> bool:
    """Whether a rejection is written where it outlives the status."""
    if cursor is None or cursor.state is not State.REJECTED:
        return True
    view = world.revisions.get(cursor.revision)
    return view is None or CONTROLLER_REVISION not in view.children or view.rejected is not None


def _find_carried(world: World, revision: str) -> int | None:
    """Percent of the clients that go to a revision, None while gateways have not taken the route."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    if world.service.spec.traffic is None:
        return 100 if front_revision(world.front) == revision else 0
    if world.route is None or not world.route.settled:
        return None
    return world.route.weights.get(revision, 0)


def _find_reachable(world: World) -> frozenset[str]:
    reachable = set(world.reachable)
    if world.route is not None:
        reachable |= {name for name, weight in world.route.weights.items() if weight}
    return frozenset(reachable)


def window_of(cursor: Cursor) -> str:
    """The identity of the samples that are counted at a moment."""
    since = counted_since(cursor)
    return f"{cursor.revision}/{cursor.step}/{since.isoformat() if since else ''}"


def counted_since(cursor: Cursor) -> datetime | None:
    """Since when answers are counted: from the step's weight on, before it with the weight of the last."""
    return cursor.shifted or (cursor.step_started if cursor.weight else None)


def _read_evidence(world: World, cursor: Cursor | None, course: Course) -> tuple[Verdict, str]:
    """The verdict of the step's checks together, with the words of those that decide it."""
    if cursor is None or not is_sampled(cursor, course) or not course.is_checked_at(cursor.step):
        return Verdict.PASS, ""
    evidence = world.evidence
    counted = [result for result in evidence.results if not result.dry_run]
    if evidence.window != window_of(cursor):
        return Verdict.INCONCLUSIVE, "no samples yet"
    # A check that has nothing to be judged by at this weight is not among the results.
    if not counted and cursor.weight == 100 and not course.mixes and course.compares:
        return Verdict.INCONCLUSIVE, NOTHING_TO_COMPARE
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        found = [result.message for result in counted if result.verdict == verdict]
        if found:
            return verdict, "; ".join(found)
    return Verdict.PASS, ""


def is_sampled(cursor: Cursor, course: Course) -> bool:
    """Whether checks are measured: wherever the candidate has clients, and where they are mirrored."""
    if not course.is_measured_at(cursor.step) or cursor.back or counted_since(cursor) is None:
        return False
    if cursor.goal is Goal.FULL:
        return False  # a person has decided
    if cursor.shifted is None and not (cursor.floor and course.before(cursor.step)):
        return False  # it is about to get its first clients
    step = course.at(cursor.step)
    if cursor.weight == 0 and not step.shadow:
        return False  # a preview has no clients to count
    return cursor.state in _SAMPLED


def _track(world: World, cursor: Cursor | None, view: RevisionView | None) -> Track:
    low, high = replica_bounds(world)
    stable = world.revisions.get(cursor.stable) if cursor else None
    begun = cursor.replicas if cursor else 0
    # Before a switch the candidate has what stable has: clients must not feel the difference.
    wanted = min(high, max(low, begun, stable.replicas if stable else 0))
    if view is None:
        return Track(wanted=wanted)
    live = [pod for pod in view.pods if not pod.terminating]
    troubles = [pod.trouble for pod in live if pod.trouble]
    doomed = next((trouble for trouble in troubles if trouble.permanent), None)
    newest = doomed or next(iter(troubles), None) or view.failure
    return Track(
        ready=view.ready_replicas,
        wanted=wanted,
        cut_off=sum(pod.is_cut_off for pod in live),
        reached=world.reachable.get(view.hash, 0),
        unschedulable=next((pod.unschedulable for pod in live if pod.unschedulable), ""),
        doomed_reason=doomed.reason if doomed else "",
        doomed_message=doomed.message if doomed else "",
        trouble=newest.message if newest else "",
        restarts=sum(pod.restarts for pod in live),
    )


def _find_demand(world: World, cursor: Cursor, course: Course, sight: Sight) -> Demand | None:
    """What must be measured before the rollout can go on."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    traffic = world.service.spec.traffic
    if (
        traffic is not None
        and cursor.state in {State.PROGRESSING, State.FAILED}
        and not (sight.proven or cursor.weight)
        and sight.candidate.ready > 0
        and world.route is not None
        and world.route.settled
        and cursor.revision in world.route.named
    ):
        host = sorted(traffic.hostnames)[0]
        mixed = cursor.stable if world.route.has_mix else ""
        return ProbeDemand(cursor.revision, world.gateways, host, mixed)
    since = counted_since(cursor)
    if not is_sampled(cursor, course) or since is None:
        return None
    stable, step = cursor.previous or cursor.stable, course.at(cursor.step)
    is_steady = cursor.shifted is not None or cursor.state is State.PROGRESSING
    return SampleDemand(
        window=window_of(cursor),
        since=since,
        course=course,
        weight=cursor.weight if is_steady else None,
        candidate=cursor.revision,
        stable=stable,
        pods={
            revision: {
                pod.name: pod.address
                for pod in world.revisions[revision].pods
                if pod.address and (pod.ready or pod.terminating)
            }
            for revision in (cursor.revision, stable)
            if revision in world.revisions
        },
        evaluation=world.evaluation,
        agreement=step.agreement if step.shadow else None,
        comparer=find_comparer(world, cursor.revision) if step.shadow else {},
    )
