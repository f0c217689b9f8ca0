"""One long-running process of an instance: start, identity, stop.

A process is known by its pid, its start time and the boot it belongs to, so that nothing is ever
signalled that this testbed did not start.  The pid is on disk before the program runs: the child
waits for a line on its standard input, which the launcher writes only once the record is saved, and
ends by itself if the launcher dies before that.  What to start and in which order is decided
elsewhere.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from testbed.environment import without_proxies
from testbed.errors import ClusterError

_GATE = 'read -r _ || exit 75; exec "$@" </dev/null'


@dataclass(frozen=True)
class Process:
    """What is needed to find, stop and start again one process.

    ``argv`` is the program alone; ``prefix`` is what enters the network namespace.  ``started`` is
    the kernel's start time in clock ticks since boot (field 22 of ``/proc/PID/stat``).
    """

    name: str
    argv: list[str]
    log: str
    pid: int = 0
    started: int = 0
    boot: str = ""
    prefix: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    grace: float = 10.0

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Process":
        """The record from plain data."""
        return cls(**data)


def boot_id() -> str:
    """The running kernel's boot id: pids of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_at(pid: int) -> int | None:
    """Start time of ``pid`` in clock ticks since boot, or None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command may hold spaces and brackets, so fields are counted from the last bracket: state
    # is the first after it, the start time the twentieth.
    fields = stat.rpartition(")")[2].split()
    # A leader is a zombie while its other threads still end, and until the last one has, what they
    # share is open: the port that it listened on, for one.
    is_over = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if is_over else int(fields[19])


def is_running(process: Process) -> bool:
    """Whether exactly this process, not another with its pid, is alive."""
    if process.pid <= 0 or process.boot != boot_id():
        return False
    return started_at(process.pid) == process.started


def start(process: Process, save: Callable[[Process], None], *, fds: Sequence[int] = ()) -> Process:
    """Start ``process`` in its own session; ``save`` gets its record before the program runs.

    ``fds`` stay open in the child under their own numbers.  Output goes to the record's log,
    appended.
    """
    Path(process.log).parent.mkdir(parents=True, exist_ok=True)
    command = [*process.prefix, "sh", "-c", _GATE, process.name, *process.argv]
    gate, opener = os.pipe()
    try:
        with Path(process.log).open("ab") as log:
            environment = {**without_proxies(os.environ), **process.env}
            pid = _spawn(command, environment, gate, log.fileno(), fds)
        started = started_at(pid)
        if started is None:
            raise ClusterError(f"{process.name} ended before it began; see {process.log}")
        record = replace(process, pid=pid, started=started, boot=boot_id())
        save(record)
        os.write(opener, b"go\n")
    finally:
        os.close(gate)
        os.close(opener)
    return record


def _spawn(
    command: list[str], environment: Mapping[str, str], gate: int, log: int, fds: Sequence[int]
) -> int:
    # Not subprocess.Popen: its objects want to outlive the child, and these children outlive us.
    for each in fds:
        os.set_inheritable(each, True)
    try:
        return os.posix_spawnp(
            command[0],
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, gate, 0)]
            + [(os.POSIX_SPAWN_DUP2, log, number) for number in (1, 2)],
            setsid=True,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed") from error
    finally:
        for each in fds:
            os.set_inheritable(each, False)


def stop(process: Process, *, force: bool = False) -> None:
    """End ``process``: SIGTERM, SIGKILL after its grace; ``force`` begins with SIGKILL.

    Does nothing where it no longer runs.  Only the process itself is signalled, never its group:
    what it left behind is the business of whoever started it.
    """
    if is_running(process):
        _signal(process, signal.SIGKILL if force else signal.SIGTERM)
        if not _is_gone_within(process, process.grace):
            _signal(process, signal.SIGKILL)
            if not _is_gone_within(process, 10):
                raise ClusterError(
                    f"{process.name} (pid {process.pid}) survives SIGKILL, so the kernel holds it; "
                    f"look at /proc/{process.pid}/stack"
                )
    _reap(process.pid)


def wait_until(
    is_true: Callable[[], bool], *, seconds: float, what: str, interval: float = 0.05
) -> None:
    """Poll ``is_true`` until it holds; a ClusterError naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:g} s")
        time.sleep(interval)


def _reap(pid: int) -> None:
    # Only what this very run started is its child; the rest is collected by init.
    if pid > 0:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _is_gone_within(process: Process, seconds: float) -> bool:
    try:
        wait_until(
            lambda: not is_running(process), seconds=seconds, what=process.name, interval=0.02
        )
    except ClusterError:
        return False
    return True
