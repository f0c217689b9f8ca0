"""What must hold of a rollout at any moment, whoever plays the cluster.

Plain values in, `RuleError` out.  The rules are product.md's ("What a rollout is"), written without a look
at how the operator follows them: no state machine, and nothing of `plan` or `actions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sluice import labels
from sluice.actions import Action, Apply, Delete
from sluice.api.rolloutstatus import Verdict
from sluice.observe import view_route
from sluice.requests import Verb
from sluice.resources.route import is_default, revision_of_backend
from sluice.rollout.course import Course
from sluice.rollout.cursor import Cursor, Goal, State
from sluice.world import DEPLOYMENT, SERVICE

RUNS = (DEPLOYMENT, SERVICE)


class RuleError(AssertionError):
    """A rule of the house is broken."""


@dataclass(frozen=True, slots=True)
class Path:
    """One way that clients come in: the front Service, or the route of the gateways."""

    given: Mapping[str, int] = field(default_factory=dict)  # percent by revision, as written last
    carried: Mapping[str, int] = field(default_factory=dict)  # as endpoints or gateways have it
    named: frozenset[str] = frozenset()  # whatever either of the two speaks of
    left: Mapping[str, float] = field(
        default_factory=dict
    )  # seconds since it last got clients and answered
    lag: float = 5.0  # seconds that a client may still be on its way
    rules: tuple[tuple[str, ...], ...] = ()  # by place in the route: the revisions behind the rule

    def reaches(self, revision: str) -> bool:
        """Whether a client may be with this revision, or be on its way to it."""
        if self.given.get(revision) or self.carried.get(revision):
            return True
        return self.left.get(revision, math.inf) < self.lag


@dataclass(frozen=True, slots=True)
class Facts:
    """The cluster as it is, which may be newer than what the operator has seen."""

    ready: Mapping[str, int]  # ready pods by revision
    replicas: Mapping[str, int]  # wanted ones
    paths: tuple[Path, ...]
    has_gateway: bool
    proven: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()  # whose pre-promotion Job ended well
    verdict: Verdict | None = None  # of the checks in the cursor's window; None: no samples yet
    bounds: tuple[int, int] = (1, 1)  # scaling.minReplicas and maxReplicas

    def reaches(self, revision: str) -> bool:
        """Whether a client may be with this revision."""
        return any(path.reaches(revision) for path in self.paths)


def check_action(action: Action, facts: Facts, cursor: Cursor | None) -> None:
    """One write: `facts` are from before it, `cursor` is the one on record."""
    match action:
        case Apply(kind="HTTPRoute", manifest=manifest):
            _check_route(manifest, facts, cursor)
        case Apply(kind="Service", manifest=manifest) if (
            labels.FRONT in manifest["metadata"]["labels"]
        ):
            (front, *_) = facts.paths
            wanted = manifest["spec"]["selector"][labels.REVISION]
            _check_readiness({wanted: 100}, front, facts)
        case Apply(kind="Deployment", manifest=manifest):
            revision = labels.revision_of(manifest)
            fewer = manifest["spec"]["replicas"] < min(
                facts.replicas.get(revision, 0), facts.bounds[1]
            )
            if fewer and facts.reaches(revision):
                raise RuleError(
                    f"{revision} is scaled to {manifest['spec']['replicas']} while clients reach it"
                )
        case Delete(kind=kind, observed=observed) if kind in RUNS:
            revision = labels.revision_of(observed)
            if facts.reaches(revision):
                raise RuleError(f"{kind} of {revision} is deleted while clients may reach it")
            if kind == SERVICE and any(revision in path.named for path in facts.paths):
                raise RuleError(f"the Service of {revision} is deleted while a route names it")


def _check_route(manifest: Mapping[str, Any], facts: Facts, cursor: Cursor | None) -> None:
    route = view_route(dict(manifest))
    if sum(route.weights.values()) != 100:
        raise RuleError(f"the weights are {dict(route.weights)}, together not 100")
    _check_readiness(route.weights, facts.paths[-1], facts)
    _check_places(manifest, facts.paths[-1])
    if cursor is None:
        raise RuleError("a route is written before any cursor")
    if cursor.is_moving and cursor.stable and not cursor.is_promoted:
        found = route.weights.get(cursor.revision, 0)
        if found != cursor.weight:
            raise RuleError(f"the route gives {found}%, the cursor on record says {cursor.weight}%")


def _check_places(manifest: Mapping[str, Any], path: Path) -> None:
    """Clients get only backends that stood there before, at the same place (docs/adr/0005)."""
    for place, rule in enumerate(manifest["spec"]["rules"] if path.rules else ()):
        was = path.rules[place] if place < len(path.rules) else ()
        now = backends_of(rule)
        if is_default(rule) and now != was:
            raise RuleError(f"rule {place} gets the clients and goes from {was} to {now} at once")


def backends_of(rule: Mapping[str, Any]) -> tuple[str, ...]:
    """The revisions that a rule can send to."""
    return tuple(revision_of_backend(backend) for backend in rule.get("backendRefs") or ())


def _check_readiness(weights: Mapping[str, int], path: Path, facts: Facts) -> None:
    """Clients are moved only to who can answer, if anybody can."""
    for revision, weight in weights.items():
        rises = weight > path.given.get(revision, 0)
        others = [name for name, share in path.given.items() if share and facts.ready.get(name)]
        if rises and not facts.ready.get(revision) and others:
            raise RuleError(f"{weight}% go to {revision} without a ready pod, {others} has some")


def check_decision(
    before: Cursor | None,
    after: Cursor | None,
    course: Course,
    facts: Facts,
    verb: Verb | None,
    now: datetime,
) -> None:
    """One move of the cursor; `verb` is what a person asked for and was granted with it.

    `course` is the rollout's own.
    """
    if before is None or after is None or not before.stable:
        return
    goes_on = after.revision == before.revision and before.is_moving and not before.is_promoted
    _check_rise(before if goes_on else None, before, after, course, facts)
    if not goes_on:
        if after.state is State.PROGRESSING and after.step and verb is not Verb.RETRY:
            raise RuleError(f"a rollout begins at step {after.step}")
        return
    is_promoted = after.stable == before.revision
    if after.step > before.step or is_promoted:
        _check_step(before, after, course, facts, verb, now)
    # A gateway says when it has taken a route; of the front Service only its selector can be known.
    moved = facts.paths[-1].carried if facts.has_gateway else facts.paths[0].given
    if is_promoted and moved.get(before.revision) != 100:
        raise RuleError(f"{before.revision} is promoted before it has all clients")
    if after.state is State.REJECTED and facts.reaches(before.revision):
        raise RuleError(f"{before.revision} is rejected while clients may reach it")


def _check_rise(
    same: Cursor | None, before: Cursor, after: Cursor, course: Course, facts: Facts
) -> None:
    """More clients for a candidate: as many as its step says, and only once it can take them."""
    if not after.is_moving or after.is_promoted:
        return
    had = same.weight if same else 0
    if after.weight <= had:
        return
    if after.back and before.previous == after.revision:
        if not facts.ready.get(after.revision):
            raise RuleError("it turns back to a revision without a ready pod")
        return
    if had and facts.verdict is Verdict.FAIL and after.goal is not Goal.FULL:
        raise RuleError(f"weight {after.weight} while what it answers with {had} fails its checks")
    step = course.at(after.step)
    if after.weight != step.weight:
        raise RuleError(
            f"weight {after.weight} at step {after.step}, the course says {step.weight}"
        )
    low, high = facts.bounds
    full = min(high, max(low, after.replicas, facts.replicas.get(after.stable, 0)))
    needed = max(1, math.ceil(full * step.share / 100))
    if facts.ready.get(after.revision, 0) < needed:
        found = facts.ready.get(after.revision, 0)
        raise RuleError(f"weight {after.weight} for {found} ready pods, it takes {needed}")
    if facts.has_gateway and not had and after.revision not in facts.proven:
        raise RuleError(f"weight {after.weight} before an answer came through the gateway")
    is_checked = course.job is not None and not after.back and after.goal is not Goal.FULL
    if is_checked and not had and after.revision not in facts.passed:
        raise RuleError(f"weight {after.weight} before its pre-promotion Job had passed")


def _check_step(
    before: Cursor,
    after: Cursor,
    course: Course,
    facts: Facts,
    verb: Verb | None,
    now: datetime,
) -> None:
    """A step ends only after its hold, with its checks passed, and approved where it says so."""
    if before.back or before.goal is Goal.FULL or verb is Verb.PROMOTE_FULL:
        return
    last = len(course.steps) - 1
    if after.stable == before.revision:
        if before.step < last:
            raise RuleError(f"promoted at step {before.step} of {last}")
    elif after.step != before.step + 1:
        raise RuleError(f"from step {before.step} to step {after.step}")
    if verb is Verb.PROMOTE:
        return
    step = course.at(before.step)
    if step.approval:
        raise RuleError(f"step {before.step} ends without the approval that it requires")
    if step.is_plain and before.step >= last and not course.is_checked:
        return  # the switch of a plain last step is all there is to it
    if before.shifted is None or now < before.shifted + timedelta(seconds=step.hold):
        raise RuleError(f"step {before.step} ends before its hold of {step.hold}s")
    is_counted = course.is_checked and (step.weight > 0 or step.shadow > 0)
    if is_counted and facts.verdict is not Verdict.PASS:
        raise RuleError(f"step {before.step} ends with its checks at {facts.verdict}")


def check_status(status: Mapping[str, Any]) -> None:
    """The conditions table's own rules."""
    found = {item["type"]: item["status"] for item in status.get("conditions", ())}
    ready, stalled = found.get("Ready"), found.get("Stalled")
    reconciling, paused = found.get("Reconciling"), found.get("RolloutPaused")
    if status.get("phase") == "Suspended":
        return
    if (ready == "False") != (stalled == "True"):
        raise RuleError(f"Ready {ready} with Stalled {stalled}: {status['message']}")
    if (ready == "Unknown") != (reconciling == "True"):
        raise RuleError(f"Ready {ready} with Reconciling {reconciling}: {status['message']}")
    if paused == "True" and reconciling != "True":
        raise RuleError("paused without Reconciling")
    if not status.get("message"):
        raise RuleError("no message")
