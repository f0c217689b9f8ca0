"""Where the program comes from, and what is said where it can't be had."""

import io
import os
from pathlib import Path

import pytest

from testbed import prometheus
from testbed.errors import ClusterError
from testbed.progress import Progress


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs that go before the machine's, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_program_is_taken_out_once_and_nothing_is_installed(path: Path) -> None:
    put(path, "apt-get", '[ "$1" = download ] && touch prometheus_1_amd64.deb')
    put(path, "dpkg-deb", 'mkdir -p "$3/usr/bin" && echo it > "$3/usr/bin/prometheus"')
    program = prometheus.ensure(Progress(io.StringIO()))
    assert program.read_text() == "it\n"
    assert [each.name for each in program.parent.iterdir()] == ["prometheus"]
    put(path, "apt-get", "exit 1")
    said = io.StringIO()
    assert prometheus.ensure(Progress(said)) == program
    assert said.getvalue() == ""


@pytest.mark.parametrize(
    ("download", "extract", "says"),
    [
        pytest.param(
            "echo 'E: Unable to locate package' >&2; exit 100",
            "exit 1",
            r"apt-get download --quiet: E: Unable to locate package; .*`apt-get update` as root",
            id="no package lists",
        ),
        pytest.param(
            "touch prometheus_1_amd64.deb",
            "exit 0",
            r"prometheus_1_amd64.deb holds no usr/bin/prometheus",
            id="another package of that name",
        ),
    ],
)
def test_a_program_that_is_not_to_be_had(
    path: Path, download: str, extract: str, says: str
) -> None:
    put(path, "apt-get", download)
    put(path, "dpkg-deb", extract)
    with pytest.raises(ClusterError, match=says):
        prometheus.ensure(Progress(io.StringIO()))
