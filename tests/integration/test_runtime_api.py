"""The API port, the recorder and the audit against a real API server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sluice.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from sluice.runtime.api import Api
from sluice.runtime.audit import Auditor
from sluice.runtime.cache import Cache
from sluice.runtime.clock import LoopClock
from sluice.runtime.connection import load_connection
from sluice.runtime.kinds import Key, Kind, Obj
from sluice.runtime.metrics import Metrics
from sluice.runtime.pump import Pump
from sluice.runtime.queue import Queue
from sluice.runtime.recorder import EVENT, Recorder
from testbed.cluster import Cluster
from tests.integration.waiting import wait_until

pytestmark = pytest.mark.controlplane

CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
ABSENT = Kind("absent.example.com", "v1", "nothings", "Nothing")


def make_config_map(namespace: str, name: str = "a", **data: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
        "data": data,
    }


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    connection = await load_connection(str(cluster.kubeconfig))
    api = Api(connection, LoopClock(), Metrics(), user_agent="runtime-test")
    yield api
    await api.close()


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    made = await api.create(
        NAMESPACE,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "runtime-"}},
    )
    name: str = made["metadata"]["name"]
    yield name
    await api.delete(NAMESPACE, "", name, uid=made["metadata"]["uid"])


async def test_apply_makes_changes_and_then_changes_nothing(api: Api, namespace: str) -> None:
    first = await api.apply(CONFIG_MAP, make_config_map(namespace, x="1", y="1"))
    assert first["data"] == {"x": "1", "y": "1"}
    second = await api.apply(CONFIG_MAP, make_config_map(namespace, x="2"))
    assert second["data"] == {"x": "2"}  # what we stop sending goes
    third = await api.apply(CONFIG_MAP, make_config_map(namespace, x="2"))
    assert third["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert await api.get(CONFIG_MAP, namespace, "a") == third


async def test_a_field_of_another_manager_conflicts_unless_forced(api: Api, namespace: str) -> None:
    await api.apply(CONFIG_MAP, make_config_map(namespace, x="theirs"), field_manager="other")
    with pytest.raises(Conflict) as caught:
        await api.apply(CONFIG_MAP, make_config_map(namespace, x="ours"), force=False)
    assert [cause.field for cause in caught.value.causes] == [".data.x"]
    forced = await api.apply(CONFIG_MAP, make_config_map(namespace, x="ours"))
    assert forced["data"] == {"x": "ours"}


@pytest.mark.parametrize("precondition", ["uid", "resourceVersion"])
async def test_apply_holds_to_its_preconditions(
    api: Api, namespace: str, precondition: str
) -> None:
    old = await api.apply(CONFIG_MAP, make_config_map(namespace, x="1"))
    if precondition == "uid":
        await api.delete(CONFIG_MAP, namespace, "a", uid=old["metadata"]["uid"])
    new = await api.apply(CONFIG_MAP, make_config_map(namespace, x="2"))
    guarded = make_config_map(namespace, x="3")
    guarded["metadata"][precondition] = old["metadata"][precondition]
    with pytest.raises(Conflict):
        await api.apply(CONFIG_MAP, guarded)
    guarded["metadata"][precondition] = new["metadata"][precondition]
    assert (await api.apply(CONFIG_MAP, guarded))["data"] == {"x": "3"}


async def test_a_status_is_applied_apart_from_the_spec(api: Api, namespace: str) -> None:
    metadata = {"namespace": namespace, "name": "d"}
    pod: dict[str, Any] = {"containers": [{"name": "c", "image": "none.example.com/none"}]}
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod},
    }
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    await api.apply(DEPLOYMENT, body | {"spec": spec})
    condition = {"type": "Tested", "status": "True", "reason": "Test", "message": "here"}
    answer = await api.apply_status(DEPLOYMENT, body | {"status": {"conditions": [condition]}})
    assert any(entry["type"] == "Tested" for entry in answer["status"]["conditions"])
    assert answer["spec"]["replicas"] == 0


async def test_delete_takes_exactly_the_object_meant(api: Api, namespace: str) -> None:
    old = await api.apply(CONFIG_MAP, make_config_map(namespace, x="1"))
    uid, version = old["metadata"]["uid"], old["metadata"]["resourceVersion"]
    await api.apply(CONFIG_MAP, make_config_map(namespace, x="2"))
    with pytest.raises(Conflict):
        await api.delete(CONFIG_MAP, namespace, "a", uid=uid, resource_version=version)
    with pytest.raises(Conflict):
        await api.delete(CONFIG_MAP, namespace, "a", uid="another")
    await api.delete(CONFIG_MAP, namespace, "a", uid=uid)
    with pytest.raises(NotFound):
        await api.delete(CONFIG_MAP, namespace, "a", uid=uid)


async def test_errors_name_what_is_wrong(api: Api, namespace: str) -> None:
    with pytest.raises(Invalid) as caught:
        await api.apply(CONFIG_MAP, make_config_map(namespace, "NOT_A_NAME"))
    assert [cause.field for cause in caught.value.causes] == ["metadata.name"]
    await api.create(CONFIG_MAP, make_config_map(namespace, "twice"))
    with pytest.raises(AlreadyExists):
        await api.create(CONFIG_MAP, make_config_map(namespace, "twice"))
    with pytest.raises(NotFound):
        await api.get(CONFIG_MAP, namespace, "nothing")


async def test_without_a_right_the_error_says_so(
    api: Api, namespace: str, cluster: Cluster
) -> None:
    connection = await load_connection(str(cluster.kubeconfig))
    nobody = Api(connection, LoopClock(), Metrics())
    nobody._client.set_default_header("Impersonate-User", "nobody")
    try:
        with pytest.raises(Forbidden, match="cannot list resource"):
            await nobody.list(CONFIG_MAP, namespace=namespace)
    finally:
        await nobody.close()


async def test_lists_come_in_pages_of_one_snapshot(api: Api, namespace: str) -> None:
    for number in range(7):
        await api.apply(CONFIG_MAP, make_config_map(namespace, f"m{number}", x="1"))
    items, version = await api.list(CONFIG_MAP, namespace=namespace, limit=3, metadata_only=True)
    names = [item["metadata"]["name"] for item in items if item["metadata"]["name"][0] == "m"]
    assert names == [f"m{number}" for number in range(7)]
    assert all("data" not in item for item in items)
    assert int(version) >= max(int(item["metadata"]["resourceVersion"]) for item in items)
    nothing, _ = await api.list(
        CONFIG_MAP, namespace=namespace, label_selector="no=such", metadata_only=True
    )
    assert nothing == []


async def test_which_kinds_are_served(api: Api) -> None:
    assert await api.serves(CONFIG_MAP)
    assert await api.serves(DEPLOYMENT)
    assert not await api.serves(ABSENT)
    assert not await api.serves(Kind("apps", "v1", "nothings", "Nothing"))


async def test_the_audit_finds_a_deletion_that_no_watch_told_of(api: Api, namespace: str) -> None:
    await api.apply(CONFIG_MAP, make_config_map(namespace, "stays"))
    goes = await api.apply(CONFIG_MAP, make_config_map(namespace, "goes"))
    clock, metrics = LoopClock(), Metrics()
    cache, queue = Cache(CONFIG_MAP), Queue("test", clock, metrics)
    pump = Pump(
        CONFIG_MAP,
        cache,
        lambda obj: [Key("ConfigMap", obj["metadata"]["namespace"], obj["metadata"]["name"])],
    )
    auditor = Auditor(api, [pump], queue, metrics, clock)
    await auditor.fill(CONFIG_MAP)
    while len(queue):
        queue.done(await queue.get())

    await api.delete(CONFIG_MAP, namespace, "goes", uid=goes["metadata"]["uid"])
    cache.upsert(await api.apply(CONFIG_MAP, make_config_map(namespace, "newer")))
    assert await auditor.audit(CONFIG_MAP) >= 1
    assert cache.get(namespace, "goes") is None
    assert cache.get(namespace, "stays") is not None
    assert cache.get(namespace, "newer") is not None
    keys = set()
    while len(queue):
        keys.add(await queue.get())
    assert Key("ConfigMap", namespace, "goes") in keys
    assert Key("ConfigMap", namespace, "stays") not in keys


async def test_events_of_two_processes_make_one_series(api: Api, namespace: str) -> None:
    about = await api.apply(CONFIG_MAP, make_config_map(namespace))
    clock = LoopClock()

    async def list_events() -> list[Obj]:
        return (await api.list(EVENT, namespace=namespace))[0]

    for process in range(2):
        recorder = Recorder(
            api, clock, Metrics(), component="runtime-test", instance=f"process-{process}"
        )
        recorder.event(about, "Normal", "Tested", "it was tested")
        await recorder.flush(10)
    (event,) = await wait_until("an event", list_events)
    assert event["regarding"]["uid"] == about["metadata"]["uid"]
    assert event["reportingController"] == "runtime-test"
    assert event["series"]["count"] == 2


async def test_calls_are_counted_with_their_codes(cluster: Cluster, namespace: str) -> None:
    metrics = Metrics()
    api = Api(await load_connection(str(cluster.kubeconfig)), LoopClock(), metrics)
    try:
        results = await asyncio.gather(
            api.get(CONFIG_MAP, namespace, "nothing"),
            api.apply(CONFIG_MAP, make_config_map(namespace)),
            return_exceptions=True,
        )
    finally:
        await api.close()
    assert isinstance(results[0], NotFound)
    for verb, code in (("get", "404"), ("apply", "201")):
        labels = {"verb": verb, "kind": "ConfigMap", "code": code}
        assert metrics.registry.get_sample_value("sluice_api_calls_total", labels) == 1
