"""Explores a small cluster state by state: every order of writes, crashes, conflicts and late events.

The operator is the real one (`observe`, `plan`, `actions`, `status`); the cluster around it is as small as
it can be: objects by what they say, pods and endpoints as counts, a gateway that takes a route at once or
later, time in ticks.  A state is a value, so that what was seen before is not looked at again.  The search
is breadth-first: a counterexample comes with the shortest way to it.

It says nothing of the API server or of latencies; `tests/integration` does.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sluice import actions, labels, reconcilers, status
from sluice import plan as planner
from sluice.actions import Action, Apply, Delete, front_revision
from sluice.api.rolloutstatus import Verdict
from sluice.observe import observe, view_route
from sluice.plan import Plan, ProbeDemand, SampleDemand
from sluice.requests import Verb, format_request
from sluice.rollout.cursor import Cursor
from sluice.rollout.cursor import State as Phase
from sluice.world import DEPLOYMENT, HTTP_ROUTE, JOB, SERVICE, Evidence, Policy
from tests import invariants
from tests.builders import ServiceBuilder, gateway, model_version
from tests.invariants import Facts, Path, RuleError, backends_of
from tests.simulation import make_result

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
TICK = 5  # seconds; every limit below is a multiple
DRAIN = 5.0
TIMEOUT = 5.0
OLD = 30  # seconds after which no limit of the courses explored tells an age from a greater one
POLICY = Policy(drain_lag_seconds=DRAIN, revision_history=3)
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
RESTING = frozenset({Phase.COMPLETE, Phase.REJECTED, Phase.PAUSED})


class CounterexampleError(AssertionError):
    """A broken rule, with the way that leads to it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is explored: a service, what may go wrong how often, and what people may ask."""

    name: str
    service: Callable[[], ServiceBuilder]
    edits: int = 0  # of spec.model, to any version
    flaps: int = 0  # pods that lose their readiness or restart
    crashes: int = 0
    requests: int = 0
    verbs: tuple[Verb, ...] = tuple(Verb)
    spaces: tuple[str, ...] = ("pizza-1", "pizza-1", "pizza-1")
    suspends: int = 0
    verdicts: tuple[Verdict, ...] = tuple(Verdict)
    starts_empty: bool = False


@dataclass(frozen=True, slots=True)
class Pods:
    """Of one revision."""

    ready: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """The cluster, the operator's pass under way, and how much may still go wrong."""

    target: int = 0
    suspended: bool = False
    request: str = ""
    cursor: Cursor | None = None
    history: tuple[tuple[str, str, str], ...] = ()  # revision, version, outcome; newest first
    children: tuple[tuple[str, str, int], ...] = ()  # kind, name, number of its content
    pods: tuple[tuple[str, Pods], ...] = ()  # by revision
    reached: tuple[tuple[str, int], ...] = ()  # endpoints of the front Service, by revision
    taken: int = 0  # content of the route that the gateway has taken
    left: tuple[tuple[int, str, int], ...] = ()  # path, revision, seconds since its last client
    proven: frozenset[str] = frozenset()
    verdict: Verdict | None = None
    writes: tuple[Write, ...] = ()  # of the pass under way
    is_late: bool = False  # the pass was decided on what is not so any more
    is_edited: bool = False  # since then somebody wrote the object whose status is to be written
    edits: int = 0
    flaps: int = 0
    crashes: int = 0
    requests: int = 0
    suspends: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a pass: a child, or the status."""

    label: str
    number: int  # into the actions seen; -1 for a status
    cursor: Cursor | None = None
    history: tuple[tuple[str, str, str], ...] = ()
    handles: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """What one pass would do, as far as the exploration needs it."""

    writes: tuple[Write, ...]
    plan: Plan
    verb: Verb | None
    complaint: str = ""


@dataclass(slots=True)
class Report:
    """What an exploration found."""

    setting: str
    states: int = 0
    passes: int = 0
    is_complete: bool = False  # nothing was left to look at
    resting: set[str] = field(default_factory=set)  # states of rollouts that came to rest


class Explorer:
    """Explores one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._contents: list[dict[str, Any]] = [{}]
        self._numbers: dict[str, int] = {}
        self._by_identity: dict[int, int] = {}
        self._actions: list[Action] = []
        self._decided: dict[tuple[Any, ...], Decided] = {}
        self._facts: dict[tuple[Any, ...], Facts] = {}
        self._versions = [
            model_version(version).space(space).obj()
            for version, space in zip(VERSIONS, setting.spaces, strict=True)
        ]
        spec = setting.service().obj()["spec"]
        self._has_gateway = "traffic" in spec
        scaling = spec.get("scaling", {})
        self._bounds = scaling.get("minReplicas", 1), scaling.get("maxReplicas", 1)
        self._parents: dict[State, tuple[State, str] | None] = {}

    def explore(self, limit: int) -> Report:
        """Looks at so many states at most; CounterexampleError where a rule is broken."""
        report = Report(self.setting.name)
        first = self._begin()
        self._parents = {first: None}
        queue = deque([first])
        while queue and report.states < limit:
            state = queue.popleft()
            report.states += 1
            try:
                found = list(self._next(state))
                if not state.writes and not any(label[0] != "!" for label, _ in found):
                    self._check_rest(state)
                    report.resting.add(str(state.cursor.state if state.cursor else ""))
            except AssertionError as error:
                raise self._tell(state, error) from error
            for label, after in found:
                if after not in self._parents:
                    self._parents[after] = state, label
                    queue.append(after)
        report.is_complete = not queue
        report.passes = len(self._decided)
        return report

    def _begin(self) -> State:
        """A converged service of the first version, which is asked for the second now."""
        state = State()
        if not self.setting.starts_empty:
            while True:
                found = [after for label, after in self._next(state) if label[0] != "!"]
                if not found:
                    break
                state = found[0]
            assert state.cursor is not None, "the first deployment came to nothing"
            assert state.cursor.state is Phase.COMPLETE, state
            state = replace(state, target=1)
        setting = self.setting
        return replace(
            state,
            edits=setting.edits,
            flaps=setting.flaps,
            crashes=setting.crashes,
            requests=setting.requests,
            suspends=setting.suspends,
        )

    # What may come next.  Labels that begin with "!" are what goes wrong or what people do.

    def _next(self, state: State) -> Iterator[tuple[str, State]]:
        if state.writes:
            yield self._write(state)
        else:
            decided = self._decide(state)
            self._check_plan(state, decided)
            if decided.writes:
                yield (
                    f"pass: {len(decided.writes)} writes",
                    replace(state, writes=decided.writes, is_late=False, is_edited=False),
                )
            yield from self._settle(state)
            yield from self._measure(state, decided)
            if (later := self._tick(state)) != state:
                yield f"{TICK} s pass", later
        yield from self._disturb(state)

    def _write(self, state: State) -> tuple[str, State]:
        write, *rest = state.writes
        state = replace(state, writes=tuple(rest))
        if write.number >= 0:
            action = self._actions[write.number]
            facts = self._see(state)
            if state.is_late:
                # Who was ready when it was decided may not be any more: no operator can know.
                facts = replace(facts, ready={name: 1 for name, _ in state.pods})
            invariants.check_action(action, facts, state.cursor)
            return write.label, self._carry_out(state, action)
        if state.is_edited:
            return f"{write.label}: conflict", replace(state, writes=(), is_edited=False)
        if write.handles:
            state = replace(state, request="")
        verdict = state.verdict
        if _window(write.cursor) != _window(state.cursor):
            verdict = None
        return write.label, self._forget(
            replace(state, cursor=write.cursor, history=write.history, verdict=verdict)
        )

    def _forget(self, state: State) -> State:
        """What the operator drops when nothing is rolled out any more."""
        if state.cursor is not None and state.cursor.is_moving:
            return state
        return replace(state, proven=frozenset(), verdict=None)

    def _carry_out(self, state: State, action: Action) -> State:
        children = {(kind, name): number for kind, name, number in state.children}
        pods = dict(state.pods)
        match action:
            case Apply(kind, manifest):
                name = manifest["metadata"]["name"]
                before = children.get((kind, name))
                children[kind, name] = self._number(manifest)
                if kind == DEPLOYMENT:
                    revision = labels.revision_of(manifest)
                    had = pods.get(revision, Pods())
                    ready = min(had.ready, manifest["spec"]["replicas"])
                    pods[revision] = replace(had, ready=ready)
                elif kind == SERVICE and labels.FRONT in manifest["metadata"]["labels"]:
                    old = front_revision(self._contents[before]) if before else ""
                    is_left = old != front_revision(manifest) and pods.get(old, Pods()).ready > 0
                    if is_left:
                        state = replace(state, left=_leave(state.left, 0, old))
            case Delete(kind, observed):
                name = observed["metadata"]["name"]
                children.pop((kind, name), None)
                if kind == DEPLOYMENT:
                    pods.pop(labels.revision_of(observed), None)
                elif kind == HTTP_ROUTE:
                    state = self._take(state, 0)
        return replace(
            state,
            children=tuple(sorted((kind, name, n) for (kind, name), n in children.items())),
            pods=tuple(sorted(pods.items())),
        )

    def _settle(self, state: State) -> Iterator[tuple[str, State]]:
        """What controllers do in their own time."""
        for revision, pods in state.pods:
            if pods.ready < self._replicas(state, revision):
                more = replace(pods, ready=pods.ready + 1)
                yield f"a pod of {revision} is ready", _set_pods(state, revision, more)
        for name, job in self._list_jobs(state):
            if not job.get("status"):
                yield f"{name} passes", self._end_job(state, name, job, "Complete")
                yield f"!{name} fails", self._end_job(state, name, job, "Failed")
        reached = self._reached(state)
        if reached != state.reached:
            yield "endpoints follow", replace(state, reached=reached)
        route = self._route(state)
        if route != state.taken and route:
            yield "the gateway takes the route", self._take(state, route)

    def _measure(self, state: State, decided: Decided) -> Iterator[tuple[str, State]]:
        match decided.plan.demand:
            case ProbeDemand(revision=revision) if revision not in state.proven:
                yield f"{revision} is proven", replace(state, proven=state.proven | {revision})
            case SampleDemand():
                for verdict in self.setting.verdicts:
                    if state.verdict is None:
                        yield f"checks: {verdict}", replace(state, verdict=verdict)
                    elif verdict is not state.verdict and state.verdict is not Verdict.FAIL:
                        yield f"!checks: {verdict} now", replace(state, verdict=verdict)

    def _disturb(self, state: State) -> Iterator[tuple[str, State]]:
        """What goes wrong, and what people do, between any two writes."""
        is_late = bool(state.writes)
        if state.crashes and (state.writes or state.proven or state.verdict):
            yield (
                "!the operator crashes",
                replace(
                    state,
                    writes=(),
                    proven=frozenset(),
                    verdict=None,
                    crashes=state.crashes - 1,
                ),
            )
        if state.flaps:
            for revision, pods in state.pods:
                if pods.ready:
                    flapped = replace(state, flaps=state.flaps - 1, is_late=is_late)
                    less = replace(pods, ready=pods.ready - 1)
                    yield f"!a pod of {revision} flaps", _set_pods(flapped, revision, less)
                    again = replace(pods, restarts=pods.restarts + 1)
                    yield f"!a pod of {revision} restarts", _set_pods(flapped, revision, again)
        if state.edits:
            for target, version in enumerate(VERSIONS):
                if target != state.target:
                    yield (
                        f"!spec asks for {version}",
                        replace(
                            state,
                            target=target,
                            edits=state.edits - 1,
                            is_edited=bool(state.writes),
                        ),
                    )
        if state.suspends:
            yield (
                "!spec.suspend changes",
                replace(
                    state,
                    suspended=not state.suspended,
                    suspends=state.suspends - 1,
                    is_edited=bool(state.writes),
                ),
            )
        if state.requests and not state.request and state.cursor is not None:
            for text in self._requests(state.cursor):
                yield (
                    f"!request: {text}",
                    replace(
                        state,
                        request=text,
                        requests=state.requests - 1,
                        is_edited=bool(state.writes),
                    ),
                )

    def _requests(self, cursor: Cursor) -> Iterator[str]:
        for verb in self.setting.verbs:
            if verb is Verb.ROLLBACK:
                for target in ("previous", "stable", VERSIONS[0]):
                    yield format_request(verb, cursor.revision, NOW, target)
            else:
                yield format_request(verb, cursor.revision, NOW)

    def _tick(self, state: State) -> State:
        cursor = state.cursor
        if cursor is not None:
            cursor = _age(cursor, TICK)
        lags = (DRAIN, DRAIN + TIMEOUT)
        left = tuple(
            (path, revision, age + TICK)
            for path, revision, age in state.left
            if age + TICK < lags[path]
        )
        return replace(state, cursor=cursor, left=left)

    def _take(self, state: State, number: int) -> State:
        before = view_route(self._contents[state.taken]).weights if state.taken else {}
        after = view_route(self._contents[number]).weights if number else {}
        left = state.left
        for revision, weight in before.items():
            is_answering = dict(state.pods).get(revision, Pods()).ready > 0
            if weight and not after.get(revision) and is_answering:
                left = _leave(left, 1, revision)
        return replace(state, taken=number, left=left)

    # The operator

    def _decide(self, state: State) -> Decided:
        key = (
            state.target,
            state.suspended,
            state.request,
            state.cursor,
            state.history,
            state.children,
            state.pods,
            state.reached,
            state.taken,
            state.proven,
            state.verdict,
        )
        found = self._decided.get(key)
        if found is None:
            found = self._decided[key] = self._plan(state)
        return found

    def _plan(self, state: State) -> Decided:
        obj = self._service(state)
        evidence = Evidence(proven=state.proven)
        if state.verdict is not None and state.cursor is not None:
            evidence = replace(
                evidence,
                window=planner.window_of(state.cursor),
                results=(make_result(state.verdict),),
            )
        world = observe(self._caches(state), obj, evidence)  # type: ignore[arg-type]
        decided = planner.plan(world, NOW, POLICY)
        writes: list[Write] = []
        complaint = ""
        after = status.summarize(world, decided, None, NOW)
        try:
            invariants.check_status(after)
        except RuleError as error:
            complaint = str(error)
        if reconcilers.is_moved(world, decided):
            cursor = _canonical(decided.cursor) if decided.cursor else None
            name = cursor.state if cursor else "-"
            history = tuple(
                (entry["revision"], entry["version"], entry["outcome"])
                for entry in after.get("history", ())
                if entry["outcome"] in {"Serving", "Replaced"}
            )
            writes.append(
                Write(f"status {name}", -1, cursor, history[:3], decided.handled is not None)
            )
        for action in decided.actions:
            writes.append(Write(_label(action), len(self._actions)))
            self._actions.append(action)
        accepted = decided.handled is not None and decided.handled.accepted
        verb = Verb(state.request.split(" ")[0]) if accepted and state.request else None
        if not writes and decided.requeue_after == 0:
            complaint = "a pass without writes asks to be called again at once"
        return Decided(tuple(writes), decided, verb, complaint)

    def _check_plan(self, state: State, decided: Decided) -> None:
        if decided.complaint:
            raise RuleError(decided.complaint)
        after = decided.plan.cursor
        course = decided.plan.course
        if course is not None:
            invariants.check_decision(
                state.cursor, after, course, self._see(state), decided.verb, NOW
            )

    def _check_rest(self, state: State) -> None:
        """Nothing happens any more, whatever time passes: then it must be at an end, and tidy."""
        cursor = state.cursor
        if state.suspended:
            return
        if cursor is None or cursor.state not in RESTING:
            where = cursor.state if cursor else "no rollout"
            raise RuleError(f"stands still for ever in {where}: {cursor}")
        if cursor.state is Phase.PAUSED:
            return
        running = {
            labels.revision_of(self._contents[n]) for k, _, n in state.children if k in {DEPLOYMENT}
        }
        if running != {cursor.stable}:
            raise RuleError(f"{running} run at the end, stable is {cursor.stable}")
        if cursor.state is Phase.COMPLETE and list(self._list_jobs(state)):
            raise RuleError("a Job is left at the end")
        for path in self._see(state).paths:
            if path.given != {cursor.stable: 100}:
                raise RuleError(f"clients are given {dict(path.given)}, stable is {cursor.stable}")

    def _service(self, state: State) -> dict[str, Any]:
        obj = self._spec(state.target, state.suspended)
        written: dict[str, Any] = {}
        if state.cursor is not None:
            written = {
                "rollout": state.cursor.dump(),
                "history": [
                    {"revision": revision, "version": version, "outcome": outcome, "from": ""}
                    for revision, version, outcome in state.history
                ],
            }
        metadata = obj["metadata"]
        if state.request:
            metadata = metadata | {"annotations": {labels.REQUEST: state.request}}
        return obj | {"metadata": metadata, "status": written}

    @functools.cache  # noqa: B019 - an explorer lives as long as its exploration
    def _spec(self, target: int, suspended: bool) -> dict[str, Any]:
        service = self.setting.service().runs(VERSIONS[target])
        return (service.suspended() if suspended else service).obj()

    def _caches(self, state: State) -> dict[str, _Objects]:
        found: dict[str, _Objects] = {
            kind: _Objects()
            for kind in ("ControllerRevision", SERVICE, DEPLOYMENT, HTTP_ROUTE, JOB)
        }
        for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget", "Pod", "EndpointSlice"):
            found[kind] = _Objects()
        for kind, name, number in state.children:
            content = self._contents[number]
            if kind == HTTP_ROUTE:
                content = _settled(content, is_taken=state.taken == number)
            found[kind].objects[name] = content
        slices: list[str] = []
        reached = dict(state.reached)
        for revision, pods in state.pods:
            for number in range(self._replicas(state, revision)):
                pod = _make_pod(revision, number, number < pods.ready, pods.restarts)
                found["Pod"].objects[pod["metadata"]["name"]] = pod
                if number < reached.get(revision, 0):
                    slices.append(pod["metadata"]["name"])
        found["EndpointSlice"].objects["slice"] = {"pods": slices}
        found["ModelVersion"] = _Objects(
            {version["metadata"]["name"]: version for version in self._versions}
        )
        found["Gateway"] = _Objects({"eg": _GATEWAY})
        return found

    # What is so

    def _see(self, state: State) -> Facts:
        key = (state.children, state.pods, state.reached, state.taken, state.left, state.proven)
        key += (state.verdict,)
        found = self._facts.get(key)
        if found is None:
            found = self._facts[key] = self._look(state)
        return found

    def _look(self, state: State) -> Facts:
        front = self._front(state)
        reached = {revision: 100 for revision, count in state.reached if count}
        ages: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for path, revision, age in state.left:
            ages[path][revision] = age
        given = {front: 100} if front else {}
        paths = [Path(given, reached, frozenset({front, *reached}), ages[0], DRAIN)]
        if self._has_gateway:
            number = self._route(state)
            views = [view_route(self._contents[n]) for n in (number, state.taken) if n]
            named = frozenset().union(*(view.named for view in views))
            written = view_route(self._contents[number]).weights if number else {}
            carried = view_route(self._contents[state.taken]).weights if state.taken else {}
            clean = {name: weight for name, weight in written.items() if weight}
            rules = self._contents[number]["spec"]["rules"] if number else ()
            places = tuple(map(backends_of, rules))
            paths.append(Path(clean, carried, named, ages[1], DRAIN + TIMEOUT, places))
        return Facts(
            ready={revision: pods.ready for revision, pods in state.pods},
            replicas={revision: self._replicas(state, revision) for revision, _ in state.pods},
            paths=tuple(paths),
            has_gateway=self._has_gateway,
            proven=state.proven,
            passed=frozenset(
                labels.checked_by(job)
                for _, job in self._list_jobs(state)
                if "Complete" in str(job.get("status"))
            ),
            verdict=state.verdict,
            bounds=self._bounds,
        )

    def _number(self, manifest: Mapping[str, Any]) -> int:
        known = self._by_identity.get(id(manifest))
        if known is not None and self._contents[known] is manifest:
            return known
        text = json.dumps(manifest, sort_keys=True)
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._contents)
            self._contents.append(dict(manifest) if not isinstance(manifest, dict) else manifest)
            self._by_identity[id(manifest)] = number
        return number

    def _list_jobs(self, state: State) -> Iterator[tuple[str, dict[str, Any]]]:
        for kind, name, number in state.children:
            if kind == JOB:
                yield name, self._contents[number]

    def _end_job(self, state: State, name: str, job: dict[str, Any], how: str) -> State:
        condition = {"type": how, "status": "True", "message": "why"}
        ended = self._number({**job, "status": {"conditions": [condition]}})
        kept = [child for child in state.children if child[:2] != (JOB, name)]
        return replace(state, children=tuple(sorted([*kept, (JOB, name, ended)])))

    def _find(self, state: State, kind: str, name: str) -> int:
        return next((n for k, known, n in state.children if k == kind and known == name), 0)

    def _route(self, state: State) -> int:
        return self._find(state, HTTP_ROUTE, "pizza")

    def _front(self, state: State) -> str:
        number = self._find(state, SERVICE, "pizza")
        return front_revision(self._contents[number]) if number else ""

    def _replicas(self, state: State, revision: str) -> int:
        number = self._find(state, DEPLOYMENT, f"pizza-{revision}")
        return int(self._contents[number]["spec"]["replicas"]) if number else 0

    def _reached(self, state: State) -> tuple[tuple[str, int], ...]:
        front = self._front(state)
        ready = dict(state.pods).get(front, Pods()).ready
        return ((front, ready),) if ready else ()

    # Telling

    def _tell(self, state: State, error: AssertionError) -> CounterexampleError:
        lines: list[str] = []
        at: State | None = state
        while at is not None:
            step = self._parents[at]
            if step is None:
                break
            at, label = step
            lines.append(label)
        trace = "\n".join(f"{number:3} {line}" for number, line in enumerate(reversed(lines), 1))
        return CounterexampleError(
            f"{self.setting.name}: {error}\n{trace}\n    then: {state.cursor}\n    {self._see(state)}"
        )


