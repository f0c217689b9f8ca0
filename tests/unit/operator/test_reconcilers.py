"""One pass of the reconcilers over an API that answers as told: refusals, foreign objects, endings."""

from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sluice import labels
from sluice.apply import Applier
from sluice.caches import INFERENCE_SERVICE, MODEL_VERSION, Caches
from sluice.errors import ApiError, Cause, Conflict, Forbidden, Invalid, NotFound
from sluice.measure import Measurer
from sluice.reconcilers import (
    REFUSED_SECONDS,
    ServiceReconciler,
    StatusWriter,
    spare_the_dying,
)
from sluice.rollout_metrics import RolloutMetrics
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.workers import Result
from sluice.world import Policy
from tests.builders import inference_service, model_version

KEY = Key(INFERENCE_SERVICE, "vision", "pizza")


class StillClock:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


class Silence:
    def event(self, *_: object) -> None:
        """Nobody listens."""


class Ear:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def event(self, about: Obj, level: str, reason: str, note: str) -> None:
        self.said.append((reason, note))


class PlainApi:
    """Takes every write as it is; `there` are objects that no cache knows, `refuses` what is refused."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, str], Obj] = {}
        self.refuses: dict[str, ApiError] = {}
        self.applied: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.replaced: list[str] = []
        self.adds_owners = False
        self._version = 1000

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        if found := self.there.get((kind.kind, name)):
            return found
        raise NotFound(f"{kind.kind} {name}", code=404)

    async def apply(self, kind: Kind, obj: Obj, *, force: bool = True) -> Obj:
        if error := self.refuses.get(kind.kind):
            raise error
        self.applied.append(f"{kind.kind} {obj['metadata']['name']}")
        stored = self._store(obj)
        if self.adds_owners:
            metadata = stored["metadata"]
            metadata["ownerReferences"] = [*metadata["ownerReferences"], {"uid": "theirs"}]
        return stored

    async def replace(self, kind: Kind, obj: Obj) -> Obj:
        self.replaced.append(f"{kind.kind} {obj['metadata']['name']}")
        return self._store(obj)

    async def apply_status(self, kind: Kind, obj: Obj) -> Obj:
        self.statuses.append(obj["status"])
        return self._store(inference_service().status(obj["status"]).obj())

    def _store(self, obj: Obj) -> Obj:
        self._version += 1
        metadata = {"uid": f"uid-{self._version}"} | obj["metadata"]
        return obj | {"metadata": metadata | {"resourceVersion": str(self._version)}}


def make_reconciler(api: PlainApi, heard: object = None) -> tuple[ServiceReconciler, Caches]:
    caches, clock = Caches(), StillClock()
    caches[INFERENCE_SERVICE].upsert(inference_service().obj())
    caches[MODEL_VERSION].upsert(model_version().obj())
    port: Any = api
    still: Any = clock
    silence: Any = heard or Silence()
    writer = StatusWriter(port, caches, still)
    return (
        ServiceReconciler(
            caches,
            Applier(port, caches),
            writer,
            silence,
            still,
            Policy(),
            Measurer(still),
            RolloutMetrics(CollectorRegistry()),
        ),
        caches,
    )


async def begin(reconciler: ServiceReconciler) -> Result:
    """Two passes: the record first, then all that follows."""
    await reconciler.reconcile(KEY)
    return await reconciler.reconcile(KEY)


def stalled_reason(caches: Caches) -> str:
    obj = caches[INFERENCE_SERVICE].get("vision", "pizza")
    assert obj is not None
    return next(
        (item["reason"] for item in obj["status"]["conditions"] if item["type"] == "Stalled"), ""
    )


async def test_a_service_of_the_same_name_is_not_taken_over() -> None:
    """Nothing in it contradicts ours, so that an apply would succeed and make it ours."""
    api = PlainApi()
    api.there["Service", "pizza"] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "pizza", "namespace": "vision", "uid": "theirs"},
        "spec": {"ports": [{"port": 9000}]},
    }
    reconciler, caches = make_reconciler(api)
    result = await begin(reconciler)

    assert "Service pizza" not in api.applied
    assert stalled_reason(caches) == "ChildIsForeign"
    # Its end is in no watch of ours.
    assert result.requeue_after == REFUSED_SECONDS


async def test_what_is_refused_is_tried_again() -> None:
    api = PlainApi()
    api.refuses["Deployment"] = Invalid("spec.template: no", code=422)
    reconciler, caches = make_reconciler(api)
    result = await begin(reconciler)

    assert stalled_reason(caches) == "ChildRefused"
    assert result.requeue_after == REFUSED_SECONDS


async def test_a_first_pass_asks_for_the_next() -> None:
    reconciler, caches = make_reconciler(PlainApi())
    result = await begin(reconciler)

    assert stalled_reason(caches) == ""
    assert result.requeue_after == 0.0


async def test_the_first_pass_writes_one_status() -> None:
    """The front Service selects the candidate from the start; that is no news for anybody."""
    api = PlainApi()
    reconciler, _ = make_reconciler(api)
    await begin(reconciler)
    await reconciler.reconcile(KEY)

    assert [status["candidate"]["weight"] for status in api.statuses] == [0]


async def test_a_repair_is_told_even_when_the_next_write_fails() -> None:
    """A record is gone, and the Deployment has changed since we saw it: the pass ends in a conflict."""
    api, heard = PlainApi(), Ear()
    reconciler, caches = make_reconciler(api, heard)
    await begin(reconciler)
    (record,) = caches["ControllerRevision"].all()
    (deployment,) = caches["Deployment"].all()
    steady = status_of(caches) | {
        "observedGeneration": 1,
        "stable": {"revision": labels.revision_of(record)},
        "rollout": {"state": "Complete", "revision": labels.revision_of(record)},
    }
    caches[INFERENCE_SERVICE].upsert(newer(inference_service().status(steady).obj()))
    caches["ControllerRevision"].remove(newer(record))
    caches["Deployment"].upsert(
        newer({**deployment, "spec": {**deployment["spec"], "replicas": 0}})
    )
    api.refuses["Deployment"] = Conflict("changed", code=409)

    with pytest.raises(Conflict, match="changed"):
        await reconciler.reconcile(KEY)

    assert [note for reason, note in heard.said if reason == "Repaired"] == [
        f"ControllerRevision {record['metadata']['name']} was missing: made again"
    ]


async def test_what_is_on_its_way_out_is_waited_for_and_not_spun_on() -> None:
    """A finalizer may hold a child for ever; asking again at once would hold the whole process."""
    api = PlainApi()
    reconciler, caches = make_reconciler(api)
    await begin(reconciler)
    (deployment,) = caches["Deployment"].all()
    old = {**deployment, "metadata": {**deployment["metadata"]}}
    old["metadata"] |= {
        "name": "pizza-oldoldoldo",
        "uid": "old",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "labels": deployment["metadata"]["labels"] | {labels.REVISION: "oldoldoldo"},
    }
    caches["Deployment"].upsert(old)
    results = [await reconciler.reconcile(KEY) for _ in range(3)]

    assert results[-1].requeue_after != 0.0


async def test_a_front_service_without_its_labels_is_ours_all_the_same() -> None:
    """Somebody removed a label: no watch of ours shows it any more, but its owner is known."""
    api = PlainApi()
    api.there["Service", "pizza"] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "pizza",
            "namespace": "vision",
            "uid": "ours",
            "resourceVersion": "7",
            "ownerReferences": [{"uid": "uid-pizza", "controller": True}],
        },
        "spec": {},
    }
    reconciler, caches = make_reconciler(api)
    await begin(reconciler)

    assert "Service pizza" in api.applied
    assert caches["Service"].get("vision", "pizza") is not None


async def test_a_refusal_of_an_admission_policy_is_said() -> None:
    api = PlainApi()
    api.refuses["Deployment"] = Forbidden("denied by policy: no GPUs on Sundays", code=403)
    reconciler, caches = make_reconciler(api)
    result = await begin(reconciler)

    found = {item["type"]: item for item in status_of(caches)["conditions"]}
    assert "no GPUs on Sundays" in found["Reconciling"]["message"]
    assert found["Ready"]["status"] == "Unknown"
    assert result.requeue_after == REFUSED_SECONDS


def status_of(caches: Caches) -> dict[str, Any]:
    obj = caches[INFERENCE_SERVICE].get("vision", "pizza")
    assert obj is not None
    return dict(obj["status"])


def newer(obj: Obj) -> Obj:
    metadata = {**obj["metadata"], "resourceVersion": "5000"}
    return {**obj, "metadata": metadata}


async def test_a_record_is_never_replaced() -> None:
    """Its data are immutable byte by byte; a foreign owner in it must not stall the service."""
    api = PlainApi()
    api.adds_owners = True
    reconciler, caches = make_reconciler(api)
    await begin(reconciler)

    assert stalled_reason(caches) == ""
    assert {name.split()[0] for name in api.replaced} == {
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    }


TERMINATING = (Cause("", "NamespaceTerminating", "namespace vision is being terminated"),)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        pytest.param(NotFound("gone", code=404), Conflict, id="the object is gone: look again"),
        pytest.param(Forbidden("no", code=403), Forbidden, id="a right is missing: an error"),
        pytest.param(
            Forbidden("no", code=403, causes=TERMINATING), None, id="its namespace goes: nothing"
        ),
    ],
)
async def test_endings(error: ApiError, becomes: type[ApiError] | None) -> None:
    async def reconcile(_: Key) -> Result:
        raise error

    if becomes is None:
        assert await spare_the_dying(reconcile)(KEY) == Result()
    else:
        with pytest.raises(becomes):
            await spare_the_dying(reconcile)(KEY)
