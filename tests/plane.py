"""A small client of the API server for tests and benchmarks: dictionaries in and out, and watches.

It is not the operator's own client on purpose: what is tested must not look at itself.  It retries
nothing and asserts nothing.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from testbed.watching import load_connection

Obj = dict[str, Any]

PLACES = {
    "Namespace": "/api/v1/{}namespaces",
    "Node": "/api/v1/{}nodes",
    "Pod": "/api/v1/{}pods",
    "Service": "/api/v1/{}services",
    "ResourceQuota": "/api/v1/{}resourcequotas",
    "Deployment": "/apis/apps/v1/{}deployments",
    "Job": "/apis/batch/v1/{}jobs",
    "ControllerRevision": "/apis/apps/v1/{}controllerrevisions",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/{}horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/{}poddisruptionbudgets",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/{}endpointslices",
    "Event": "/apis/events.k8s.io/v1/{}events",
    "Lease": "/apis/coordination.k8s.io/v1/{}leases",
    "Gateway": "/apis/gateway.networking.k8s.io/v1/{}gateways",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/{}httproutes",
    "RuntimeClass": "/apis/node.k8s.io/v1/{}runtimeclasses",
    "InferenceService": "/apis/sluice.dev/v1alpha1/{}inferenceservices",
    "ModelVersion": "/apis/sluice.dev/v1alpha1/{}modelversions",
}
CHILD_KINDS = (
    "ControllerRevision",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Refused(Exception):  # noqa: N818 - as the API server puts it
    """The API server said no; `.code` and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Plane:
    """The API server behind a kubeconfig, as that kubeconfig's user."""

    def __init__(self, kubeconfig: Path) -> None:
        server, context = load_connection(kubeconfig)
        self.http = httpx.Client(
            trust_env=False,
            base_url=server,
            verify=context,
            timeout=30,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
        )

    def close(self) -> None:
        """Give the connections back."""
        self.http.close()

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """The object, or None."""
        try:
            return self.call("GET", place(kind, namespace, name))
        except Refused as error:
            if error.code == httpx.codes.NOT_FOUND:
                return None
            raise

    def read(self, kind: str, namespace: str, name: str) -> Obj:
        """The object; an AssertionError where it is not there."""
        found = self.get(kind, namespace, name)
        assert found is not None, f"{kind} {namespace}/{name} is not there"
        return found

    def list(self, kind: str, namespace: str = "", selector: str = "") -> list[Obj]:
        """The objects of a kind, by label `selector` where one is given."""
        query = f"?labelSelector={selector}" if selector else ""
        answer = self.call("GET", place(kind, namespace) + query)
        # The items of a list don't say what they are.
        return [
            {"apiVersion": answer["apiVersion"], "kind": kind, **item} for item in answer["items"]
        ]

    def create(self, obj: Obj) -> Obj:
        """Create; a uid and the like in a builder's object are left out."""
        metadata = {
            key: value
            for key, value in obj["metadata"].items()
            if key not in {"uid", "resourceVersion", "generation"}
        }
        path = place(obj["kind"], metadata.get("namespace", ""))
        return self.call("POST", path, {**obj, "metadata": metadata})

    def patch(
        self, kind: str, namespace: str, name: str, change: Any, *, form: str = MERGE, sub: str = ""
    ) -> Obj:
        """A merge patch, or another `form`; `sub` is a subresource."""
        path = place(kind, namespace, name) + (f"/{sub}" if sub else "")
        if form == APPLY:
            path += "?fieldManager=somebody"
        return self.call("PATCH", path, change, form)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete in the background; nothing where it isn't there."""
        try:
            self.call("DELETE", place(kind, namespace, name), {"propagationPolicy": "Background"})
        except Refused as error:
            if error.code != httpx.codes.NOT_FOUND:
                raise

    def call(self, method: str, path: str, body: Any = None, form: str = "application/json") -> Obj:
        """One request; Refused where it is no success."""
        content = None if body is None else json.dumps(body).encode()
        answer = self.http.request(
            method, path, content=content, headers={"content-type": form} if content else None
        )
        if answer.is_error:
            raise Refused(answer.status_code, answer.json().get("message", answer.text))
        result: Obj = answer.json()
        return result

    @contextmanager
    def following(
        self, kind: str, namespace: str = "", tell: Callable[[str, Obj], None] | None = None
    ) -> Iterator["Following"]:
        """Everything that happens to a kind while the block runs."""
        follower = Following(self, kind, namespace, tell)
        with follower:
            yield follower


class Following:
    """A watch in a thread of its own: `.seen` has (type, object) in order of arrival."""

    def __init__(
        self,
        plane: Plane,
        kind: str,
        namespace: str = "",
        tell: Callable[[str, Obj], None] | None = None,
    ) -> None:
        self.seen: list[tuple[str, Obj]] = []
        self.failure: Exception | None = None
        self._plane = plane
        self._path = place(kind, namespace)
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._version = ""

    def __enter__(self) -> Self:
        self._version = self._plane.call("GET", f"{self._path}?limit=1")["metadata"][
            "resourceVersion"
        ]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._watch()
            except Refused as error:
                if error.code != httpx.codes.GONE:
                    self.failure = error
                    return
                self._start_anew()
            except httpx.TransportError:
                # Nothing happened for a while, or the API server is being restarted: go on from there.
                self._stop.wait(0.05)
            except Exception as error:
                self.failure = error
                return

    def _start_anew(self) -> None:
        """An API server that was restarted knows no history: what is there now is the next news."""
        answer = self._plane.call("GET", self._path)
        self._version = answer["metadata"]["resourceVersion"]
        for item in answer["items"]:
            self._take("LISTED", item)

    def _take(self, type_: str, obj: Obj) -> None:
        self.seen.append((type_, obj))
        if self._tell is not None:
            self._tell(type_, obj)

    def _watch(self) -> None:
        query = f"?watch=1&allowWatchBookmarks=true&resourceVersion={self._version}"
        timeout = httpx.Timeout(10, read=0.5)
        with self._plane.http.stream("GET", self._path + query, timeout=timeout) as stream:
            if stream.is_error:
                if stream.status_code in (429, 500, 503):
                    # It is being started.
                    raise httpx.ReadError("not yet")
                raise Refused(stream.status_code, self._path)
            for line in stream.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(event["object"]["code"], event["object"]["message"])
                self._version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._take(event["type"], event["object"])
                if self._stop.is_set():
                    return


def place(kind: str, namespace: str = "", name: str = "") -> str:
    """The path of a collection or an object."""
    path = PLACES[kind].format(f"namespaces/{namespace}/" if namespace else "")
    return f"{path}/{name}" if name else path
