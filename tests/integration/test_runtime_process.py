"""The whole process on a real API server, with a small application: watch, lease, end, restart."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.errors import Conflict, NotFound
from sluice.runtime.api import Api
from sluice.runtime.clock import LoopClock
from sluice.runtime.connection import load_connection
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.lease import LEASE
from sluice.runtime.metrics import Metrics
from testbed.cluster import Cluster
from tests.integration.waiting import wait_until

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "copying_operator.py"
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
SECRET = Kind("", "v1", "secrets", "Secret")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)


class Operator:
    """One process of the small operator, and what it logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(json.loads(line))

    def find(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]

    async def wait_for(self, message: str) -> dict[str, Any]:
        async def check() -> list[dict[str, Any]]:
            assert self.process.returncode is None, self.lines
            return self.find(message)

        return (await wait_until(f"the log line {message!r}", check))[0]

    async def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return code

    async def samples(self) -> dict[tuple[str, ...], float]:
        """The metrics: by name and the values of the labels, sorted by label."""
        url = f"http://127.0.0.1:{self.find('probes')[0]['port']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


class Bench:
    """A namespace, and operators that keep their lease in it."""

    def __init__(self, cluster: Cluster, api: Api, namespace: str, directory: Path) -> None:
        self.api = api
        self.namespace = namespace
        self.operators: list[Operator] = []
        self._environ = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "PYTHONPATH": f"{ROOT / 'operator'}",
            "XDG_RUNTIME_DIR": str(directory),
        }

    async def start(self, *flags: str, **environ: str) -> Operator:
        arguments = ("--namespace", self.namespace, "--probe-host", "127.0.0.1", *flags)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            *("--probe-port", "0", "--log-format", "json", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env=self._environ | environ,
        )
        operator = Operator(process)
        self.operators.append(operator)
        return operator

    async def put(self, name: str, value: str, **annotations: str) -> Obj:
        metadata = {
            "namespace": self.namespace,
            "name": name,
            "labels": {"runtime-test": "source"},
            "annotations": annotations,
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        return await self.api.apply(CONFIG_MAP, body | {"data": {"x": value}})

    async def read_copy(self, name: str) -> str:
        try:
            secret = await self.api.get(SECRET, self.namespace, name)
        except NotFound:
            return ""
        return base64.b64decode(secret["data"]["x"]).decode()

    async def wait_copy(self, name: str, value: str) -> None:
        async def check() -> bool:
            return await self.read_copy(name) == value

        await wait_until(f"{name} copied as {value}", check)

    async def lease(self) -> dict[str, Any]:
        found = await self.api.get(LEASE, self.namespace, "sluice-operator")
        spec: dict[str, Any] = found["spec"]
        return spec


@pytest.fixture
async def bench(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Bench]:
    connection = await load_connection(str(cluster.kubeconfig))
    api = Api(connection, LoopClock(), Metrics(), user_agent="runtime-test")
    made = await api.create(
        NAMESPACE,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "runtime-"}},
    )
    bench = Bench(cluster, api, made["metadata"]["name"], tmp_path)
    yield bench
    for operator in bench.operators:
        with contextlib.suppress(ProcessLookupError):
            if operator.process.returncode is None:
                await operator.end(signal.SIGKILL)
    await api.delete(NAMESPACE, "", bench.namespace, uid=made["metadata"]["uid"])
    await api.close()


async def test_it_follows_its_sources_and_repairs_its_copies(bench: Bench) -> None:
    await bench.put("before", "1")
    operator = await bench.start()
    await bench.wait_copy("before", "1")
    await bench.put("during", "1")
    await bench.wait_copy("during", "1")
    await bench.put("during", "2")
    await bench.wait_copy("during", "2")

    secret = await bench.api.get(SECRET, bench.namespace, "during")
    await bench.api.delete(SECRET, bench.namespace, "during", uid=secret["metadata"]["uid"])
    await bench.wait_copy("during", "2")

    # kopf has left nothing on anybody's object.
    source = await bench.api.get(CONFIG_MAP, bench.namespace, "during")
    assert "annotations" not in source["metadata"]
    assert "finalizers" not in source["metadata"]
    (optional,) = operator.find("optional kind is not served")
    assert optional["kind"] == "nothings.absent.example.com/v1"

    url = f"http://127.0.0.1:{operator.find('probes')[0]['port']}"
    async with aiohttp.ClientSession(url) as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(path) as answer:
                assert answer.status == 200, await answer.text()