@dataclass(slots=True)
class _Objects:
    """One kind's objects, found as in a cache; there is one service only."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    served: bool = True

    def by(self, index: str, value: str) -> list[dict[str, Any]]:
        return list(self.objects.values())

    def get(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get(name)


_GATEWAY = {
    "metadata": gateway().obj()["metadata"],
    "listeners": gateway().obj()["spec"]["listeners"],
    "addresses": ["192.0.2.1"],
}


@functools.cache
def _make_pod(revision: str, number: int, is_ready: bool, restarts: int) -> dict[str, Any]:
    server = {
        "name": "server",
        "ready": is_ready,
        "restartCount": restarts,
        "state": {},
        "lastState": {},
    }
    return {
        "metadata": {
            "name": f"pizza-{revision}-{number}",
            "namespace": "vision",
            "labels": {labels.SERVICE: "pizza", labels.REVISION: revision},
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
            "initContainerStatuses": [],
            "containerStatuses": [server],
        },
    }


def _settled(route: dict[str, Any], *, is_taken: bool) -> dict[str, Any]:
    items = [
        {"type": type_, "status": "True", "observedGeneration": 2 if is_taken else 1}
        for type_ in ("Accepted", "ResolvedRefs")
    ]
    parents = [{"parentRef": ref, "conditions": items} for ref in route["spec"]["parentRefs"]]
    metadata = route["metadata"] | {"generation": 2}
    return route | {"metadata": metadata, "status": {"parents": parents}}


def _set_pods(state: State, revision: str, pods: Pods) -> State:
    return replace(state, pods=tuple(sorted((dict(state.pods) | {revision: pods}).items())))


def _leave(
    left: tuple[tuple[int, str, int], ...], path: int, revision: str
) -> tuple[tuple[int, str, int], ...]:
    kept = [item for item in left if item[:2] != (path, revision)]
    return tuple(sorted([*kept, (path, revision, 0)]))


def _window(cursor: Cursor | None) -> tuple[Any, ...]:
    """Whether two cursors speak of the same samples."""
    return (cursor.revision, cursor.step, cursor.shifted) if cursor else ()


def _age(cursor: Cursor, seconds: int) -> Cursor:
    """The same cursor, so much later: it is the clock that stands still."""

    def older(moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        return max(moment - timedelta(seconds=seconds), NOW - timedelta(seconds=OLD))

    return _canonical(
        replace(
            cursor,
            progressed=older(cursor.progressed),
            shifted=older(cursor.shifted),
            switched=older(cursor.switched),
        )
    )


_TIMED = {
    "progressed": {Phase.PROGRESSING, Phase.SWITCHING, Phase.ANALYSING, Phase.FAILED},
    "shifted": {Phase.ANALYSING, Phase.PAUSED, Phase.BAKING, Phase.PROGRESSING},
    "switched": {Phase.BAKING, Phase.DRAINING, Phase.ABORTING, Phase.PAUSED},
}


def _canonical(cursor: Cursor) -> Cursor:
    """Without what no decision looks at: then states are alike that are alike."""
    changes: dict[str, Any] = {
        name: NOW for name in ("started", "step_started") if getattr(cursor, name) is not None
    }
    for name, phases in _TIMED.items():
        if getattr(cursor, name) is not None and cursor.state not in phases:
            changes[name] = NOW
    return replace(cursor, message="why" if cursor.message else "", **changes)


def _label(action: Action) -> str:
    match action:
        case Apply("HTTPRoute", manifest):
            return f"apply HTTPRoute {dict(view_route(manifest).weights)}"
        case Apply("Deployment", manifest):
            name = manifest["metadata"]["name"]
            return f"apply Deployment {name} replicas {manifest['spec']['replicas']}"
        case Apply("Service", manifest) if manifest["metadata"]["name"] == "pizza":
            return f"apply front Service to {front_revision(manifest)}"
        case Apply(kind, manifest):
            return f"apply {kind} {manifest['metadata']['name']}"
        case Delete(kind, observed):
            return f"delete {kind} {observed['metadata']['name']}"


@contextmanager
def remembering() -> Iterator[None]:
    """Makes no manifest twice: they are functions of their arguments, and make up most of the time."""
    patched: list[tuple[Any, str, Any]] = []

    def patch(module: Any, name: str, made: Any) -> None:
        patched.append((module, name, getattr(module, name)))
        setattr(module, name, made)

    def remember(module: Any, name: str, key: Callable[..., object]) -> None:
        make, known = getattr(module, name), dict[object, Any]()

        def made(*args: Any, **kwargs: Any) -> Any:
            of = key(*args, **kwargs)
            if of not in known:
                known[of] = make(*args, **kwargs)
            return known[of]

        patch(module, name, made)

    compare = actions.is_satisfied
    patch(actions, "is_satisfied", lambda wanted, found: wanted is found or compare(wanted, found))
    remember(actions, "make_deployment", lambda owner, hash_, m, v, template, n: (hash_, n))
    remember(actions, "make_service", lambda owner, hash_, m, v: hash_)
    remember(actions, "make_pdb", lambda owner, hash_, m, v: hash_)
    remember(actions, "make_front", lambda owner, hash_: hash_)
    remember(actions, "make_route", lambda owner, traffic, split: repr(split))
    by_version = lambda service, version: (service.spec.model.version, version.spec.version)  # noqa: E731
    remember(planner, "make_inputs", by_version)
    remember(planner, "make_pod_template", lambda name, hash_, inputs: hash_)
    try:
        yield
    finally:
        for module, name, old in reversed(patched):
            setattr(module, name, old)


def explore(setting: Setting, limit: int) -> Report:
    """Explores one setting; CounterexampleError where a rule is broken."""
    with remembering():
        return Explorer(setting).explore(limit)
