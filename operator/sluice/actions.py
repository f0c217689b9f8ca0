"""The writes that follow from a cursor.  Pure.

In order: what is on record, then traffic, then what runs, then what can go.  Traffic comes before what
runs because taking it away must not wait for anything; it is never given to pods that can't answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sluice import labels, names
from sluice.prepromotion import find_job, is_due, is_kept, job_name
from sluice.quantity import is_same_quantity
from sluice.resources.checker import Checked, make_checker
from sluice.resources.comparer import make_comparer, make_comparer_service
from sluice.resources.deployment import make_deployment
from sluice.resources.hpa import make_hpa
from sluice.resources.metadata import Manifest
from sluice.resources.pdb import make_pdb
from sluice.resources.revision import make_controller_revision
from sluice.resources.route import Split, make_route
from sluice.resources.service import make_front, make_service
from sluice.rollout.course import Course, dump_course
from sluice.rollout.cursor import Cursor, State
from sluice.rollout.machine import FAILED_CHECK
from sluice.rollout.sight import Sight
from sluice.shadow import choose_mirror, is_shadowing
from sluice.world import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    HPA,
    HTTP_ROUTE,
    JOB,
    PDB,
    SERVICE,
    Policy,
    RevisionView,
    Trouble,
    World,
)


@dataclass(frozen=True, slots=True)
class Apply:
    """Makes a child be as its manifest says.  `observed` is what is there, None to create it."""

    kind: str
    manifest: Manifest
    observed: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a child that nothing needs any more."""

    kind: str
    observed: Manifest
    why: str


Action = Apply | Delete


def plan_actions(
    world: World,
    cursor: Cursor,
    revisions: Mapping[str, RevisionView],
    course: Course,
    sight: Sight,
    policy: Policy,
) -> Iterator[Action]:
    """Every write that this cursor asks for, in order."""
    kept = [
        revisions[name]
        for name in dict.fromkeys((cursor.stable, *_tracks(cursor)))
        if name in revisions
    ]
    if cursor.state is State.REJECTED and cursor.revision in revisions:
        yield from _plan_mark(world, revisions[cursor.revision], cursor)
    yield from _plan_front(world, cursor, revisions)
    compared = revisions.get(cursor.revision) if is_shadowing(cursor, course) else None
    if compared is not None:
        yield from _plan_comparer(world, cursor.stable, compared)
    yield from _plan_route(world, cursor, revisions, course)
    for view in kept:
        yield from _plan_revision(world, cursor, view, sight.needs(course.at(cursor.step)))
    if course.job is not None and is_due(world, cursor, course, sight):
        view = revisions[cursor.revision]
        checked = Checked(view.hash, view.model, view.version, view.template)
        name = job_name(world, cursor)
        yield Apply(JOB, make_checker(world.owner, name, cursor.stable, checked, course.job))
    yield from _plan_job_removal(world, cursor)
    yield from _plan_comparer_removal(world, compared.hash if compared else "")
    yield from _plan_removals(world, cursor, {view.hash for view in kept}, policy)


def front_revision(front: Manifest | None) -> str:
    """The revision that the front Service selects, or an empty string."""
    selector: Mapping[str, str] = ((front or {}).get("spec") or {}).get("selector") or {}
    return selector.get(labels.REVISION, "")


def is_answering(revisions: Mapping[str, RevisionView], revision: str) -> bool:
    """Whether a revision has a ready pod."""
    return revision in revisions and revisions[revision].ready_replicas > 0


def replica_bounds(world: World) -> tuple[int, int]:
    """`minReplicas` and `maxReplicas` of the service, the maximum never below the minimum."""
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    scaling = world.service.spec.scaling
    return scaling.min_replicas, max(scaling.min_replicas, scaling.max_replicas)


def _tracks(cursor: Cursor) -> tuple[str, ...]:
    """The revisions besides stable that run in this state."""
    if not cursor.is_moving:
        return ()
    return (cursor.previous,) if cursor.is_promoted else (cursor.revision,)


# Records


def plan_record(world: World, view: RevisionView, course: Course) -> Apply | None:
    """The record of a revision that is about to be rolled out along this course, unless it is there."""
    is_recorded = CONTROLLER_REVISION in view.children
    if is_recorded and view.course == course and view.rejected is None:
        return None
    return _make_record(world, view, course, None)


def _plan_mark(world: World, view: RevisionView, cursor: Cursor) -> Iterator[Apply]:
    """Writes a rejection down where it outlives the status."""
    if view.rejected is None and CONTROLLER_REVISION in view.children:
        reason = cursor.reason or labels.REJECTED
        yield _make_record(world, view, view.course, Trouble(reason, cursor.message))


def _make_record(
    world: World, view: RevisionView, course: Course | None, rejected: Trouble | None
) -> Apply:
    record = make_controller_revision(
        world.owner, view.hash, dict(view.inputs), view.template, view.sequence
    )
    annotations = record["metadata"]["annotations"]
    if course is not None:
        annotations[labels.COURSE] = dump_course(course)
    if rejected is not None:
        reason = f"{rejected.reason}: {rejected.message}"[:1024]
        annotations |= {labels.OUTCOME: labels.REJECTED, labels.OUTCOME_REASON: reason}
        if course is not None and course.quarantine and rejected.reason == FAILED_CHECK:
            annotations[labels.QUARANTINE] = rejected.message[:1024] or FAILED_CHECK
    return Apply(CONTROLLER_REVISION, record, view.children.get(CONTROLLER_REVISION))


