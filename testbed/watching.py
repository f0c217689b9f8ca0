"""Follows kinds of objects at the API server, for the testbed's own simulators.

It hands on what is and what changes, and writes what it is told to.  What an object means is
decided elsewhere.
"""

import asyncio
import base64
import json
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

Obj = dict[str, Any]
Tell = Callable[[str, Obj | None], None]

MERGE = "application/merge-patch+json"
_AGAIN_S = 0.1
_HTTP_GONE = 410


class RefusedError(Exception):
    """The API server said no; ``code`` is its status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def load_connection(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The URL of the testbed's API server, and who asks there: its CA, and the user's certificate."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(
        cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
    )
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(
            base64.b64decode(user["client-certificate-data"])
            + base64.b64decode(user["client-key-data"])
        )
        context.load_cert_chain(pair)
    return cluster["server"], context


class Api:
    """The API server behind a kubeconfig; made and used inside one event loop."""

    def __init__(self, kubeconfig: Path) -> None:
        server, context = load_connection(kubeconfig)
        self.http = aiohttp.ClientSession(
            server,
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def call(
        self, method: str, path: str, body: Obj | None = None, form: str = "application/json"
    ) -> Obj:
        """One request; RefusedError where it is no success."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": form} if content else {}
        async with self.http.request(method, path, data=content, headers=headers) as answer:
            text = await answer.read()
        if answer.status >= 400:
            raise RefusedError(answer.status, text.decode(errors="replace")[:300])
        result: Obj = json.loads(text)
        return result

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Obj]]:
        """(type, object) of every event at ``path`` after ``version``, until the server ends it."""
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        async with self.http.get(path, params=query) as stream:
            if stream.status >= 400:
                raise RefusedError(stream.status, (await stream.text())[:300])
            # By hand: an object may be longer than a line that the library would read.
            rest = b""
            async for piece in stream.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RefusedError(event["object"]["code"], event["object"]["message"])
                    yield event["type"], event["object"]


class Following:
    """One kind: ``tell`` gets ``namespace/name`` and the object, or None where it is gone."""

    def __init__(self, api: Api, path: str, tell: Tell) -> None:
        self.path = path
        self.is_in_step = False
        self._api = api
        self._tell = tell
        self._known: set[str] = set()
        self._version = ""
        self._complaint = ""

    async def run(self) -> None:
        """List and watch for ever; an API server that is away is waited for."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except RefusedError as error:
                self._version = ""
                if error.code != _HTTP_GONE:
                    await self._wait(str(error))
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # It may have been restarted with another history, so what is there is asked anew.
                self._version = ""
                await self._wait(f"{type(error).__name__}: {error}")

    async def _wait(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            sys.stderr.write(f"{self.path}: {complaint}\n")
            sys.stderr.flush()
        await asyncio.sleep(_AGAIN_S)

    async def _list(self) -> None:
        listing = await self._api.call("GET", self.path)
        present = {key_of(item): item for item in listing["items"]}
        for key in self._known - present.keys():
            self._tell(key, None)
        for key, item in present.items():
            self._tell(key, item)
        self._known = set(present)
        self._version = listing["metadata"]["resourceVersion"]
        self._complaint = ""
        self.is_in_step = True

    async def _watch(self) -> None:
        async for type_, obj in self._api.watch(self.path, self._version):
            self._version = obj["metadata"]["resourceVersion"]
            if type_ == "BOOKMARK":
                continue
            key = key_of(obj)
            if type_ == "DELETED":
                self._known.discard(key)
                self._tell(key, None)
            else:
                self._known.add(key)
                self._tell(key, obj)


def key_of(obj: Obj) -> str:
    """``namespace/name`` of an object."""
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"
