"""Processes: identity by start time, the record before the program, an end by pid."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import process
from testbed.errors import ClusterError
from testbed.process import Process


@pytest.fixture
def sleeper(tmp_path):
    saved: list[Process] = []
    record = process.start(
        Process(name="sleeper", argv=["sleep", "60"], log=str(tmp_path / "log"), grace=5),
        saved.append,
    )
    assert saved == [record]
    yield record
    process.stop(record, force=True)


def test_a_started_process_runs_under_the_pid_that_was_recorded(sleeper):
    process.wait_until(
        lambda: Path(f"/proc/{sleeper.pid}/cmdline").read_bytes() == b"sleep\x0060\x00",
        seconds=5,
        what="the gate opens",
    )
    assert process.is_running(sleeper)
    assert os.getsid(sleeper.pid) == sleeper.pid


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"started": 1}, id="the pid now belongs to a process started at another time"),
        pytest.param({"boot": "another"}, id="the machine was booted since"),
        pytest.param({"pid": 0}, id="it was never started"),
    ],
)
def test_another_process_is_never_taken_for_ours_nor_signalled(sleeper, change):
    stranger = replace(sleeper, **change)
    assert not process.is_running(stranger)
    process.stop(stranger, force=True)
    assert process.is_running(sleeper)


def test_stopping_ends_it_and_may_be_repeated(sleeper):
    process.stop(sleeper)
    process.stop(sleeper)
    assert process.started_at(sleeper.pid) is None


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path):
    ready = tmp_path / "ready"
    deaf = process.start(
        Process(
            name="deaf",
            argv=["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"],
            log=str(tmp_path / "log"),
            grace=0.2,
        ),
        lambda record: None,
    )
    process.wait_until(ready.exists, seconds=5, what="the trap is set")
    process.stop(deaf)
    assert not process.is_running(deaf)


def test_the_program_does_not_run_where_the_launcher_died_before_saving(tmp_path):
    """The launcher is killed inside `save`: the child must end without ever running its program."""
    mark, pid = tmp_path / "mark", tmp_path / "pid"
    launcher = f"""
import os, signal
from pathlib import Path
from testbed.process import Process, start
def save(record):
    Path({str(pid)!r}).write_text(str(record.pid))
    os.kill(os.getpid(), signal.SIGKILL)
start(Process(name="x", argv=["touch", {str(mark)!r}], log={str(tmp_path / "log")!r}), save)
"""
    root = Path(process.__file__).parent.parent
    subprocess.run([sys.executable, "-c", launcher], cwd=root, check=False)
    child = int(pid.read_text())
    process.wait_until(lambda: process.started_at(child) is None, seconds=5, what="the child ends")
    assert not mark.exists()


def test_waiting_says_what_for(tmp_path):
    with pytest.raises(ClusterError, match=r"the moon: not within 0\.01 s"):
        process.wait_until(lambda: False, seconds=0.01, what="the moon")


def test_a_record_survives_the_state_file():
    record = Process(name="a", argv=["b"], log="c", pid=1, started=2, boot="d", env={"E": "f"})
    assert Process.from_json(record.to_json()) == record


def test_a_process_gets_the_environment_without_proxies_but_with_what_its_record_says(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KEPT", "yes")
    shown = tmp_path / "shown"
    record = process.start(
        Process(
            name="shower",
            argv=["sh", "-c", f"env > {shown}.part; mv {shown}.part {shown}"],
            log=str(tmp_path / "log"),
            env={"ASKED_PROXY": "its own"},
        ),
        lambda record: None,
    )
    process.wait_until(shown.exists, seconds=5, what="the environment is shown")
    process.stop(record)
    lines = shown.read_text().splitlines()
    assert {"KEPT=yes", "ASKED_PROXY=its own"} <= set(lines)
    assert not any(line.startswith("https_proxy=") for line in lines)
