"""Decides what to do about one service.  Pure: no clock, no I/O, no randomness.

`plan` moves the cursor by one step at most and lists the writes that follow from it, in the order in
which they must happen.  It never says what people read; `status.summarize` does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sluice import labels, names
from sluice.quantity import is_same_quantity
from sluice.resources.deployment import make_deployment
from sluice.resources.hpa import make_hpa
from sluice.resources.metadata import Manifest
from sluice.resources.pdb import make_pdb
from sluice.resources.pod import make_pod_template
from sluice.resources.revision import make_controller_revision, make_inputs, runtime_inputs
from sluice.resources.service import make_front, make_service
from sluice.rollout import rolling_update
from sluice.rollout.cursor import Cursor, CursorError, State, load_cursor
from sluice.world import (
    CONTROLLER_REVISION,
    DEPLOYMENT,
    HPA,
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` decided: the cursor to write first, then the actions."""

    cursor: Cursor | None
    actions: tuple[Action, ...] = ()
    trouble: Trouble | None = None  # why the target isn't known or can't be had
    target: RevisionView | None = None
    wanted: int = 0  # ready pods that the candidate needs before traffic moves
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
        if cursor is not None and cursor.is_moving and cursor.held != rolling_update.SUSPENDED:
            cursor = replace(cursor, held=rolling_update.SUSPENDED)
        return Plan(cursor, trouble=trouble, target=target)
    if cursor is None:
        if target is None:
            return Plan(None, trouble=trouble)
        cursor = rolling_update.begin("", _look(world, None, target, policy), now)
        revisions = _with(world.revisions, target)
    else:
        sight = _look(world, cursor, target, policy)
        cursor = rolling_update.advance(cursor, sight, now)
        revisions = _with(world.revisions, target) if target else dict(world.revisions)
    actions = tuple(_plan_actions(world, cursor, revisions, policy))
    sight = _look(world, cursor, target, policy)
    return Plan(
        cursor,
        actions,
        trouble,
        target,
        sight.candidate.wanted,
        rolling_update.wake_after(cursor, sight, now),
    )


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
    if version is None:
        name = names.version_name(wanted.name, wanted.version)
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
            f"ModelVersion {names.version_name(wanted.name, wanted.version)} is Retired: choose another "
            "version in spec.model.version, or set its spec.lifecycle to Active"
        )
        return None, Trouble("VersionRetired", message, permanent=True)
    if known := world.revisions.get(revision):
        # The spec has the inputs of a record that somebody deleted; what runs has the template.
        if CONTROLLER_REVISION not in known.children:
            known = replace(known, inputs=inputs)
        return known, None
    return (
        RevisionView(
            hash=revision,
            model=wanted.name,
            version=wanted.version,
            digest=version.spec.artifact.digest,
            sequence=1 + max((view.sequence for view in world.revisions.values()), default=0),
            inputs=inputs,
            template=make_pod_template(world.owner.name, revision, inputs),
        ),
        None,
    )


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


def _with(revisions: Mapping[str, RevisionView], target: RevisionView) -> dict[str, RevisionView]:
    return {**revisions, target.hash: target}


def _find_stable(cursor: Cursor | None, world: World) -> Cursor | None:
    """Rebuilds what a lost status knew: stable is the revision that the front Service selects."""
    if cursor is not None:
        return cursor
    selected = front_revision(world.front)
    if selected not in world.revisions:
        return None
    return Cursor(State.COMPLETE, selected, selected)


def _look(
    world: World, cursor: Cursor | None, target: RevisionView | None, policy: Policy
) -> rolling_update.Sight:
    assert world.service is not None, "plan returned before"  # noqa: S101 - narrows the type
    candidate = world.revisions.get(cursor.revision) if cursor else target
    previous = world.revisions.get(cursor.previous) if cursor else None
    rejected = target.rejected if target else None
    return rolling_update.Sight(
        target=target.hash if target else "",
        candidate=_track(world, cursor, candidate),
        previous_ready=previous.ready_replicas if previous else 0,
        rejected=(rejected.reason, rejected.message) if rejected else None,
        front=front_revision(world.front),
        reachable=frozenset(world.reachable),
        deadline=world.service.spec.rollout.deadline_after,
        drain_lag=timedelta(seconds=policy.drain_lag_seconds),
    )


def _track(world: World, cursor: Cursor | None, view: RevisionView | None) -> rolling_update.Track:
    low, high = replica_bounds(world)
    stable = world.revisions.get(cursor.stable) if cursor else None
    # Before a switch the candidate has what stable has: clients must not feel the difference.
    wanted = min(high, max(low, stable.replicas if stable else 0))
    if view is None:
        return rolling_update.Track(wanted=wanted)
    live = [pod for pod in view.pods if not pod.terminating]
    troubles = [pod.trouble for pod in live if pod.trouble]
    doomed = next((trouble for trouble in troubles if trouble.permanent), None)
    newest = doomed or next(iter(troubles), None) or view.failure
    return rolling_update.Track(
        ready=view.ready_replicas,
        wanted=wanted,
        reached=world.reachable.get(view.hash, 0),
        unschedulable=next((pod.unschedulable for pod in live if pod.unschedulable), ""),
        doomed_reason=doomed.reason if doomed else "",
        doomed_message=doomed.message if doomed else "",
        trouble=newest.message if newest else "",
    )


