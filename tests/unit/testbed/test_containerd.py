"""Whose shim a process is, and that an image is imported once."""

import subprocess
from pathlib import Path

import pytest

from testbed import containerd, stateroot
from testbed.cluster import Cluster
from testbed.errors import ClusterError

SHIM = b"/usr/bin/containerd-shim-runc-v2"
OURS = b"/run/sluice-testbed/a/containerd.sock"


@pytest.mark.parametrize(
    ("words", "is_ours"),
    [
        pytest.param([SHIM, b"-id", b"1", b"-address", OURS], True, id="a shim of this instance"),
        pytest.param([SHIM, b"-address", OURS + b"2"], False, id="a shim of another instance"),
        pytest.param([b"/usr/bin/ctr", b"--address", OURS], False, id="a client of this instance"),
        pytest.param([b""], False, id="a kernel thread"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_shim(words: list[bytes], is_ours: bool) -> None:
    assert containerd.is_shim_of(words, OURS) is is_ours


def test_a_shim_that_ends_by_itself_meanwhile_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    looks = iter([[(ended.pid, [SHIM, b"-address", OURS])], []])
    monkeypatch.setattr(containerd, "_commands", lambda: next(looks))
    monkeypatch.setattr(containerd, "socket_of", lambda name: Path(OURS.decode()))
    monkeypatch.setattr("testbed.stateroot.find", lambda: Path("/nowhere"))
    containerd.kill_shims(Cluster("a"))
    assert next(looks, "all looked at") == "all looked at"


def test_an_image_is_imported_once_and_again_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    cluster = Cluster("unit")
    cluster.prepare()
    code = 1
    calls: list[tuple[str, ...]] = []

    def ctr(cluster: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, code, "", "no space left")

    monkeypatch.setattr(containerd, "ctr", ctr)
    archive = tmp_path / "a.tar"
    with pytest.raises(ClusterError, match=r"image x/y:1 could not be imported: no space left"):
        containerd.import_image(cluster, archive, "x/y:1", origin="a")
    code = 0
    for origin in ("a", "a", "b"):
        containerd.import_image(cluster, archive, "x/y:1", origin=origin)
    assert calls == [("images", "import", str(archive))] * 3
