"""What an image archive holds, and which libraries a program is started with."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from testbed import imagearchive
from testbed.errors import ClusterError


def read(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {each.name: tar.extractfile(each) for each in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"program")
    return path


def test_archive_holds_the_programs_and_says_so(tmp_path: Path, program: Path) -> None:
    target = tmp_path / "image.tar"
    members = {"usr/local/bin/it": program, "pause": program}
    imagearchive.write(target, members, "registry.testbed:5000/x/it:1", entrypoint="/pause")
    files = read(target.read_bytes())
    (manifest,) = json.loads(files["manifest.json"])
    configuration = json.loads(files[manifest["Config"]])
    layer = files[manifest["Layers"][0]]

    assert manifest["RepoTags"] == ["registry.testbed:5000/x/it:1"]
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert configuration["config"]["Entrypoint"] == ["/pause"]
    assert configuration["config"]["User"] == "65532:65532"
    assert read(layer) == {"usr/local/bin/it": b"program", "pause": b"program"}
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert {each.mode for each in tar.getmembers()} == {0o755}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.tar", "program"]


def test_archive_is_the_same_every_time(tmp_path: Path, program: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    imagearchive.write(first, {"pause": program}, "x/pause:1")
    program.touch()
    imagearchive.write(second, {"pause": program}, "x/pause:1")
    assert first.read_bytes() == second.read_bytes()


LDD = """\
\tlinux-vdso.so.1 (0x00007f1c63b8e000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1c63a9d000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1c5ca14000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1c63b90000)
"""


def test_libraries_and_the_loader_are_read_from_ldd() -> None:
    folder = Path("/lib/x86_64-linux-gnu")
    assert imagearchive.read_libraries(LDD, Path("envoy")) == [
        folder / "libm.so.6",
        folder / "libc.so.6",
        Path("/lib64/ld-linux-x86-64.so.2"),
    ]


def test_a_library_that_is_not_here_is_named() -> None:
    with pytest.raises(ClusterError, match=r"envoy needs libx.so.1, which this machine lacks"):
        imagearchive.read_libraries(LDD + "\tlibx.so.1 => not found\n", Path("envoy"))


def test_libraries_of_a_real_program_are_files() -> None:
    found = imagearchive.find_libraries(Path(sys.executable).resolve())
    assert any(each.name.startswith("libc.so") for each in found)
    assert all(each.is_file() for each in found)


def test_no_program_is_said(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(ClusterError, match=r"ldd .*text"):
        imagearchive.find_libraries(tmp_path / "text")
