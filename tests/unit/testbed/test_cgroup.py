"""What version 2 control groups refuse is said with what to do about it."""

from pathlib import Path

import pytest

from testbed import cgroup
from testbed.errors import ClusterError


def test_controllers_that_cannot_be_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    # A write that fails, as the kernel's EBUSY can't be had outside of control groups.
    (tmp_path / "cgroup.subtree_control").mkdir()
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "_hierarchies", lambda: [tmp_path])
    with pytest.raises(ClusterError, match=r"subtree_control cannot be written.*--cgroupns=host"):
        cgroup.make("unit")


def test_controllers_are_passed_on_from_the_root_and_from_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "sluice-unit"
    group.mkdir()
    for folder in (tmp_path, group):
        (folder / "cgroup.controllers").write_text("cpu memory\n")
    monkeypatch.setattr(cgroup, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "_hierarchies", lambda: [tmp_path])
    cgroup.make("unit")
    for folder in (tmp_path, group):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory"