async def test_a_server_that_does_not_answer_is_said_once_for_all_kinds(
    bench: Bench, cluster: Cluster, tmp_path: Path
) -> None:
    away = tmp_path / "kubeconfig"
    server = f"https://127.0.0.1:{cluster.api_port}"
    away.write_text(cluster.kubeconfig.read_text().replace(server, "https://127.0.0.1:1"))
    operator = await bench.start(KUBECONFIG=str(away))
    said = await operator.wait_for("the API server does not say its kinds")
    assert "Cannot connect to host 127.0.0.1:1" in said["detail"]
    url = f"http://127.0.0.1:{operator.find('probes')[0]['port']}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, said["detail"] in await answer.text()) == (503, True)
    assert await operator.end(signal.SIGTERM) == 0
    assert operator.find("kinds are missing: are the CRDs applied?") == []


async def test_nothing_is_written_while_nothing_happens_and_after_a_restart(bench: Bench) -> None:
    for number in range(20):
        await bench.put(f"m{number}", "1")
    first = await bench.start()
    for number in range(20):
        await bench.wait_copy(f"m{number}", "1")
    holder = (await bench.lease())["holderIdentity"]
    await first.end(signal.SIGKILL)

    second = await bench.start()
    await second.wait_for("working")

    async def is_through() -> bool:
        samples = await second.samples()
        name = ("controller_runtime_reconcile_total", "ConfigMap", "success")
        return samples.get(name, 0) >= 20

    await wait_until("every source reconciled again", is_through)
    written = {
        labels: value
        for labels, value in (await second.samples()).items()
        if labels[0] == "sluice_api_calls_total" and labels[-1] in ("apply", "create", "delete")
    }
    assert written == {}
    # The dead process' lease was taken over without waiting for its end.
    lease = await bench.lease()
    assert (lease["holderIdentity"], lease["leaseTransitions"]) == (holder, 0)


async def test_asked_to_end_it_finishes_its_key_and_releases_the_lease(bench: Bench) -> None:
    await bench.put("quick", "1")
    operator = await bench.start()
    await bench.wait_copy("quick", "1")
    await bench.put("slow", "1", hold="2")

    async def is_at_work() -> bool:
        samples = await operator.samples()
        return samples[("controller_runtime_active_workers", "ConfigMap")] == 1

    await wait_until("the slow key in work", is_at_work)
    assert await bench.read_copy("slow") == ""
    assert await operator.end(signal.SIGTERM) == 0
    assert await bench.read_copy("slow") == "1"
    assert (await bench.lease())["holderIdentity"] == ""
    (ended,) = operator.find("ended")
    assert ended["keys_finished"] is True
    assert ended["seconds"] < 10


async def test_a_standby_takes_over_from_a_killed_leader(bench: Bench) -> None:
    times = ("--lease-duration", "4", "--renew-deadline", "3", "--lease-retry", "0.5")
    leader = await bench.start(*times)
    await leader.wait_for("working")
    standby = await bench.start(*times)
    await standby.wait_for("caches are in step")
    await bench.put("a", "1")
    await bench.wait_copy("a", "1")
    assert standby.find("working") == []

    await leader.end(signal.SIGKILL)
    await bench.put("a", "2")
    await standby.wait_for("working")
    await bench.wait_copy("a", "2")
    assert (await bench.lease())["leaseTransitions"] == 1


async def test_a_leader_that_lost_its_lease_ends(bench: Bench) -> None:
    times = ("--lease-duration", "4", "--renew-deadline", "3", "--lease-retry", "0.5")
    leader = await bench.start(*times)
    await leader.wait_for("working")

    async def steal() -> bool:
        taken = await bench.api.get(LEASE, bench.namespace, "sluice-operator")
        taken["spec"]["holderIdentity"] = "another"
        with contextlib.suppress(Conflict):  # the leader was quicker
            await bench.api.replace(LEASE, taken)
            return True
        return False

    await wait_until("the lease stolen", steal)
    assert await asyncio.wait_for(leader.process.wait(), 60) == 1
    assert (await bench.lease())["holderIdentity"] == "another"


async def test_it_outlives_a_restart_of_the_api_server(bench: Bench, cluster: Cluster) -> None:
    operator = await bench.start()
    await bench.put("a", "1")
    await bench.wait_copy("a", "1")
    await asyncio.to_thread(cluster.restart, "kube-apiserver")
    await bench.put("a", "2")
    await bench.wait_copy("a", "2")
    assert operator.process.returncode is None
    assert len(operator.find("lease taken")) == 1
    assert await operator.end(signal.SIGTERM) == 0
