"""Kept builds: made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.pizza.cache import compute_key, copy_folder, ensure_built


def write_build(folder: Path) -> None:
    (folder / "result").write_text("made")


def test_a_build_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(folder: Path) -> None:
        calls.append(folder)
        write_build(folder)

    found = [ensure_built(tmp_path / "cache", "key", build) for _ in range(3)]
    assert len(calls) == 1
    assert [(path / "result").read_text() for path in found] == ["made"] * 3
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_another_key_is_another_build(tmp_path: Path) -> None:
    one, other = (ensure_built(tmp_path, key, write_build) for key in ("a", "b"))
    assert one != other


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_build(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        ensure_built(tmp_path, "key", fail)
    assert list(tmp_path.iterdir()) == []


def test_of_two_builds_at_once_the_first_to_finish_is_kept(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        ensure_built(tmp_path, "key", write_build)
        (folder / "result").write_text("late")

    assert (ensure_built(tmp_path, "key", build) / "result").read_text() == "made"


def test_the_key_stays_while_the_sources_stay() -> None:
    assert compute_key() == compute_key()
    assert len(compute_key()) == 16


def test_a_copy_replaces_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    write_build(source)
    (target / "stale").write_text("old")
    copy_folder(source, target)
    assert [path.name for path in target.iterdir()] == ["result"]