def _plan_actions(
    world: World, cursor: Cursor, revisions: Mapping[str, RevisionView], policy: Policy
) -> Iterator[Action]:
    """Writes in order: records, then what runs, then what clients reach, then what can go."""
    low, high = replica_bounds(world)
    stable = revisions.get(cursor.stable)
    floor = stable.replicas if stable and cursor.is_moving else 0
    kept = [
        revisions[name]
        for name in dict.fromkeys((cursor.stable, *_tracks(cursor)))
        if name in revisions
    ]
    for view in kept:
        wanted = min(high, max(low, floor))
        has_run = DEPLOYMENT in view.children
        replicas = min(high, max(wanted, view.replicas)) if has_run else wanted
        if view.hash == cursor.previous:
            # What drains keeps what it has: its own users decide when it is done, not a new bound.
            replicas = view.replicas
        yield from _plan_revision(world, view, replicas, floor)
    serving = cursor.stable or cursor.revision
    if cursor.state is State.SWITCHING:
        serving = cursor.revision
    selected = front_revision(world.front)
    if is_answering(revisions, selected) and not is_answering(revisions, serving):
        # Whatever led here (an old view, a state that nobody thought of): traffic is never taken
        # from pods that answer to give it to none.
        serving = selected
    if serving in revisions:
        yield from _wanted(SERVICE, make_front(world.owner, serving), world.front)
    if cursor.state is State.REJECTED:
        yield from _plan_outcome(world, cursor, revisions)
    yield from _plan_removals(world, cursor, {view.hash for view in kept}, policy)


def _tracks(cursor: Cursor) -> tuple[str, ...]:
    """The revisions besides stable that run in this state."""
    match cursor.state:
        case State.PROGRESSING | State.FAILED | State.SWITCHING:
            return (cursor.revision,)
        case State.DRAINING:
            return (cursor.previous,)
        case State.REJECTED | State.COMPLETE:
            return ()


def _plan_revision(world: World, view: RevisionView, replicas: int, floor: int) -> Iterator[Action]:
    owner, have = world.owner, view.children
    if CONTROLLER_REVISION not in have:
        record = make_controller_revision(
            owner, view.hash, dict(view.inputs), view.template, view.sequence
        )
        yield Apply(CONTROLLER_REVISION, record)
    identity = (view.hash, view.model, view.version)
    yield from _wanted(SERVICE, make_service(owner, *identity), have.get(SERVICE))
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


def _wanted(kind: str, manifest: Manifest, observed: Manifest | None) -> Iterator[Action]:
    if observed is None or not is_satisfied(manifest, observed):
        yield Apply(kind, manifest, observed)


def _plan_outcome(
    world: World, cursor: Cursor, revisions: Mapping[str, RevisionView]
) -> Iterator[Action]:
    """Writes a rejection down where it outlives the status."""
    view = revisions.get(cursor.revision)
    if view is None or view.rejected is not None or CONTROLLER_REVISION not in view.children:
        return
    record = make_controller_revision(
        world.owner, view.hash, dict(view.inputs), view.template, view.sequence
    )
    record["metadata"]["annotations"] |= {
        labels.OUTCOME: labels.REJECTED,
        labels.OUTCOME_REASON: f"{cursor.reason}: {cursor.message}"[:1024],
    }
    yield Apply(CONTROLLER_REVISION, record, view.children[CONTROLLER_REVISION])


def _plan_removals(
    world: World, cursor: Cursor, kept: set[str], policy: Policy
) -> Iterator[Action]:
    """What no state needs goes; what a client may still reach never does."""
    selected = front_revision(world.front)
    for view in sorted(world.revisions.values(), key=lambda view: view.sequence):
        if view.hash in kept or view.hash == selected or view.hash in world.reachable:
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
        if view.hash not in {*kept, cursor.revision, cursor.stable, selected} and not view.runs
    ]
    excess = len(recorded) - policy.revision_history
    for view in spare[: max(0, excess)]:
        yield Delete(
            CONTROLLER_REVISION,
            view.children[CONTROLLER_REVISION],
            f"more than {policy.revision_history} revisions are kept",
        )


def is_satisfied(wanted: Any, observed: Any) -> bool:
    """Whether `observed` has all that `wanted` says; what the API server added is left alone.

    Lists must have the same length: an element more is somebody's change.
    """
    if observed is None:
        # The API server leaves out what is empty: `value: ""` comes back as no value.
        return wanted is None or wanted in ("", False, {}, [])
    match wanted:
        case dict():
            return isinstance(observed, dict) and all(
                is_satisfied(value, observed.get(key)) for key, value in wanted.items()
            )
        case list():
            return (
                isinstance(observed, list)
                and len(wanted) == len(observed)
                and all(
                    is_satisfied(one, other) for one, other in zip(wanted, observed, strict=True)
                )
            )
        case _:
            return bool(wanted == observed) or is_same_quantity(wanted, observed)
