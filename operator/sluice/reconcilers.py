"""What Sluice runs on the runtime: which kinds it watches, whom a change concerns, and the two loops.

    observe -> plan -> cursor -> apply -> summarize -> status

The loops are glue; every decision is in `plan`, every word in `status`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sluice import labels, status, version_status
from sluice.actions import Action, Apply
from sluice.api.modelversion import ModelVersion
from sluice.apply import Applier, is_repair
from sluice.caches import (
    BY_GATEWAY,
    BY_VERSION,
    GATEWAY,
    INFERENCE_SERVICE,
    KINDS,
    MODEL_VERSION,
    OPTIONAL,
    Caches,
    service_key,
    used_versions,
    version_key,
)
from sluice.errors import Conflict, Forbidden, NotFound, UserError
from sluice.measure import Measurer
from sluice.observe import observe
from sluice.plan import Plan, plan
from sluice.rollout import machine
from sluice.rollout.cursor import Cursor, State, load_cursor
from sluice.rollout_metrics import RolloutMetrics
from sluice.runtime.api import Api
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Key, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Pump
from sluice.runtime.recorder import Recorder, make_reference
from sluice.runtime.workers import Reconcile, Result
from sluice.world import CONTROLLER_REVISION, Policy, World

logger = logging.getLogger(__name__)

# Counts and wording may wait so long (product.md: "else at most once a minute").
STATUS_SECONDS = 60.0

# What was refused may be in nobody's watch (a foreign object, a quota, an admission policy), so that its
# end makes no event: it is tried again.
REFUSED_SECONDS = 15.0


class Settings(Protocol):
    """What of the process' settings changes decisions."""

    @property
    def drain_lag(self) -> float: ...


# Something must have changed before a pass is repeated at once.
LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Application:
    """What the process runs."""

    kinds: list[Pump]
    reconcile: dict[str, Reconcile]
    measurer: Measurer

    def start(self, wake: Callable[[Key], None]) -> None:
        """Whom to wake when something was measured."""
        self.measurer.start(wake)

    async def stop(self) -> None:
        """Ends what is being measured."""
        await self.measurer.stop()


def build(
    api: Api, recorder: Recorder, settings: Settings, clock: Clock, metrics: Metrics
) -> Application:
    """The application over this API port."""
    caches = Caches()
    writer = StatusWriter(api, caches, clock)
    policy = Policy(drain_lag_seconds=settings.drain_lag)
    measurer = Measurer(clock)
    services = ServiceReconciler(
        caches,
        Applier(api, caches),
        writer,
        recorder,
        clock,
        policy,
        measurer,
        RolloutMetrics(metrics.registry),
    )
    versions = VersionReconciler(caches, writer, clock)
    return Application(
        kinds=make_pumps(caches),
        reconcile={
            INFERENCE_SERVICE: spare_the_dying(services.reconcile),
            MODEL_VERSION: spare_the_dying(versions.reconcile),
        },
        measurer=measurer,
    )


def spare_the_dying(reconcile: Reconcile) -> Reconcile:
    """An object or a namespace that goes away amid a pass is no failure of ours."""

    async def run(key: Key) -> Result:
        try:
            return await reconcile(key)
        except NotFound as error:
            raise Conflict(f"{key} goes away: {error.message}") from error
        except Forbidden as error:
            if not error.has_cause("NamespaceTerminating"):
                raise
            logger.debug("the namespace goes away", extra={"key": str(key)})
            return Result()

    return run


class StatusWriter:
    """The one way a status is written: server-side apply, and not more often than it is worth."""

    def __init__(self, api: Api, caches: Caches, clock: Clock) -> None:
        self._api = api
        self._caches = caches
        self._clock = clock
        self._written: dict[Key, float] = {}

    async def write(self, kind: str, obj: Obj, after: Mapping[str, Any]) -> Obj:
        """Writes, only over the version that we saw, and gives back the object as it is now."""
        metadata = obj["metadata"]
        guards = ("name", "namespace", "uid", "resourceVersion")
        body_metadata = {key: metadata[key] for key in guards}
        body = {
            "apiVersion": KINDS[kind].api_version,
            "kind": kind,
            "metadata": body_metadata,
            "status": dict(after),
        }
        answer = await self._api.apply_status(KINDS[kind], body)
        self._written[_key_of(kind, obj)] = self._clock.monotonic()
        self._caches[kind].upsert(answer)
        return answer

    def wait(self, kind: str, obj: Obj, *, urgent: bool) -> float:
        """Seconds until a change may be written, 0 for at once."""
        last = self._written.get(_key_of(kind, obj))
        if urgent or last is None:
            return 0.0
        return max(0.0, last + STATUS_SECONDS - self._clock.monotonic())

    def forget(self, key: Key) -> None:
        """The object is going or gone: nothing of it needs to be remembered."""
        self._written.pop(key, None)


def is_at_rest(cursor: Cursor | None) -> bool:
    """Whether nothing is rolled out: what was measured before will say nothing of what is there then."""
    return cursor is None or not cursor.is_moving or cursor.held == machine.SUSPENDED