# Traffic


def _plan_front(
    world: World, cursor: Cursor, revisions: Mapping[str, RevisionView]
) -> Iterator[Action]:
    serving = cursor.stable or cursor.revision
    if cursor.is_moving and not cursor.is_promoted and cursor.weight == 100:
        serving = cursor.revision
    selected = front_revision(world.front)
    if is_answering(revisions, selected) and not is_answering(revisions, serving):
        # Whatever led here (an old view, a state that nobody thought of): traffic is never taken
        # from pods that answer to give it to none.
        serving = selected
    if serving in revisions:
        yield from _wanted(SERVICE, make_front(world.owner, serving), world.front)


def _plan_route(
    world: World, cursor: Cursor, revisions: Mapping[str, RevisionView], course: Course
) -> Iterator[Action]:
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    traffic, observed = world.service.spec.traffic, world.route
    if traffic is None:
        if observed is not None:
            yield Delete(HTTP_ROUTE, observed.manifest, "spec.traffic is not set")
        return
    if not world.has_gateway_api:
        return
    split = _split(cursor, course, revisions, observed.lanes if observed else ())
    if not all(_has_service(revisions, revision) for revision in split.lanes if revision):
        return  # a gateway would refuse a route to a Service that isn't there yet
    if split.main:
        mirror, percent = choose_mirror(world, cursor, course)
        split = replace(split, mirror=mirror, mirror_percent=percent)
    given = [split.main] if split.main else list(split.mix)
    if observed is not None and not any(is_answering(revisions, name) for name in given):
        taken = [name for name, weight in observed.weights.items() if weight]
        if any(is_answering(revisions, name) for name in taken):
            return  # as above: never from pods that answer to none
    route = make_route(world.owner, traffic, split)
    yield from _wanted(HTTP_ROUTE, route, observed.manifest if observed else None)


def _split(
    cursor: Cursor,
    course: Course,
    revisions: Mapping[str, RevisionView],
    lanes: tuple[str, ...],
) -> Split:
    """Who gets what, each revision in the lane that it has."""
    main = cursor.stable or cursor.revision
    other = cursor.previous if cursor.is_promoted else cursor.revision
    if not cursor.is_moving or not cursor.stable or not _has_service(revisions, other):
        return Split(_take_lanes(lanes, main, ""), main)
    taken = _take_lanes(lanes, main, other)
    if cursor.is_promoted:
        return Split(taken, main, _mix(course, cursor, other, main))
    if cursor.state is State.ABORTING:
        return Split(taken, main, _mix(course, cursor, main, other))
    mix = _mix(course, cursor, main, other)
    if cursor.weight == 100:
        main = other
    elif cursor.weight:
        main = ""
    matched = other if cursor.weight else ""
    return Split(taken, main, mix, matched, course.match)


def _take_lanes(lanes: tuple[str, ...], main: str, other: str) -> tuple[str, str]:
    """Two revisions in two lanes, each where it was; `other` is empty where there is one."""
    is_second = lanes[1:2] == (main,) or (lanes[:1] == (other,) and other != "")
    return (other, main) if is_second and lanes[:1] != (main,) else (main, other)


def _mix(course: Course, cursor: Cursor, stable: str, candidate: str) -> dict[str, int]:
    """The weights of the rule that mixes, which stands there as long as any step may need it.

    Out of use it keeps the last weights that it had, or has the next ones that it will get.
    """
    partial = [step.weight for step in course.steps if 0 < step.weight < 100]
    if not partial or cursor.back:
        return {}
    now = course.at(cursor.step).weight
    weight = cursor.weight or now
    if not 0 < weight < 100:
        weight = max((known for known in partial if known <= weight), default=partial[0])
    return {stable: 100 - weight, candidate: weight}


def _has_service(revisions: Mapping[str, RevisionView], revision: str) -> bool:
    return revision in revisions and SERVICE in revisions[revision].children


# What runs


def _plan_revision(
    world: World, cursor: Cursor, view: RevisionView, needed: int
) -> Iterator[Action]:
    owner, have = world.owner, view.children
    if CONTROLLER_REVISION not in have:
        yield _make_record(world, view, view.course, view.rejected)
    identity = (view.hash, view.model, view.version)
    yield from _wanted(SERVICE, make_service(owner, *identity), have.get(SERVICE))
    if view.hash == cursor.previous and DEPLOYMENT not in have and cursor.state is State.DRAINING:
        return  # somebody took what was to go anyway
    floor, replicas = _size(world, cursor, view, needed)
    deployment = make_deployment(owner, *identity, view.template, replicas)
    yield from _wanted(DEPLOYMENT, deployment, have.get(DEPLOYMENT))
    low, high = replica_bounds(world)
    if low < high:
        assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
        hpa = make_hpa(owner, *identity, world.service.spec.scaling, floor)
        yield from _wanted(HPA, hpa, have.get(HPA))
    elif HPA in have:
        yield Delete(HPA, have[HPA], "minReplicas equals maxReplicas")
    yield from _wanted(PDB, make_pdb(owner, *identity), have.get(PDB))


