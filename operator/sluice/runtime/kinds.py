"""Kinds of objects, references to them, and the paths under which the API server has them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
"""A Kubernetes object as JSON gives it. Objects that came out of a cache must not be changed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of one version of one API group; ``group`` is "" for the core group.

    ``selector`` is a label selector that every LIST and WATCH of the kind carries.
    ``project`` reduces an object before it is cached; it gets the object without managedFields
    and may change and return it.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    selector: str = ""
    project: Callable[[Obj], Obj] | None = None

    @property
    def api_version(self) -> str:
        """``apps/v1``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_path(self) -> str:
        """Where the server describes and serves the group version: ``/apis/apps/v1``."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(
        self, namespace: str | None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The path of an object, or of the collection; namespace None or "" means all of them."""
        parts = [self.group_path]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What the queue holds: the object to reconcile, by kind and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def get_uid(obj: Obj) -> str:
    """``metadata.uid``, or "" if there is none."""
    return str(obj["metadata"].get("uid", ""))


def get_version(obj: Obj) -> int:
    """``metadata.resourceVersion`` as a number, 0 if there is none.

    Numbers, because versions of one kind can be ordered (KEP-5504): the API conventions promise a
    monotonic decimal since Kubernetes 1.35, and etcd's revision always was one.
    """
    return int(obj["metadata"].get("resourceVersion") or 0)