def unproven(world: World) -> frozenset[str]:
    """Revisions that the gateway reached, and whose next ready pod will be another one."""
    ready = {view.hash for view in world.revisions.values() if view.ready_replicas}
    return world.evidence.proven - ready


def _key_of(kind: str, obj: Obj) -> Key:
    return Key(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


class ServiceReconciler:
    """One pass over one InferenceService."""

    def __init__(
        self,
        caches: Caches,
        applier: Applier,
        writer: StatusWriter,
        recorder: Recorder,
        clock: Clock,
        policy: Policy,
        measurer: Measurer,
        metrics: RolloutMetrics,
    ) -> None:
        self._measurer = measurer
        self._metrics = metrics
        self._caches = caches
        self._applier = applier
        self._writer = writer
        self._recorder = recorder
        self._clock = clock
        self._policy = policy

    async def reconcile(self, key: Key) -> Result:
        """Moves the service by one step; what follows from its own writes is asked for at once."""
        obj = self._caches[INFERENCE_SERVICE].get(key.namespace, key.name)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            self._measurer.want(key, None)
            self._measurer.forget(key)
            self._metrics.forget(key)
            self._writer.forget(key)
            return Result()
        touched = set(used_versions(obj))
        world = observe(self._caches, obj, self._measurer.evidence(key))
        now = self._clock.now()
        decided = plan(world, now, self._policy)
        moved = is_moved(world, decided)
        if moved:
            # The cursor before its effects, and only over the status that it was decided from.
            after = status.summarize(world, decided, None, now)
            obj = await self._write(obj, after)
        outcome = await self._applier.carry_out(world.owner, decided.actions)
        self._tell_repairs(obj, world, outcome.done, moved=moved)
        if outcome.error is not None:
            raise outcome.error
        if decided.is_preparing and outcome.done:
            return Result(0.0)
        if is_at_rest(decided.cursor):
            self._measurer.forget(key)
        self._measurer.doubt(key, unproven(world))
        self._measurer.want(key, decided.demand)
        world = observe(self._caches, obj, self._measurer.evidence(key))
        after = status.summarize(world, decided, outcome.trouble, now)
        wait = 0.0
        before = obj.get("status") or {}
        if after != before:
            wait = self._writer.wait(INFERENCE_SERVICE, obj, urgent=status.is_urgent(before, after))
            if not wait:
                obj = await self._write(obj, after)
        touched |= set(used_versions(obj))
        also = tuple(Key(MODEL_VERSION, *name.split("/", 1)) for name in sorted(touched) if moved)
        if (moved or outcome.done) and outcome.trouble is None:
            return Result(0.0, also)
        wakes = [
            seconds
            for seconds in (
                decided.requeue_after,
                wait or None,
                REFUSED_SECONDS if outcome.trouble else None,
            )
            if seconds is not None
        ]
        return Result(max(LEAST_SECONDS, min(wakes)) if wakes else None, also)

    async def _write(self, obj: Obj, after: status.Status) -> Obj:
        before = obj.get("status") or {}
        written = await self._writer.write(INFERENCE_SERVICE, obj, after)
        for event in status.tell(before, after):
            self._say(obj, event)
        self._metrics.tell(_key_of(INFERENCE_SERVICE, obj), before, after, self._clock.now())
        return written

    def _tell_repairs(self, obj: Obj, world: World, done: Iterable[Action], *, moved: bool) -> None:
        """Drift that was mended is worth an event; what a rollout makes isn't drift."""
        is_steady = (
            not moved
            and world.status.get("observedGeneration") == world.generation
            and world.status.get("rollout", {}).get("state") in {State.COMPLETE, State.REJECTED}
        )
        for action in done:
            is_missing = isinstance(action, Apply) and action.observed is None and is_steady
            if isinstance(action, Apply) and (is_missing or is_repair(action, is_steady=is_steady)):
                name = f"{action.kind} {action.manifest['metadata']['name']}"
                what = "was missing: made again" if is_missing else "had been changed: set back"
                self._say(obj, status.Event("Normal", "Repaired", f"{name} {what}"))

    def _say(self, obj: Obj, event: status.Event) -> None:
        reference = make_reference(
            {**obj, "kind": INFERENCE_SERVICE, "apiVersion": KINDS[INFERENCE_SERVICE].api_version}
        )
        self._recorder.event(reference, event.type, event.reason, event.message)
        metadata = obj["metadata"]
        logger.info(
            event.reason,
            extra={
                "service": f"{metadata['namespace']}/{metadata['name']}",
                "detail": event.message,
            },
        )


class VersionReconciler:
    """One pass over one ModelVersion: its status is all there is to it."""

    def __init__(self, caches: Caches, writer: StatusWriter, clock: Clock) -> None:
        self._caches = caches
        self._writer = writer
        self._clock = clock

    async def reconcile(self, key: Key) -> Result:
        """Writes the status where it says something new."""
        obj = self._caches[MODEL_VERSION].get(key.namespace, key.name)
        if obj is None or "deletionTimestamp" in obj["metadata"]:
            self._writer.forget(key)
            return Result()
        try:
            version = ModelVersion.parse(obj)
        except UserError as error:
            # The CRD refuses such an object; one stored before a rule was added stays as it is.
            logger.warning("not readable", extra={"key": str(key), "detail": error.message})
            return Result()
        name = f"{key.namespace}/{key.name}"
        before = obj.get("status") or {}
        after = version_status.summarize_version(
            version,
            before,
            obj["metadata"].get("generation", 0),
            self._caches["Pod"].by(BY_VERSION, name),
            self._caches[INFERENCE_SERVICE].by(BY_VERSION, name),
            self._caches[CONTROLLER_REVISION].by(BY_VERSION, name),
            self._clock.now(),
        )
        if after == before:
            return Result()
        wait = self._writer.wait(MODEL_VERSION, obj, urgent=version_status.is_urgent(before, after))
        if wait:
            return Result(wait)
        await self._writer.write(MODEL_VERSION, obj, after)
        return Result()


def is_moved(world: World, decided: Plan) -> bool:
    """Whether the plan's cursor differs from the stored one."""
    if decided.handled is not None:
        return True
    if decided.cursor is None:
        return False
    # Compared as it is stored: to the second, and whatever else stands beside it for people.
    return load_cursor(world.status) != load_cursor({"rollout": decided.cursor.dump()})


def make_pumps(caches: Caches) -> list[Pump]:
    """Every watched kind: whom a change concerns, and which changes concern anybody."""

    def own_service(obj: Obj) -> Iterable[Key]:
        namespace, _, name = service_key(obj).partition("/")
        if name:
            yield Key(INFERENCE_SERVICE, namespace, name)

    def pod_users(obj: Obj) -> Iterable[Key]:
        yield from own_service(obj)
        namespace, _, name = version_key(obj).partition("/")
        yield Key(MODEL_VERSION, namespace, name)

    def service_users(obj: Obj) -> Iterable[Key]:
        metadata = obj["metadata"]
        yield Key(INFERENCE_SERVICE, metadata["namespace"], metadata["name"])
        for used in used_versions(obj):
            yield Key(MODEL_VERSION, *used.split("/", 1))

    def version_users(obj: Obj) -> Iterable[Key]:
        metadata = obj["metadata"]
        yield Key(MODEL_VERSION, metadata["namespace"], metadata["name"])
        for service in caches[INFERENCE_SERVICE].by(
            BY_VERSION, f"{metadata['namespace']}/{metadata['name']}"
        ):
            yield Key(
                INFERENCE_SERVICE, service["metadata"]["namespace"], service["metadata"]["name"]
            )

    def gateway_users(obj: Obj) -> Iterable[Key]:
        metadata = obj["metadata"]
        for service in caches[INFERENCE_SERVICE].by(
            BY_GATEWAY, f"{metadata['namespace']}/{metadata['name']}"
        ):
            yield Key(
                INFERENCE_SERVICE, service["metadata"]["namespace"], service["metadata"]["name"]
            )

    mapped = {
        GATEWAY: gateway_users,
        INFERENCE_SERVICE: service_users,
        MODEL_VERSION: version_users,
        # A record says what became of its version.
        CONTROLLER_REVISION: pod_users,
        "Pod": pod_users,
    }
    return [
        Pump(
            kind,
            caches[name],
            mapped.get(name, own_service),
            is_relevant,
            optional=name in OPTIONAL,
        )
        for name, kind in KINDS.items()
    ]


def is_relevant(old: Obj | None, new: Obj | None) -> bool:
    """Whether a change can change a decision.  Status counts where it is read: here it mostly is."""
    if old is None or new is None:
        return True
    return _essence(old) != _essence(new)


_ANNOTATIONS = (
    labels.OUTCOME,
    labels.QUARANTINE,
    labels.COURSE,
    labels.REQUEST,
    labels.REQUESTED_BY,
)


def _essence(obj: Obj) -> object:
    metadata = obj["metadata"]
    rest = {
        key: value
        for key, value in obj.items()
        if key not in {"metadata", "status", "apiVersion", "kind"}
    }
    essence: list[object] = [
        rest,
        metadata.get("labels"),
        metadata.get("ownerReferences"),
        metadata.get("deletionTimestamp"),
        [(metadata.get("annotations") or {}).get(key) for key in _ANNOTATIONS],
    ]
    found = obj.get("status") or {}
    match obj.get("kind"):
        case "Deployment":
            # Readiness comes from the pods; of a Deployment only what keeps it from making them.
            essence.append(
                [
                    (item["status"], item.get("message"))
                    for item in found.get("conditions") or ()
                    if item["type"] == "ReplicaFailure"
                ]
            )
        case "HorizontalPodAutoscaler" | "Service" | "PodDisruptionBudget":
            pass  # their status is for others
        case _:
            essence.append(found)
    return essence
