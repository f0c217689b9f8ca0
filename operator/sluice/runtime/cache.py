"""The cache of one kind: what the operator believes the cluster holds.

Fed by the watch and by the operator's own writes, in any order: an older resourceVersion never
replaces a newer one, and what was known before a deletion never comes back. Hands out its objects
without copying; who reads must not change them. It does no I/O and enqueues nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic

from sluice.runtime.kinds import Kind, Obj, get_uid, get_version

TOMBSTONE_SECONDS = 300.0
"""How long a late answer to a write may try to bring back an object that is gone."""

NOTHING: tuple[int, float] = (-1, 0.0)

Name = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class _Entry:
    obj: Obj
    uid: str
    version: int
    values: dict[str, tuple[str, ...]]  # index -> the values it is filed under


class Cache:
    """Objects of one kind by namespace and name, and by each of ``indexes``.

    An index maps an object to the values it shall be found under.
    """

    def __init__(
        self,
        kind: Kind,
        indexes: Mapping[str, Callable[[Obj], Iterable[str]]] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.kind = kind
        self.synced = False
        self.served = True  # False: an optional kind that the cluster does not know
        self._indexes = dict(indexes or {})
        self._clock = clock
        self._entries: dict[Name, _Entry] = {}
        self._filed: dict[str, dict[str, dict[Name, None]]] = {name: {} for name in self._indexes}
        self._names: dict[str, Name] = {}  # by uid
        # uid -> (the version it was gone at, when this may be forgotten), oldest first
        self._tombstones: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, name: str) -> Obj | None:
        """The object, or None."""
        entry = self._entries.get((namespace, name))
        return entry.obj if entry else None

    def by(self, index: str, value: str) -> list[Obj]:
        """The objects filed under ``value``, in the order of namespace and name."""
        return [self._entries[name].obj for name in sorted(self._filed[index].get(value, ()))]

    def all(self) -> Iterator[Obj]:
        """Every object, of a moment: the cache may change while you go through them."""
        return iter([entry.obj for entry in self._entries.values()])

    def upsert(self, obj: Obj) -> bool:
        """Take an object of the watch or of a write's answer; whether it was news.

        Takes ownership: drops managedFields from it and applies the kind's projection.
        """
        metadata = obj["metadata"]
        name = (metadata.get("namespace") or "", metadata["name"])
        uid, version = get_uid(obj), get_version(obj)
        if version <= self._tombstones.get(uid, NOTHING)[0]:
            return False
        entry = self._entries.get(name)
        if entry is not None and version <= entry.version:
            return False
        metadata.pop("managedFields", None)
        if self.kind.project is not None:
            obj = self.kind.project(obj)
        values = {index: tuple(fn(obj)) for index, fn in self._indexes.items()}
        if entry is None:
            self._entries[name] = _Entry(obj, uid, version, values)
            self._names[uid] = name
            self._file(name, values)
            return True
        if entry.uid != uid:
            # The object was deleted and made anew, and the deletion has not been heard of yet.
            self._bury(entry.uid, version)
            self._names[uid] = name
        if entry.values != values:
            self._unfile(name, entry.values)
            self._file(name, values)
        entry.obj, entry.uid, entry.version, entry.values = obj, uid, version, values
        return True

    def remove(self, obj: Obj) -> bool:
        """Take a deletion; whether the object was here. Another object of the same name stays.

        The watch says "deleted" also of an object that stopped matching the selector. That one may
        come back with the same uid, but only in a newer version.
        """
        return self.remove_uid(get_uid(obj), get_version(obj))

    def remove_uid(self, uid: str, version: int) -> bool:
        """As ``remove``, for an object of which only uid and the version of its end are known."""
        name = self._names.get(uid)
        if name is not None and self._entries[name].version > version:
            return False
        self._bury(uid, version)
        if name is None:
            return False
        self._unfile(name, self._entries.pop(name).values)
        return True

    def has_seen(self, uid: str, version: int) -> bool:
        """Whether the cache knows this object at least as new as ``version``, or as deleted."""
        if version <= self._tombstones.get(uid, NOTHING)[0]:
            return True
        name = self._names.get(uid)
        return name is not None and self._entries[name].version >= version

    def find_missing(self, listed: Iterable[str], version: int) -> list[Obj]:
        """The cached objects that a complete list made at ``version`` should name but does not.

        An object newer than the list is not judged by it.
        """
        gone = self._names.keys() - set(listed)
        entries = [self._entries[self._names[uid]] for uid in sorted(gone)]
        return [entry.obj for entry in entries if entry.version <= version]

    def _bury(self, uid: str, version: int) -> None:
        now = self._clock()
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            if self._tombstones[oldest][1] > now:
                break
            del self._tombstones[oldest]
        self._names.pop(uid, None)
        self._tombstones.pop(uid, None)
        self._tombstones[uid] = (version, now + TOMBSTONE_SECONDS)

    def _file(self, name: Name, values: Mapping[str, tuple[str, ...]]) -> None:
        for index, filed in values.items():
            for value in filed:
                self._filed[index].setdefault(value, {})[name] = None

    def _unfile(self, name: Name, values: Mapping[str, tuple[str, ...]]) -> None:
        for index, filed in values.items():
            for value in filed:
                names = self._filed[index].get(value)
                if names is None:
                    continue
                names.pop(name, None)
                if not names:
                    del self._filed[index][value]