def _plan_comparer(world: World, stable: str, candidate: RevisionView) -> Iterator[Action]:
    """What a shadow step compares with: before the route may name it."""
    comparer = world.comparers.get(candidate.hash)
    have = comparer.children if comparer else {}
    service = make_comparer_service(world.owner, candidate.hash)
    yield from _wanted(SERVICE, service, have.get(SERVICE))
    deployment = make_comparer(world.owner, stable, candidate.hash, candidate.template)
    yield from _wanted(DEPLOYMENT, deployment, have.get(DEPLOYMENT))


def _size(world: World, cursor: Cursor, view: RevisionView, needed: int) -> tuple[int, int]:
    """The fewest replicas that an autoscaler may leave a revision, and the replicas to ask for now."""
    low, high = replica_bounds(world)
    begun = cursor.replicas if cursor.is_moving else 0
    floor = min(high, max(low, begun))
    if cursor.stable and view.hash == cursor.revision and not cursor.is_promoted:
        # The candidate has what its weight needs, and grows along the steps.
        floor = min(high, max(needed, cursor.floor))
    if DEPLOYMENT not in view.children:
        return floor, floor
    if view.hash == cursor.previous or cursor.state is State.ABORTING:
        # What finishes keeps what it has: its own users decide when it is done, not a new bound.
        return floor, max(view.replicas, 1) if view.hash == cursor.previous else view.replicas
    return floor, min(high, max(floor, view.replicas))


def _wanted(kind: str, manifest: Manifest, observed: Manifest | None) -> Iterator[Action]:
    if observed is None or not is_satisfied(manifest, observed):
        yield Apply(kind, manifest, observed)


# What can go


def _plan_removals(
    world: World, cursor: Cursor, kept: set[str], policy: Policy
) -> Iterator[Action]:
    """What no state needs goes; what a client may still reach never does."""
    used = {front_revision(world.front), *world.reachable}
    if world.route is not None:
        used |= world.route.named
    is_unsettled = world.route is not None and not world.route.settled
    for view in sorted(world.revisions.values(), key=lambda view: view.sequence):
        if view.hash in kept or view.hash in used or is_unsettled:
            continue
        # The autoscaler first, or it would scale what is being deleted.
        for kind in (HPA, DEPLOYMENT, SERVICE, PDB):
            if kind in view.children and "deletionTimestamp" not in view.children[kind]["metadata"]:
                yield Delete(kind, view.children[kind], f"{view.version} is no longer needed")
    recorded = sorted(
        (view for view in world.revisions.values() if CONTROLLER_REVISION in view.children),
        key=lambda view: view.sequence,
    )
    spare = [
        view
        for view in recorded
        if view.hash not in {*kept, cursor.revision, cursor.stable, *used} and not view.runs
    ]
    excess = len(recorded) - policy.revision_history
    for view in spare[: max(0, excess)]:
        yield Delete(
            CONTROLLER_REVISION,
            view.children[CONTROLLER_REVISION],
            f"more than {policy.revision_history} revisions are kept",
        )


def _plan_job_removal(world: World, cursor: Cursor) -> Iterator[Delete]:
    """Jobs of other rollouts go, and this one's when it is over; a rejected one keeps its logs."""
    kept = find_job(world, cursor) if is_kept(cursor) else None
    for job in world.jobs.values():
        if job is not kept and "deletionTimestamp" not in job.manifest["metadata"]:
            yield Delete(JOB, job.manifest, "the rollout that it checked is over")


def _plan_comparer_removal(world: World, kept: str) -> Iterator[Action]:
    """A comparer goes once gateways have taken a route that doesn't name it."""
    if world.route is not None and not world.route.settled:
        return
    for revision, comparer in sorted(world.comparers.items()):
        name = names.comparer_name(world.owner.name, revision)
        if revision == kept or (world.route is not None and world.route.mirror == name):
            continue
        for kind, child in comparer.children.items():
            if "deletionTimestamp" not in child["metadata"]:
                yield Delete(kind, child, "nothing is mirrored to it any more")


def is_satisfied(wanted: Any, observed: Any) -> bool:
    """Whether `observed` has all that `wanted` says; what the API server added is left alone.

    Lists must have the same length: an element more is somebody's change.
    """
    if wanted == observed:
        return True  # most of what is looked at, in one comparison
    if observed is None:
        # The API server leaves out what is empty: `value: ""` comes back as no value.
        return wanted in ("", False, {}, [])
    if isinstance(wanted, dict):
        return isinstance(observed, dict) and all(
            is_satisfied(value, observed.get(key)) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(observed, list)
            and len(wanted) == len(observed)
            and all(is_satisfied(one, other) for one, other in zip(wanted, observed, strict=True))
        )
    return is_same_quantity(wanted, observed)
