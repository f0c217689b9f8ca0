"""Folders for half-made things: what is left of killed runs goes, and only that."""

from pathlib import Path

import pytest

from testbed.scratch import is_mounted_below, make_scratch


def test_it_goes_afterwards_also_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with make_scratch(tmp_path, "base") as scratch:
            (scratch / "half").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_it_may_be_moved_to_its_place(tmp_path: Path) -> None:
    with make_scratch(tmp_path, "base") as scratch:
        scratch.rename(tmp_path / "whole")
    assert [each.name for each in tmp_path.iterdir()] == ["whole"]


def test_what_a_killed_run_left_goes_and_another_name_stays(tmp_path: Path) -> None:
    left = tmp_path / ".building-etcd-3.7.3-0123.abc"
    others = [tmp_path / ".building-etcd-3.7.3-4567.abc", tmp_path / "etcd-3.7.3-0123"]
    for folder in (left, *others):
        (folder / "half").mkdir(parents=True)
    with make_scratch(tmp_path, ".building-etcd-3.7.3-0123") as scratch:
        assert not left.exists()
        assert sorted(tmp_path.iterdir()) == sorted([scratch, *others])


@pytest.mark.parametrize(
    ("point", "is_below"),
    [
        pytest.param("/c/base.x/root/proc", True, id="something that debootstrap mounted"),
        pytest.param("/c/base.x2/proc", False, id="a mount beside it"),
        pytest.param("/", False, id="the root"),
    ],
)
def test_mounts(point: str, is_below: bool) -> None:
    line = f"63 29 0:5 / {point} rw,relatime - proc proc rw\n"
    assert is_mounted_below(Path("/c/base.x"), line) is is_below
