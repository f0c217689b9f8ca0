"""The pause image's archive, and whose shim a process is."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from testbed import containerd
from testbed.cluster import Cluster


def read(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {each.name: tar.extractfile(each) for each in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_archive_holds_the_program_and_says_so() -> None:
    files = read(containerd.make_image_archive(b"program", "registry.testbed:5000/x/pause:1"))
    (manifest,) = json.loads(files["manifest.json"])
    configuration = json.loads(files[manifest["Config"]])
    layer = files[manifest["Layers"][0]]

    assert manifest["RepoTags"] == ["registry.testbed:5000/x/pause:1"]
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert configuration["config"]["Entrypoint"] == ["/pause"]
    assert read(layer) == {"pause": b"program"}


def test_archive_is_the_same_every_time() -> None:
    first, second = (containerd.make_image_archive(b"program", "x/pause:1") for _ in range(2))
    assert first == second


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
