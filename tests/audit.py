"""Reads the API server's audit log: who asked for what, from a moment on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READS = {"get", "list", "watch"}


@dataclass(frozen=True)
class Request:
    """One request, as the API server saw it."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    decision: str
    stamp: str

    @property
    def is_write(self) -> bool:
        return self.verb not in READS

    @property
    def right(self) -> tuple[str, str, str]:
        """What RBAC must grant for it: verb, group and resource, as a rule puts them."""
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return self.verb, self.group, resource

    def __str__(self) -> str:
        return f"{self.stamp} {' '.join(self.right)} {self.namespace}/{self.name}: {self.code}"


class AuditLog:
    """The log from now on."""

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = user
        self._offset = path.stat().st_size
        self._kept: list[Request] = []

    def requests(self) -> list[Request]:
        """Every finished request of the user so far."""
        self._kept.extend(self._read())
        return self._kept

    def writes(self, namespace: str = "") -> list[Request]:
        """Those that change something, the Lease left out."""
        return [
            request
            for request in self.requests()
            if request.is_write
            and request.resource != "leases"
            and namespace in ("", request.namespace)
        ]

    def _read(self) -> Iterator[Request]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written
                self._offset += len(line)
                # Parsing is what takes time, and most lines are other people's.
                if self._user.encode() in line:
                    yield from self._parse(json.loads(line))

    def _parse(self, entry: dict[str, object]) -> Iterator[Request]:
        user, about = entry["user"], entry.get("objectRef") or {}
        assert isinstance(user, dict)
        assert isinstance(about, dict)
        # A watch is told of when it begins as well as when it ends.
        if user["username"] != self._user or not about or entry["stage"] == "RequestReceived":
            return
        status, notes = entry.get("responseStatus") or {}, entry.get("annotations") or {}
        assert isinstance(status, dict)
        assert isinstance(notes, dict)
        yield Request(
            user=user["username"],
            verb=str(entry["verb"]),
            group=about.get("apiGroup", ""),
            resource=about.get("resource", ""),
            subresource=about.get("subresource", ""),
            namespace=about.get("namespace", ""),
            name=about.get("name", ""),
            code=status.get("code", 0),
            decision=notes.get("authorization.k8s.io/decision", ""),
            stamp=str(entry["requestReceivedTimestamp"]),
        )
