"""The API port: objects as dictionaries to the API server and back.

Every call is counted, bounded in time, and ends in a typed error or an answer. What may help is
tried again here a few times; what an error means is decided by the caller. Holds no objects.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from sluice.errors import NotFound, Transient
from sluice.runtime.answers import make_error
from sluice.runtime.bucket import Bucket
from sluice.runtime.clock import Clock
from sluice.runtime.kinds import Kind, Obj
from sluice.runtime.metrics import Metrics

CALL_TIMEOUT = 15.0
ATTEMPTS = 4
MAX_PAUSE = 5.0
"""Seconds. A server that wants a longer pause gets it from the queue, not from a held worker."""

JSON = "application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
FIELD_MANAGER = "sluice"

Page = tuple[list[Obj], str]
"""Objects, and the resourceVersion of the snapshot they are from."""


class Api:
    """See the module. Objects given in are not changed, objects given out are the caller's."""

    def __init__(
        self,
        connection: Configuration,
        clock: Clock,
        metrics: Metrics,
        *,
        bucket: Bucket | None = None,
        user_agent: str = "sluice-operator",
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = ApiClient(connection)
        self._client.user_agent = user_agent
        self._clock = clock
        self._metrics = metrics
        self._bucket = bucket
        self.fence: Callable[[], bool] = lambda: True
        """Whether objects may be written now; the process ties it to the lease."""
        self._draw = draw

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """The object as the server has it now."""
        return await self._call("get", "GET", kind, kind.path(namespace, name))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        metadata_only: bool = False,
        limit: int = 500,
    ) -> Page:
        """All objects, and the resourceVersion they are a snapshot of. None is the kind's own
        selector."""
        items: list[Obj] = []
        version = ""
        async for page, version in self.pages(  # noqa: B007 - the last one is returned
            kind,
            namespace=namespace,
            label_selector=label_selector,
            metadata_only=metadata_only,
            limit=limit,
        ):
            items += page
        return items, version

    async def pages(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        metadata_only: bool = False,
        limit: int = 500,
    ) -> AsyncIterator[Page]:
        """As ``list``, page by page, all of one snapshot; Gone means: begin again."""
        query: dict[str, str] = {"limit": str(limit)}
        selector = kind.selector if label_selector is None else label_selector
        if selector:
            query["labelSelector"] = selector
        accept = METADATA_LIST if metadata_only else JSON
        while True:
            answer = await self._call(
                "list", "GET", kind, kind.path(namespace), query=query, accept=accept
            )
            page: list[Obj] = answer["items"] or []  # null where there are none
            for item in page:
                item["apiVersion"], item["kind"] = kind.api_version, kind.kind
            yield page, answer["metadata"]["resourceVersion"]
            token = answer["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    async def apply(
        self, kind: Kind, obj: Obj, *, field_manager: str = FIELD_MANAGER, force: bool = True
    ) -> Obj:
        """Server-side apply. ``metadata.uid`` and ``metadata.resourceVersion`` in it are
        preconditions: Conflict when they do not hold."""
        return await self._apply(kind, obj, None, field_manager, force)

    async def apply_status(self, kind: Kind, obj: Obj) -> Obj:
        """Server-side apply of the status subresource, with the same preconditions."""
        return await self._apply(kind, obj, "status", FIELD_MANAGER, True)

    async def create(self, kind: Kind, obj: Obj) -> Obj:
        """POST; AlreadyExists if it is there, which after a lost answer may be our own doing."""
        path = kind.path(obj["metadata"].get("namespace"))
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("create", "POST", kind, path, query=query, body=obj)

    async def replace(self, kind: Kind, obj: Obj) -> Obj:
        """PUT, once and outside the rate limit: who holds a lease cannot wait for the others."""
        path = kind.path(obj["metadata"].get("namespace"), obj["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("update", "PUT", kind, path, query=query, body=obj, attempts=1)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str,
        resource_version: str | None = None,
    ) -> None:
        """Delete exactly this object, its children in the background; Conflict if it is another
        (or, with a resource_version, if it has changed), NotFound if it is gone."""
        preconditions = {"uid": uid}
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        await self._write("delete", "DELETE", kind, kind.path(namespace, name), body=body)

    async def serves(self, kind: Kind) -> bool:
        """Whether the server knows the kind."""
        try:
            answer = await self._call("discover", "GET", kind, kind.group_path)
        except NotFound:
            return False
        return any(item["name"] == kind.plural for item in answer.get("resources") or ())

    async def _apply(
        self, kind: Kind, obj: Obj, subresource: str | None, field_manager: str, force: bool
    ) -> Obj:
        metadata = obj["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"], subresource)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        verb = "apply_status" if subresource else "apply"
        return await self._write(
            verb, "PATCH", kind, path, query=query, body=obj, content_type=APPLY
        )

    def _check_fence(self, verb: str, method: str, kind: Kind) -> None:
        """A process that was stopped for a while may wake up as the leader it no longer is.

        So this is asked before every try. Events may be told by anybody, and the lease is what decides.
        """
        if method in {"PATCH", "PUT", "DELETE"} and kind.plural != "leases" and not self.fence():
            raise Transient(f"{verb} {kind.kind}: the lease is lost or unsure")

    async def _write(self, verb: str, method: str, kind: Kind, path: str, **call: Any) -> Obj:
        if self._bucket is not None:
            waited = await self._bucket.acquire()
            if waited:
                self._metrics.throttle_seconds.inc(waited)
        return await self._call(verb, method, kind, path, **call)

    async def _call(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Obj | None = None,
        accept: str = JSON,
        content_type: str = JSON,
        attempts: int = ATTEMPTS,
    ) -> Obj:
        for attempt in range(1, attempts + 1):
            self._check_fence(verb, method, kind)
            try:
                return await self._send(verb, method, kind, path, query, body, accept, content_type)
            except Transient as error:
                pause = error.retry_after
                if pause is None:
                    pause = 0.1 * 2.0**attempt * (0.5 + self._draw())
                if attempt == attempts or pause > MAX_PAUSE or error.code == 410:
                    raise
                await self._clock.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _send(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        query: dict[str, str] | None,
        body: Obj | None,
        accept: str,
        content_type: str,
    ) -> Obj:
        headers = {"Accept": accept, "Content-Type": content_type}
        where = f"{verb} {kind.kind} {path}"
        began = perf_counter()
        code = 0
        try:
            # The body stays out of param_serialize, which would walk through all of it.
            method, url, headers, _, _ = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(
                method,
                url,
                headers,
                body,
                _request_timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT),
            )
            data: bytes = await response.read()
            code = response.status
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise Transient(f"{where}: no answer: {error or type(error).__name__}") from error
        finally:
            self._metrics.api_calls.labels(verb, kind.kind, str(code)).inc()
            self._metrics.api_seconds.labels(verb).observe(perf_counter() - began)
        if code >= 300:
            raise make_error(where, code, response.headers, data)
        answer: Obj = json.loads(data)
        return answer
