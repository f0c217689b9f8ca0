from typing import Any

import pytest

from sluice.runtime.cache import TOMBSTONE_SECONDS, Cache
from sluice.runtime.kinds import Kind, Obj

THING = Kind("example.com", "v1", "things", "Thing")


def make_thing(name: str = "a", uid: str = "u1", version: int = 1, **fields: Any) -> Obj:
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
        },
        **fields,
    }


# Each step is (what, uid, version, whether it is news); then the version the cache holds.
STORIES: dict[str, tuple[list[tuple[str, str, int, bool]], int | None]] = {
    "a new object is news": ([("upsert", "u1", 5, True)], 5),
    "the echo of an own write is no news": (
        [("upsert", "u1", 5, True), ("upsert", "u1", 5, False)],
        5,
    ),
    "a late old version does not replace a newer one": (
        [("upsert", "u1", 7, True), ("upsert", "u1", 5, False)],
        7,
    ),
    "versions are numbers, not text": ([("upsert", "u1", 9, True), ("upsert", "u1", 10, True)], 10),
    "a deletion removes": ([("upsert", "u1", 5, True), ("remove", "u1", 6, True)], None),
    "a late answer does not bring back the dead": (
        [("upsert", "u1", 5, True), ("remove", "u1", 7, True), ("upsert", "u1", 6, False)],
        None,
    ),
    "an answer that comes only after the deletion": (
        [("remove", "u1", 7, False), ("upsert", "u1", 6, False)],
        None,
    ),
    "an object that matches the selector again comes back": (
        [("upsert", "u1", 5, True), ("remove", "u1", 6, True), ("upsert", "u1", 8, True)],
        8,
    ),
    "a stale deletion of a selector does not remove a newer version": (
        [("upsert", "u1", 8, True), ("remove", "u1", 6, False)],
        8,
    ),
    "made anew under the same name": ([("upsert", "u1", 5, True), ("upsert", "u2", 9, True)], 9),
    "the old one's deletion does not remove the new one": (
        [("upsert", "u1", 5, True), ("upsert", "u2", 9, True), ("remove", "u1", 8, False)],
        9,
    ),
    "the old one's late version does not replace the new one": (
        [("upsert", "u2", 9, True), ("upsert", "u1", 5, False)],
        9,
    ),
}


@pytest.mark.parametrize(("steps", "version"), STORIES.values(), ids=STORIES.keys())
def test_what_the_cache_holds(steps: list[tuple[str, str, int, bool]], version: int | None) -> None:
    cache = Cache(THING)
    for what, uid, step_version, news in steps:
        assert getattr(cache, what)(make_thing(uid=uid, version=step_version)) is news
    held = cache.get("default", "a")
    assert (held and int(held["metadata"]["resourceVersion"])) == version
    assert len(cache) == (0 if version is None else 1)
    assert [int(obj["metadata"]["resourceVersion"]) for obj in cache.all()] == (
        [] if version is None else [version]
    )


def test_indexes_follow_their_objects() -> None:
    cache = Cache(THING, {"colour": lambda obj: obj.get("colours", ())})
    cache.upsert(make_thing("b", "u2", 2, colours=["red"]))
    cache.upsert(make_thing("a", "u1", 1, colours=["red", "blue"]))
    assert [obj["metadata"]["name"] for obj in cache.by("colour", "red")] == ["a", "b"]

    cache.upsert(make_thing("a", "u1", 3, colours=["green"]))
    assert [obj["metadata"]["name"] for obj in cache.by("colour", "red")] == ["b"]
    assert cache.by("colour", "blue") == []
    assert [obj["metadata"]["name"] for obj in cache.by("colour", "green")] == ["a"]

    cache.upsert(make_thing("a", "u9", 4, colours=["blue"]))
    cache.remove(make_thing("b", "u2", 5))
    assert cache.by("colour", "red") == []
    assert cache.by("colour", "green") == []
    assert [obj["metadata"]["uid"] for obj in cache.by("colour", "blue")] == ["u9"]


def test_objects_are_reduced_before_they_are_kept() -> None:
    def project(obj: Obj) -> Obj:
        assert "managedFields" not in obj["metadata"]
        return {"metadata": obj["metadata"]}

    cache = Cache(Kind("", "v1", "pods", "Pod", project=project))
    pod = make_thing(spec={"large": True})
    pod["metadata"]["managedFields"] = [{}]
    cache.upsert(pod)
    assert set(cache.get("default", "a") or {}) == {"metadata"}


def test_an_audit_judges_only_what_its_list_could_know() -> None:
    cache = Cache(THING)
    for name, version in (("kept", 3), ("lost", 4), ("newer", 9)):
        cache.upsert(make_thing(name, f"uid-{name}", version))
    missing = cache.find_missing(["uid-kept"], version=8)
    assert [obj["metadata"]["name"] for obj in missing] == ["lost"]


def test_seen_means_at_least_as_new_or_gone() -> None:
    cache = Cache(THING)
    cache.upsert(make_thing(version=5))
    assert cache.has_seen("u1", 5)
    assert not cache.has_seen("u1", 6)
    assert not cache.has_seen("u2", 1)
    cache.remove(make_thing(version=7))
    assert cache.has_seen("u1", 7)


def test_tombstones_are_forgotten_in_time() -> None:
    now = [0.0]
    cache = Cache(THING, clock=lambda: now[0])
    cache.remove(make_thing(uid="u1", version=5))
    now[0] = TOMBSTONE_SECONDS + 1
    cache.remove(make_thing(uid="u2", version=6))
    assert not cache.has_seen("u1", 5)
    assert cache.has_seen("u2", 6)
