"""One namespace with its services: what a user does there, and what can be seen there.

The services run on the testbed's simulated nodes.  It waits, but it asserts nothing about the operator.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sluice.requests import Verb, format_request
from testbed.routes import GATEWAY_CLASS
from tests.builders import ServiceBuilder, VersionBuilder, inference_service, model_version
from tests.plane import APPLY, CHILD_KINDS, Obj, Plane
from tests.rows import describe
from tests.waiting import wait_for

SIMULATED = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
# Whatever a pod asks for, the strictest standard must let it in.
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SECONDS = 60.0


class Space:
    """A namespace of the cluster."""

    def __init__(self, plane: Plane, name: str) -> None:
        self.plane = plane
        self.name = name

    def make(self) -> None:
        """Create the namespace."""
        self.plane.create(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": self.name, "labels": RESTRICTED},
            }
        )

    def remove(self) -> None:
        """Delete the namespace with all that is in it; its end is not waited for."""
        self.plane.delete("Namespace", "", self.name)

    # --- what a user does ---

    def service(self, name: str = "pizza") -> ServiceBuilder:
        """A builder of a service whose pods may run on simulated nodes."""
        return inference_service(name, self.name).runtime(tolerations=SIMULATED)

    def version(self, version: str) -> VersionBuilder:
        """A builder of a version."""
        return model_version(version, namespace=self.name)

    def register(self, *versions: str) -> None:
        """Create ModelVersions."""
        for version in versions:
            self.plane.create(self.version(version).obj())

    def create(self, builder: ServiceBuilder | VersionBuilder) -> Obj:
        """Create what was built."""
        return self.plane.create(builder.obj())

    def change(self, spec: Mapping[str, Any], name: str = "pizza") -> Obj:
        """Change a service's spec."""
        return self.plane.patch("InferenceService", self.name, name, {"spec": dict(spec)})

    def move(self, version: str, name: str = "pizza", **env: str) -> Obj:
        """Ask for another version; `env` are the simulated pods' instructions."""
        spec: dict[str, Any] = {"model": {"version": version}}
        if env:
            spec["runtime"] = {"env": make_env(**env)}
        return self.change(spec, name)

    def make_gateway(self, name: str = "eg") -> str:
        """A simulated Gateway for the routes of this namespace; returns its address once it has one."""
        listener = {"name": "http", "protocol": "HTTP", "port": 80}
        self.plane.create(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": name, "namespace": self.name},
                "spec": {"gatewayClassName": GATEWAY_CLASS, "listeners": [listener]},
            }
        )

        def find() -> str:
            status = self.plane.read("Gateway", self.name, name).get("status", {})
            said = {one["type"]: one["status"] for one in status.get("conditions", [])}
            found = [one["value"] for one in status.get("addresses", [])]
            return found[0] if said.get("Programmed") == "True" and found else ""

        return wait_for(find, what=f"Gateway {self.name}/{name} Programmed", seconds=SECONDS)

    def ask(self, verb: Verb, name: str = "pizza", target: str = "", by: str = "") -> str:
        """Request something of a rollout, as its annotation; returns the request's text."""
        rollout = self.status(name)["rollout"]
        text = format_request(verb, rollout["revision"], datetime.now(UTC), target)
        # A request that names nobody must not keep the name of the last one's author.
        annotations = {"sluice.dev/request": text, "sluice.dev/requested-by": by or None}
        change = {"metadata": {"annotations": annotations}}
        self.plane.patch("InferenceService", self.name, name, change)
        return text

    def apply_child(self, kind: str, name: str, fields: Obj, api_version: str) -> Obj:
        """Somebody else's server-side apply of some fields of a child."""
        body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **fields}
        return self.plane.patch(kind, self.name, name, body, form=APPLY)

    # --- what can be seen ---

    def read(self, name: str = "pizza") -> Obj:
        """The service as it is."""
        return self.plane.read("InferenceService", self.name, name)

    def status(self, name: str = "pizza") -> dict[str, Any]:
        """Its status, empty before the operator has seen it."""
        found: dict[str, Any] = self.read(name).get("status", {})
        return found

    def condition(self, type_: str, name: str = "pizza") -> dict[str, Any] | None:
        """One condition, None where it is absent."""
        return find_condition(self.read(name), type_)

    def children(self, kind: str, name: str = "pizza") -> list[Obj]:
        """The service's children of a kind, the front Service last."""
        found = self.plane.list(kind, self.name, f"sluice.dev/service={name}")
        return sorted(found, key=lambda item: (item["metadata"]["name"] == name, str(item)))

    def child(self, kind: str, name: str = "pizza") -> Obj:
        """The one revision's child of a kind; an AssertionError where there are none or more."""
        found = [item for item in self.children(kind, name) if item["metadata"]["name"] != name]
        assert len(found) == 1, f"{len(found)} of kind {kind}"
        return found[0]

    def pods(self, name: str = "pizza") -> dict[str, Obj]:
        """Its pods by uid, those on their way out left out."""
        found = self.plane.list("Pod", self.name, f"sluice.dev/service={name}")
        return {
            pod["metadata"]["uid"]: pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def events(self, reason: str, name: str = "pizza") -> list[str]:
        """The notes of the events of one reason about the service."""
        return [
            event["note"]
            for event in self.plane.list("Event", self.name)
            if event["reason"] == reason and event["regarding"].get("name") == name
        ]

    def traces(self) -> list[str]:
        """Everything in the namespace that the operator or its children made."""
        managed = "app.kubernetes.io/managed-by=sluice"
        return [
            f"{kind} {item['metadata']['name']}"
            for kind in (*CHILD_KINDS, "Pod")
            for item in self.plane.list(kind, self.name, managed)
        ]

    # --- what is waited for ---

    def wait_ready(self, version: str = "", name: str = "pizza", seconds: float = SECONDS) -> Obj:
        """The service once it is Ready for its present spec, with `version` as stable."""

        def is_ready() -> Obj | None:
            obj = self.read(name)
            ready = find_condition(obj, "Ready") or {}
            current = (
                obj.get("status", {}).get("observedGeneration") == obj["metadata"]["generation"]
            )
            stable = obj.get("status", {}).get("stable", {}).get("version", "")
            assert ready.get("status") == "True", say(obj)
            assert current, say(obj)
            assert version in ("", stable), say(obj)
            return obj

        return wait_for(is_ready, what=f"{self.name}/{name} Ready {version}", seconds=seconds)

    def wait_state(self, *states: str, name: str = "pizza", seconds: float = SECONDS) -> Obj:
        """The service once its rollout for the present spec is in one of these states."""

        def is_there() -> Obj:
            obj = self.read(name)
            status = obj.get("status", {})
            assert status.get("observedGeneration") == obj["metadata"]["generation"], say(obj)
            assert status.get("rollout", {}).get("state") in states, say(obj)
            return obj

        return wait_for(is_there, what=f"{self.name}/{name} {states}", seconds=seconds)

    def wait_condition(
        self, type_: str, reason: str, name: str = "pizza", seconds: float = SECONDS
    ) -> dict[str, Any]:
        """The condition once it is True for that reason and for the present spec."""

        def is_there() -> dict[str, Any]:
            obj = self.read(name)
            found = find_condition(obj, type_)
            current = (
                obj.get("status", {}).get("observedGeneration") == obj["metadata"]["generation"]
            )
            assert found, say(obj)
            assert current, say(obj)
            assert (found["status"], found["reason"]) == ("True", reason), say(obj)
            return found

        return wait_for(is_there, what=f"{self.name}/{name} {type_} {reason}", seconds=seconds)


def find_condition(obj: Obj, type_: str) -> dict[str, Any] | None:
    """A condition of an object."""
    conditions: list[dict[str, Any]] = obj.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == type_), None)


def say(obj: Obj) -> str:
    """What a service says of itself, in one line."""
    return f"{describe(obj)} {obj.get('status', {}).get('message', 'no status')}"


def make_env(**values: str) -> list[dict[str, str]]:
    """Variables of a container; `BEHAVIOUR` becomes TESTBED_BEHAVIOUR."""
    return [{"name": f"TESTBED_{key}", "value": value} for key, value in values.items()]
