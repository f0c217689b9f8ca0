"""The command: what it refuses, in one sentence that says what to do."""

import pytest

from testbed import stateroot
from testbed.__main__ import main


@pytest.mark.parametrize(
    ("environment", "arguments", "says"),
    [
        pytest.param(
            {"TESTBED": "docker"},
            ["up"],
            "TESTBED='docker': allowed are local, kind, existing",
            id="an unknown source",
        ),
        pytest.param(
            {"TESTBED": "existing"},
            ["up"],
            "TESTBED=existing needs TESTBED_CONTEXT",
            id="an existing cluster that nobody named",
        ),
        pytest.param(
            {"TESTBED": "kind", "PATH": "/nonexistent"},
            ["up"],
            "no Docker engine answers",
            id="kind without a Docker engine",
        ),
        pytest.param(
            {"TESTBED": "local"},
            ["env", "--name", "nobody"],
            "testbed 'nobody' is not up: run `python -m testbed up --name nobody`",
            id="env of an instance that is not up",
        ),
        pytest.param(
            {"TESTBED": "local"},
            ["exec", "--name", "No"],
            "instance name 'No': allowed: lower-case letters",
            id="a name that cannot be",
        ),
    ],
)
def test_refusals(environment, arguments, says, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    monkeypatch.delenv("TESTBED_CONTEXT", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 1
    assert says in capsys.readouterr().err


def test_down_of_nothing_is_fine(monkeypatch, tmp_path):
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    monkeypatch.setenv("TESTBED", "local")
    assert main(["down", "--name", "never-was"]) == 0
