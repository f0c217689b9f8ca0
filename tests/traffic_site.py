"""A place where traffic is looked at: a namespace, a Gateway, backends behind it, and clients of them.

Which data plane it is, simulated or real, its maker decides: nothing here depends on it.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.plane import APPLY, Obj, Plane
from tests.traffic_client import Answer, Client, Pending
from tests.waiting import wait_for

GATEWAYS = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes"
POD_PORT = 8080
IN_A_ROW = 20
"""Answers of one kind that show a change to have its effect."""


@dataclass(frozen=True)
class Site:
    """One data plane, with a namespace in it for one test."""

    plane: Plane
    client: Client
    namespace: str
    gateway: tuple[str, str]  # namespace and name; it allows routes of all namespaces
    # A Deployment with this name, number of pods and time of an answer in milliseconds.  Its pods are
    # labelled `app` with the name and stamp answers with it as their revision.
    make_backend: Callable[[str, int, int], Obj]
    make_unready: Callable[[str, str], None]  # namespace and name of a pod
    body: str = "{}"  # what a backend answers with 200, as JSON

    # --- making ---

    def deploy(self, name: str, replicas: int = 1, latency_ms: int = 0) -> None:
        """A backend: Deployment and Service; on return its Service has all its pods, ready.

        A gateway may still be a moment behind: what relies on its knowing them waits for an answer.
        """
        deployment = self.make_backend(name, replicas, latency_ms)
        deployment["metadata"]["namespace"] = self.namespace
        self.plane.create(deployment)
        self.plane.create(make_service(self.namespace, name))

        # Not the Deployment's count: EndpointSlices are another controller's, and come later.
        wait_for(
            lambda: self._count_ready_endpoints(name) == replicas,
            what=f"the Service of {name} has its pods",
            seconds=120,
        )

    def route(self, host: str, rules: Sequence[Obj]) -> None:
        """Apply route `host`'s rules; returns at once."""
        name = host.partition(".")[0]
        space, gateway = self.gateway
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {
                "parentRefs": [{"name": gateway, "namespace": space}],
                "hostnames": [host],
                "rules": list(rules),
            },
        }
        path = f"{ROUTES.format(self.namespace)}/{name}?fieldManager=contract&force=true"
        self.plane.call("PATCH", path, body, APPLY)

    # --- seeing ---

    @property
    def address(self) -> str:
        """The Gateway's address, once it is Programmed."""
        space, name = self.gateway

        def find() -> str:
            status = self.plane.call("GET", f"{GATEWAYS.format(space)}/{name}").get("status", {})
            said = {one["type"]: one["status"] for one in status.get("conditions", [])}
            found = [one["value"] for one in status.get("addresses", [])]
            return found[0] if said.get("Programmed") == "True" and found else ""

        return wait_for(find, what=f"Gateway {space}/{name} Programmed", seconds=120)

    def ask(self, host: str, count: int = 1, at_once: int = 8, **headers: str) -> list[Answer]:
        """Requests through the gateway; underscores in names of headers mean dashes."""
        return self.begin(host, count, at_once, **headers).result()

    def begin(self, host: str, count: int = 1, at_once: int = 8, **headers: str) -> Pending:
        """The same, under way."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        named |= {"Host": host, "Content-Type": "application/json"}
        return self.client.begin(
            self.address, 80, headers=named, body=self.body, count=count, at_once=at_once
        )

    def condition(self, host: str, kind: str) -> Obj:
        """A condition of the route for its present generation; empty until there is one."""
        name = host.partition(".")[0]
        route = self.plane.call("GET", f"{ROUTES.format(self.namespace)}/{name}")
        for parent in route.get("status", {}).get("parents", []):
            for one in parent["conditions"]:
                is_current = one["observedGeneration"] == route["metadata"]["generation"]
                if one["type"] == kind and is_current:
                    found: Obj = one
                    return found
        return {}

    def pods(self, name: str) -> list[Obj]:
        """The pods of a backend, without those on their way out."""
        found = self.plane.list("Pod", self.namespace, f"app={name}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def _count_ready_endpoints(self, name: str) -> int:
        slices = self.plane.list(
            "EndpointSlice", self.namespace, f"kubernetes.io/service-name={name}"
        )
        endpoints = [each for one in slices for each in one.get("endpoints") or []]
        return sum(each.get("conditions", {}).get("ready") is True for each in endpoints)

    def answers(self, name: str) -> int:
        """Inference answers that all pods of a backend have counted."""
        return sum(self.answers_of(pod) for pod in self.pods(name))

    def answers_of(self, pod: Obj) -> int:
        """Inference answers that one pod has counted."""
        text = self.get(pod, "/metrics/rollout").body
        return sum(read_samples(text, "sluice_inference_answers_total").values())

    def get(self, pod: Obj, path: str) -> Answer:
        """A pod's own answer."""
        return self.client.send(pod["status"]["podIP"], POD_PORT, path, method="GET")[0]

    def wait_reached(self, host: str, *names: str) -> None:
        """Return once each of these backends answers its share, and nobody else does."""

        def look() -> bool:
            seen = self.ask(host, 5 * IN_A_ROW)
            met = Counter((one.status, one.revision) for one in seen)
            assert set(met) == {(200, name) for name in names}, dict(met)
            return True

        wait_for(look, what=f"{' and '.join(names)} answer", seconds=60)

    def wait_answers(
        self, host: str, is_so: Callable[[Answer], bool], *, what: str, **headers: str
    ) -> None:
        """Return once `IN_A_ROW` answers in a row are so."""

        def look() -> bool:
            seen = self.ask(host, IN_A_ROW, **headers)
            found = Counter((one.status, one.revision) for one in seen if not is_so(one))
            assert not found, f"otherwise: {dict(found)}"
            return True

        wait_for(look, what=what, seconds=60)


