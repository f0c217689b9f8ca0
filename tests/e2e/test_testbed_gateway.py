"""The node tier's gateway is a real one: Envoy splits, stamps, matches and mirrors as an HTTPRoute says.

Needs `python -m testbed up --tier node`; TESTBED_NAME says which instance.
"""

import collections
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.pizza import deploy
from testbed import cgroup, gateway, images
from testbed.cluster import Cluster
from tests.waiting import wait_for

pytestmark = pytest.mark.node

BACKENDS = ("blue", "green")
# Answers every GET with its name, as status 503 below /fail, and counts those by path for /seen.
SERVER = """
import collections, http.server, json, os
seen = collections.Counter()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    def do_GET(self):
        if self.path == "/seen":
            body = json.dumps(seen).encode()
        else:
            seen[self.path] += 1
            body = b"hello"
        self.send_response(503 if self.path.startswith("/fail") else 200)
        self.send_header("served-by", os.environ["NAME"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Answer:
    """What the client got: the status, the backend's own name and the gateway's stamp."""

    status: int
    served_by: str
    stamp: str


@dataclass(frozen=True)
class Site:
    """Two backends in a namespace of their own, and how to reach them through the gateway."""

    cluster: Cluster
    namespace: str

    @property
    def host(self) -> str:
        return f"{self.namespace}.example"

    def route(self, *rules: dict[str, Any]) -> None:
        """Let the HTTPRoute have these rules."""
        route = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "site", "namespace": self.namespace},
            "spec": {
                "parentRefs": [{"name": gateway.NAME, "namespace": gateway.NAMESPACE}],
                "hostnames": [self.host],
                "rules": rules,
            },
        }
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(route))

    def ask(self, count: int, path: str = "/", *headers: str) -> list[Answer]:
        """Send `count` requests one after the other, by a client inside the instance's namespace."""
        address, port = self.cluster.gateway_address()
        command = ["curl", "--silent", "--show-error", "--globoff", "--max-time", "10"]
        for each in (f"host: {self.host}", *headers):
            command += ["--header", each]
        line = '{"status": %{http_code}, "served_by": "%header{served-by}", '
        command += ["--write-out", line + '"stamp": "%header{sluice-routed}"}\\n']
        for _ in range(count):
            command += ["--output", "/dev/null", f"http://{address}:{port}{path}"]
        done = self.cluster.run_inside(command)
        assert done.returncode == 0, done.stderr
        answers = [Answer(**json.loads(line)) for line in done.stdout.splitlines()]
        assert len(answers) == count
        return answers

    def seen(self, backend: str) -> dict[str, int]:
        """How many requests `backend` got, by path, asked without the gateway."""
        found = self.cluster.kubectl(
            *("get", "service", backend, "-n", self.namespace, "-o", "jsonpath={.spec.clusterIP}")
        )
        done = self.cluster.run_inside(
            ["curl", "--silent", "--fail", f"http://{found.stdout}/seen"]
        )
        assert done.returncode == 0, done
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    def wait_for_all(self, is_so: Callable[[Answer], bool], *headers: str) -> None:
        """Wait until every one of twenty requests is answered so."""
        wait_for(
            lambda: all(is_so(each) for each in self.ask(20, "/", *headers)),
            what="the route as it was last applied",
        )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    cluster = Cluster.load()
    image = images.ensure(cluster, ["operator"])["operator"]
    namespace = f"gateway-{uuid.uuid4().hex[:8]}"
    deploy.make_namespace(cluster, namespace)
    objects = [each for name in BACKENDS for each in make_backend(name, namespace, image)]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    ready = ("wait", "--for=condition=Ready", "-n", namespace, "pod/blue", "pod/green")
    cluster.kubectl(*ready, "--timeout=60s", seconds=70)
    yield Site(cluster, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def make_backend(name: str, namespace: str, image: str) -> list[dict[str, Any]]:
    metadata = {"name": name, "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**metadata, "labels": {"app": name}},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "main",
                        "image": image,
                        "command": ["python", "-c", SERVER],
                        "env": [{"name": "NAME", "value": name}],
                        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]


def to(backend: str, weight: int = 1) -> dict[str, Any]:
    """A backendRef that stamps its answers."""
    stamp = {"set": [{"name": "sluice-routed", "value": f"{backend}-stamp"}]}
    return {
        "name": backend,
        "port": 80,
        "weight": weight,
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": stamp}],
    }


def split(blue: int, green: int) -> dict[str, Any]:
    return {"backendRefs": [to("blue", blue), to("green", green)]}


def is_from(backend: str) -> Callable[[Answer], bool]:
    return lambda answer: answer == Answer(200, backend, f"{backend}-stamp")


def test_weights_split_the_requests_and_every_backend_has_its_stamp(site: Site) -> None:
    site.route(split(75, 25))
    wait_for(
        lambda: {each.status for each in site.ask(20)} == {200}, what="answers of the backends"
    )
    answers = site.ask(600)
    assert {each.status for each in answers} == {200}
    assert {(each.served_by, each.stamp) for each in answers} == {
        ("blue", "blue-stamp"),
        ("green", "green-stamp"),
    }
    # 150 are expected; the bounds are six standard deviations away, so chance does not decide.
    shares = collections.Counter(each.served_by for each in answers)
    assert 86 <= shares["green"] <= 214


def lane(color: str, *, has_clients: bool) -> dict[str, Any]:
    """A rule that a header leads to, and everybody else too where it has the clients."""
    matches: list[dict[str, Any]] = [{"headers": [{"name": "sluice-pin", "value": color}]}]
    if has_clients:
        matches.append({"path": {"type": "PathPrefix", "value": "/"}})
    return {"matches": matches, "backendRefs": [to(color)]}


def test_a_change_of_lanes_reaches_envoy_without_a_failed_request(site: Site) -> None:
    """What docs/adr/0005 rests on. With weights from and to 0 this fails: a cluster goes before its route."""
    site.route(lane("blue", has_clients=True), lane("green", has_clients=False))
    site.wait_for_all(is_from("blue"))
    site.wait_for_all(is_from("green"), "sluice-pin: green")
    site.route(lane("blue", has_clients=False), lane("green", has_clients=True))
    during: list[Answer] = []

    def is_changed() -> bool:
        latest = site.ask(20)
        during.extend(latest)
        return all(map(is_from("green"), latest))

    wait_for(is_changed, what="all requests at green")
    assert all(is_from("blue")(each) or is_from("green")(each) for each in during)


def test_a_header_leads_to_its_rule_whatever_the_weights_say(site: Site) -> None:
    matches = [{"headers": [{"name": "sluice-pin", "value": "green"}]}]
    site.route({"matches": matches, "backendRefs": [to("green")]}, split(100, 0))
    site.wait_for_all(is_from("green"), "sluice-pin: green")
    site.wait_for_all(is_from("blue"), "sluice-pin: other")
    site.wait_for_all(is_from("blue"))


def test_a_mirror_gets_a_copy_and_does_not_answer(site: Site) -> None:
    mirror = {"backendRef": {"name": "green", "port": 80}}
    site.route(
        {
            "filters": [{"type": "RequestMirror", "requestMirror": mirror}],
            "backendRefs": [to("blue")],
        }
    )
    wait_for(
        lambda: site.ask(1, "/probe") and site.seen("green").get("/probe"), what="a first copy"
    )
    assert all(map(is_from("blue"), site.ask(50, "/mirrored")))
    wait_for(lambda: site.seen("green").get("/mirrored") == 50, what="a copy of each")


def test_a_failure_is_passed_on_and_not_tried_again(site: Site) -> None:
    site.route(split(100, 0))
    site.wait_for_all(is_from("blue"))
    assert {each.status for each in site.ask(10, "/fail")} == {503}
    assert site.seen("blue")["/fail"] == 10


def test_the_gateway_is_offered_on_the_host(site: Site) -> None:
    site.route(split(0, 100))
    site.wait_for_all(is_from("green"))
    url = f"http://127.0.0.1:{site.cluster.gateway_port()}/"
    answer = httpx.get(url, headers={"host": site.host}, trust_env=False)
    assert (answer.status_code, answer.headers["served-by"]) == (200, "green")
    assert httpx.get(url, headers={"host": "nobody.example"}, trust_env=False).status_code == 404


def find_envoy(cluster: Cluster) -> int:
    """The process that the Gateway's clients talk to."""
    pods = ("get", "pods", "-n", gateway.NAMESPACE, "-l", "app.kubernetes.io/name=envoy")
    uid = cluster.kubectl(*pods, "-o", "jsonpath={.items[*].metadata.uid}").stdout
    found = {
        int(pid)
        for folder in cgroup.folders_of(cluster.name)
        for procs in folder.glob(f"**/*{uid}*/**/cgroup.procs")
        for pid in procs.read_text().split()
        if Path(f"/proc/{pid}/comm").read_text().strip() == "envoy"
    }
    (pid,) = found
    return pid


def test_an_envoy_that_stands_still_for_seconds_refuses_nobody(site: Site) -> None:
    """As on a machine without CPU time: one late answer to a probe must not cost it its Service."""
    site.route(split(100, 0))
    site.wait_for_all(is_from("blue"))
    envoy = find_envoy(site.cluster)
    os.kill(envoy, signal.SIGSTOP)
    try:
        time.sleep(8)  # a probe every five seconds, and one for kube-proxy to hear of it
    finally:
        os.kill(envoy, signal.SIGCONT)
    # Each on a connection of its own: those that exist outlive the Service's endpoint.
    answers = [answer for _ in range(20) for answer in site.ask(1)]
    assert all(map(is_from("blue"), answers))
    assert find_envoy(site.cluster) == envoy
