"""One instance of the local testbed: its name, folder, addresses, processes.

For tests and benchmarks::

    cluster = Cluster.load()                      # or load("NAME"); ClusterError where it is not up
    cluster.kubeconfig                            # Path; works outside and inside the namespace
    cluster.kubectl("get", "pods", "-A")          # CompletedProcess[str]; ClusterError if it fails
    cluster.kubectl("apply", "-f", "-", input=y)
    cluster.run_inside(["curl", url])             # CompletedProcess[str], inside
    cluster.enter                                 # list[str]: goes before a command of your own
    cluster.environment()                         # os.environ with KUBECONFIG and PATH, no proxies
    cluster.audit_log                             # Path: JSON lines, level Metadata
    cluster.processes                             # {"kube-apiserver": Process, ...}
    cluster.restart("kube-apiserver")             # SIGKILL and start again, waits until it answers
    cluster.kill("kube-apiserver")                # SIGKILL only
    cluster.forward("web", "10.96.0.7", 80)       # int: port on the host's 127.0.0.1
    cluster.gateway_address()                     # (str, int): Envoy's, for clients inside
    cluster.gateway_port()                        # int: the same on the host's 127.0.0.1

For the parts of the testbed itself: ``start`` (a process known to ``down`` and ``doctor``),
``wait_for``, ``remember`` / ``recall`` (plain data kept in the state), ``authority``.

This module keeps the record and enters the namespace.  What a control plane or a node consists of,
and in which order it starts, is said in ``controlplane`` and ``node``.  Every change of the record
is one atomic write under a lock, made before the thing it records exists, so that ``down`` finds
what a killed ``up`` left.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from testbed import environment, netns, process, stateroot
from testbed.certs import Authority
from testbed.errors import ClusterError
from testbed.process import Process

Tier = Literal["control-plane", "node"]
TIERS: tuple[Tier, ...] = ("control-plane", "node")
DEFAULT_NAME = "sluice"
_FORWARD = "forward-"
_GATEWAY = "gateway"
_HERE = Path(__file__).resolve().parent


def name_from(environment: Mapping[str, str]) -> str:
    """The instance that TESTBED_NAME names, ``sluice`` where it is not set."""
    return environment.get("TESTBED_NAME") or DEFAULT_NAME


class Cluster:
    """An instance by name.  Making the object starts and writes nothing."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
            raise ClusterError(
                f"instance name {name!r}: allowed: lower-case letters, digits, '-'; 32 at most"
            )
        self.name = name
        self.folder = stateroot.find() / name
        self.logs = self.folder / "logs"
        self.bin = self.folder / "bin"
        self.pki = self.folder / "pki"
        self.kubeconfig = self.folder / "kubeconfig"
        self.audit_log = self.logs / "audit.log"

    @classmethod
    def load(cls, name: str | None = None) -> "Cluster":
        """The running instance ``name`` (TESTBED_NAME, or ``sluice``)."""
        environment.extend_path()
        cluster = cls(name or name_from(os.environ))
        if cluster.tier is None:
            raise ClusterError(
                f"testbed {cluster.name!r} is not up: "
                f"run `python -m testbed up --name {cluster.name}`"
            )
        return cluster

    # --- the record ---

    @property
    def state(self) -> dict[str, Any]:
        """The record as it is on disk; empty where there is none or it is of another boot."""
        try:
            state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    @property
    def is_stale(self) -> bool:
        """Whether the record is of a boot that is over: its files remain, its processes cannot."""
        return bool(self.state) and self.state.get("boot") != process.boot_id()

    @property
    def tier(self) -> Tier | None:
        """The highest tier that came up whole, or None."""
        return None if self.is_stale else self.state.get("tier")

    @property
    def processes(self) -> dict[str, Process]:
        """Everything started for this instance, in the order of starting, dead or alive."""
        return {k: Process.from_json(v) for k, v in self.state.get("processes", {}).items()}

    def remember(self, key: str, value: object) -> None:
        """Keep plain data under ``key`` in the record."""

        def change(state: dict[str, Any]) -> None:
            state[key] = value

        self._update(change)

    def recall(self, key: str, default: Any = None) -> Any:
        """What was kept under ``key``."""
        return self.state.get(key, default)

    def prepare(self) -> None:
        """Make the folder, for its owner alone, and a first record."""
        stateroot.ensure()
        for folder in (self.folder, self.logs, self.bin, self.pki):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not self.state:
            self.remember("boot", process.boot_id())

    def remove(self) -> None:
        """Remove the folder.  Only after everything in it is stopped."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def starting_or_stopping(self, what: str) -> Iterator[None]:
        """Hold the instance for one ``up`` or ``down``; refuses where another holds it."""
        path = stateroot.ensure() / f"{self.name}.lock"
        with stateroot.open_lock(path) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise ClusterError(
                    f"testbed {self.name!r} is busy: {lock.read().strip() or 'another run'}; "
                    "wait for it, or use another --name"
                ) from error
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                raise ClusterError(f"testbed {self.name!r} was just removed by another run; again")
            lock.truncate(0)
            lock.write(f"`{what}` runs as pid {os.getpid()}")
            lock.flush()
            yield
            lock.truncate(0)
            if not self.folder.exists():
                # Nothing is left to guard.  Whoever opened this file before sees above that it is gone.
                path.unlink()

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        with stateroot.open_lock(self.folder / "state.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state
            change(state)
            part = self.folder / "state.json.part"
            part.write_text(json.dumps(state, indent=1))
            part.replace(self.folder / "state.json")

    # --- addresses and identities ---

    @property
    def netns(self) -> str:
        """Path of the network namespace, for ``nsenter --net=PATH`` (rootless: the holder's)."""
        if netns.is_root():
            return str(netns.path_of(self.name))
        return f"/proc/{self.processes['namespace'].pid}/ns/net"

    @property
    def enter(self) -> list[str]:
        """The words that, before a command, run it in the network namespace with its pid kept."""
        if netns.is_root():
            return netns.enter_named(self.name)
        return netns.enter_held(self.processes["namespace"].pid)

    @property
    def api_port(self) -> int:
        """The API server's port: the same inside, and on the host's 127.0.0.1."""
        return int(self.state["forwards"]["api"]["port"])

    @property
    def server(self) -> str:
        """The API server's URL for processes and pods inside the namespace."""
        return f"https://{netns.BRIDGE_ADDRESS}:{self.api_port}"

    @property
    def authority(self) -> Authority:
        """The instance's certificate authority, to issue more certificates from."""
        return Authority(self.pki)

    def environment(self) -> dict[str, str]:
        """This process's environment with the instance's KUBECONFIG, TESTBED_NAME and PATH.

        Without proxies: they are not for an instance's addresses.
        """
        return {
            **environment.without_proxies(os.environ),
            "KUBECONFIG": str(self.kubeconfig),
            "TESTBED_NAME": self.name,
            "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    # --- commands ---

    def run_inside(
        self,
        command: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - the word of subprocess.run
        seconds: float = 60,
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``command`` in the network namespace, at most ``seconds``; its output as text."""
        return subprocess.run(
            [*self.enter, *command],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=self.environment(),
        )

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - the word of subprocess.run
        seconds: float = 60,
    ) -> "subprocess.CompletedProcess[str]":
        """kubectl as administrator; a ClusterError with its words where it fails."""
        done = subprocess.run(
            [str(self.bin / "kubectl"), *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env=self.environment(),
        )
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def wait_for(self, url: str, *, what: str, seconds: float = 60) -> None:
        """Wait until ``url`` (http, https, tcp) answers inside the namespace.

        ``what`` is the process that answers: its end ends the waiting, and its log is named.
        """
        record = self.processes.get(what)
        # -I -S: neither site packages nor the environment matter to it, and it starts in half the
        # time.
        command = [sys.executable, "-I", "-S", str(_HERE / "probe.py"), url]
        command += ["--seconds", str(seconds)]
        if record is not None:
            command += ["--pid", str(record.pid)]
        done = self.run_inside(command, seconds=seconds + 30)
        if done.returncode != 0:
            log = f"; its log: {record.log}" if record is not None else ""
            raise ClusterError(f"{what} at {url}: {done.stderr.strip()}{log}")

    # --- processes ---

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        inside: bool = True,
        env: Mapping[str, str] | None = None,
        ready: str = "",
        seconds: float = 60,
        grace: float = 10,
    ) -> Process:
        """Start process ``name``; nothing where it runs already.

        ``inside`` the network namespace or not; ``ready`` is a URL that answers once it works,
        waited for at most ``seconds``; ``grace`` is the time in seconds between SIGTERM and SIGKILL
        at ``down``.
        """
        known = self.processes.get(name)
        if known is None or not process.is_running(known):
            known = process.start(
                Process(
                    name=name,
                    argv=list(argv),
                    log=str(self.logs / f"{name}.log"),
                    prefix=self.enter if inside else [],
                    env=dict(env or {}),
                    grace=grace,
                ),
                self._save,
            )
            self.remember_ready(name, ready)
        if ready:
            self.wait_for(ready, what=name, seconds=seconds)
        return known

    def remember_ready(self, name: str, url: str) -> None:
        """Keep the URL at which process ``name`` shows that it works."""
        self._update(lambda state: state.setdefault("ready", {}).update({name: url}))

    def kill(self, name: str) -> None:
        """SIGKILL process ``name``."""
        process.stop(self._process(name), force=True)

    def restart(self, name: str) -> Process:
        """SIGKILL process ``name`` and start it as before; returns once it answers again."""
        known = self._process(name)
        process.stop(known, force=True)
        if name.startswith(_FORWARD):
            return self._forward(name.removeprefix(_FORWARD))
        process.start(known, self._save)
        ready = self.state.get("ready", {}).get(name)
        if ready:
            self.wait_for(ready, what=name)
        return self._process(name)

    def stop(self, name: str) -> None:
        """SIGTERM process ``name``, SIGKILL after its grace, and forget it."""
        process.stop(self._process(name))
        self._update(lambda state: state["processes"].pop(name, None))

    def _process(self, name: str) -> Process:
        try:
            return self.processes[name]
        except KeyError as error:
            raise ClusterError(
                f"testbed {self.name!r} has no process {name!r}; it has {', '.join(self.processes)}"
            ) from error

    def _save(self, record: Process) -> None:
        self._update(
            lambda state: state.setdefault("processes", {}).update({record.name: record.to_json()})
        )

    # --- ports on the host ---

    def forward(self, name: str, host: str, port: int) -> int:
        """Offer ``host:port`` of the namespace on the host's 127.0.0.1; returns the port there.

        Asked again for the same ``name`` and target it returns the same port.
        """
        target = f"{host}:{port}"
        known = self.state.get("forwards", {}).get(name)
        if known is not None and known["to"] != target:
            self.stop(_FORWARD + name)
            known = None
        wanted = {"to": target, "port": known["port"] if known else 0}
        self._update(lambda state: state.setdefault("forwards", {}).update({name: wanted}))
        self._forward(name)
        return int(self.state["forwards"][name]["port"])

    def gateway_address(self) -> tuple[str, int]:
        """Where the gateway answers inside the namespace, as the last ``up`` found it."""
        host, _, port = self._gateway()["to"].rpartition(":")
        return host, int(port)

    def gateway_port(self) -> int:
        """The port of the host's 127.0.0.1 that leads to the gateway."""
        return int(self._gateway()["port"])

    def offer_gateway(self, host: str, port: int) -> None:
        """Offer the gateway at ``host:port`` of the namespace on the host; ``up`` does this."""
        self.forward(_GATEWAY, host, port)

    def _gateway(self) -> dict[str, Any]:
        known: dict[str, Any] | None = self.state.get("forwards", {}).get(_GATEWAY)
        if known is None:
            raise ClusterError(
                f"testbed {self.name!r} has no gateway: "
                f"run `python -m testbed up --tier node --name {self.name}` as root"
            )
        return known

    def _forward(self, name: str) -> Process:
        wanted = self.state["forwards"][name]
        known = self.processes.get(_FORWARD + name)
        if known is not None and process.is_running(known):
            return known
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", wanted["port"]))
            except OSError as error:
                raise ClusterError(
                    f"port {wanted['port']} of 127.0.0.1 is taken by another program; "
                    f"`python -m testbed down --name {self.name}` and `up` choose a new one"
                ) from error
            listener.listen(4096)
            port = listener.getsockname()[1]
            target = wanted["to"] if not wanted["to"].endswith(":0") else f"127.0.0.1:{port}"
            self._update(
                lambda state: state["forwards"].update({name: {"to": wanted["to"], "port": port}})
            )
            descriptor = listener.fileno()
            return process.start(
                Process(
                    name=_FORWARD + name,
                    argv=[
                        *(sys.executable, "-I", "-S", str(_HERE / "forwarder.py")),
                        *("--fd", str(descriptor), "--to", target),
                    ],
                    log=str(self.logs / f"{_FORWARD}{name}.log"),
                    prefix=self.enter,
                ),
                self._save,
                fds=[descriptor],
            )