def make_host() -> str:
    """A host of the test's own, whose first label is also the route's name."""
    return f"h-{uuid.uuid4().hex[:8]}.example.test"


def make_service(namespace: str, name: str) -> Obj:
    """The Service of a backend, as every revision has one."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
        },
    }


def make_rule(
    weights: Mapping[str, int],
    headers: Mapping[str, str] | None = None,
    *,
    timeout: str = "30s",
    sets: Mapping[str, str] | None = None,
    removes: str = "",
    mirror: tuple[str, int] | None = None,
) -> Obj:
    """A rule as the operator writes it: weighted backends with stamps, a match, a timeout, headers that
    requests get, a mirror."""
    match: Obj = {"path": {"type": "PathPrefix", "value": "/"}}
    if headers:
        match["headers"] = [
            {"type": "Exact", "name": name, "value": value} for name, value in headers.items()
        ]
    rule: Obj = {
        "matches": [match],
        "backendRefs": [
            {
                "name": name,
                "port": 80,
                "weight": weight,
                "filters": [
                    {
                        "type": "ResponseHeaderModifier",
                        "responseHeaderModifier": {
                            "set": [{"name": "sluice-routed", "value": name}]
                        },
                    }
                ],
            }
            for name, weight in weights.items()
        ],
        "timeouts": {"request": timeout},
    }
    filters: list[Obj] = []
    change: Obj = {}
    if sets:
        change["set"] = [{"name": name, "value": value} for name, value in sets.items()]
    if removes:
        change["remove"] = [removes]
    if change:
        filters.append({"type": "RequestHeaderModifier", "requestHeaderModifier": change})
    if mirror:
        target = {"backendRef": {"name": mirror[0], "port": 80}, "percent": mirror[1]}
        filters.append({"type": "RequestMirror", "requestMirror": target})
    return rule | ({"filters": filters} if filters else {})


def read_samples(text: str, name: str) -> dict[str, int]:
    """Values of counter `name` by what stands in its braces."""
    found = {}
    for line in text.splitlines():
        if line.startswith(name + "{"):
            key, _, value = line.removeprefix(name).rpartition(" ")
            found[key] = int(float(value))
    return found


def statuses(answers: Iterable[Answer]) -> dict[int, int]:
    """How many answers of each status."""
    return dict(Counter(one.status for one in answers))
