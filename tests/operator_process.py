"""The operator as a process of its own, with the rights of `config/rbac` and no others.

For integration tests and benchmarks.  It starts, kills and watches the process; what the operator
should do is the tests' business.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.cluster import Cluster
from testbed.environment import without_proxies
from testbed.errors import ClusterError
from tests.builders import inference_service
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "sluice-system"
USER = f"system:serviceaccount:{NAMESPACE}:sluice-operator"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def install(cluster: Cluster) -> None:
    """CRDs, namespace, rights and policies, as `config/` has them; on return they are in force."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "crds"))
    cluster.kubectl("apply", "-f", str(ROOT / "config" / "operator" / "namespace.yaml"))
    for folder in ("rbac", "admission"):
        path = str(ROOT / "config" / folder)
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-n", NAMESPACE, "-k", path)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    nonsense = inference_service("nonsense", NAMESPACE).asks("nonsense").obj()

    def is_in_force() -> bool:
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(nonsense))
        except ClusterError as error:
            return "sluice-requests" in str(error)
        return False

    wait_for(is_in_force, what="the policies are in force")


def write_kubeconfig(cluster: Cluster, path: Path) -> Path:
    """A kubeconfig of the operator's ServiceAccount: the administrator's, with another user."""
    token = cluster.kubectl(
        "create", "token", "sluice-operator", "-n", NAMESPACE, "--duration=24h"
    ).stdout.strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


class OperatorProcess:
    """One operator; `source` is the folder with its package, options are its flags.

    `enter` are the words that lead into the instance's network namespace (`cluster.enter`): there it
    reaches pods and gateways.  Outside, which is without them, it reaches the API server alone.
    """

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        source: Path = ROOT / "operator",
        enter: Sequence[str] = (),
        **options: str | float,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._source = source
        self._enter = list(enter)
        self._options = options
        self._entry: list[str] = ["-m", "sluice"]
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self.log = folder / "operator.log"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def use(self, source: Path) -> None:
        """Run another copy of the code from the next start on."""
        self._source = source

    def enter_by(self, *words: str) -> None:
        """Run another program, one that runs the operator, from the next start on; none: the operator."""
        self._entry = list(words) or ["-m", "sluice"]

    def with_options(self, **options: str | float) -> "OperatorProcess":
        """Another process of the same user and code, with other flags besides."""
        return OperatorProcess(
            self._kubeconfig,
            self._folder,
            self._source,
            self._enter,
            **{**self._options, **options},
        )

    def start(self) -> None:
        """Start; returns at once."""
        assert not self.is_running, "the operator is running already"
        self._runs += 1
        self.log = self._folder / f"operator-{self._runs}.log"
        flags = {
            "kubeconfig": str(self._kubeconfig),
            "namespace": NAMESPACE,
            "probe_host": "127.0.0.1",
            "probe_port": 0,
            "log_format": "json",
            **self._options,
        }
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        # Its own folder for identities: another operator of this machine is no concern of this one.
        environment = {
            key: value
            for key, value in without_proxies(os.environ).items()
            if not key.startswith("SLUICE_")
        } | {"PYTHONPATH": str(self._source), "XDG_RUNTIME_DIR": str(self._folder)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._enter, sys.executable, *self._entry, "run", *arguments],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._folder,
                start_new_session=True,
            )

    def wait_until_working(self, seconds: float = 60.0) -> None:
        """Return once its caches are in step and it has the lease."""

        def is_working() -> bool:
            assert self.is_running, f"the operator ended: {self.tail()}"
            return any(line.get("message") == "working" for line in self.lines())

        wait_for(is_working, what="the operator works", seconds=seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as a kubelet does; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self.is_running:
            self._process.send_signal(number)
        code = self._process.wait(20)
        self._process = None
        return code

    def restart(self) -> None:
        """Stop, start, and wait until it works."""
        self.stop()
        self.start()
        self.wait_until_working()

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # being written, or not the logger's
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])

    @property
    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_mb(self, field: str = "VmRSS") -> float:
        """VmRSS, or VmHWM for its peak, in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise AssertionError(f"{field} is not in /proc/{self.pid}/status")
