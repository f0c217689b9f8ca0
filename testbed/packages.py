"""The Debian packages that a tier stands on: which are missing, and their installation.

Installs only by the machine's own package manager and only what is missing, and lets nothing that
it installs start by itself.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.cluster import Tier
from testbed.environment import complete_path
from testbed.errors import ClusterError
from testbed.progress import Progress

_CONTROL_PLANE = {
    "iproute2": ("ip",),
    "util-linux": ("nsenter", "unshare"),
    # Not for the testbed's own work, but demo and tests ask what runs in it.
    "curl": ("curl",),
}
_NODE = {
    "containerd": ("containerd", "ctr"),
    "runc": ("runc",),
    "containernetworking-plugins": ("/usr/lib/cni/bridge",),
    "nftables": ("nft",),
    "conntrack": ("conntrack",),
    "buildah": ("buildah",),
    "debootstrap": ("debootstrap",),
}
_PROOFS: dict[Tier, dict[str, tuple[str, ...]]] = {
    "control-plane": _CONTROL_PLANE,
    "node": {**_CONTROL_PLANE, **_NODE},
}
"""Package -> programs or files that are there where the package is, wherever they came from."""

_REDIS = {"redis-server": ("redis-server",)}

_LOCK = Path("/run/sluice-testbed-packages.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = """\
#!/bin/sh
# Here only while Sluice's testbed installs packages: their services are not to start.
exit 101
"""


def plan_packages(tier: Tier) -> list[str]:
    """The packages to install here for ``tier``."""
    return _find_missing(_PROOFS[tier])


def ensure(tier: Tier, progress: Progress) -> None:
    """Install what ``tier`` misses.  Needs root and apt-get where something is."""
    _ensure(f"the {tier} tier needs", lambda: plan_packages(tier), progress)


def ensure_redis(progress: Progress) -> None:
    """Install ``redis-server`` where it is missing; tests start it themselves."""
    _ensure("tests of the shared cache need", lambda: _find_missing(_REDIS), progress)


def _ensure(whose: str, plan: Callable[[], list[str]], progress: Progress) -> None:
    missing = plan()
    if not missing:
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"{whose} {', '.join(missing)}: as root, run `{command}`")
    with _only_one():
        missing = plan()  # less, where another run was just here
        if missing:
            with progress.step(f"install {', '.join(missing)}"), services_held():
                _run("apt-get", "update", "-q")
                # No recommends: they bring much that is not needed.
                _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)
    still = plan()
    if still:
        raise ClusterError(f"installed, yet not found: {', '.join(still)}; run `{command}` by hand")


def _find_missing(proofs: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [
        package for package, each in proofs.items() if not all(is_there(proof) for proof in each)
    ]


def is_there(proof: str) -> bool:
    """Whether a program (or, with a slash, a file) is on this machine."""
    if proof.startswith("/"):
        return Path(proof).exists()
    return shutil.which(proof, path=complete_path(os.environ.get("PATH", ""))) is not None


@contextmanager
def services_held() -> Iterator[None]:
    """Let no installed package start its service: Debian's containerd would run beside ours.

    By the policy that Debian asks before it starts a service.  One that is there is the machine's
    own and stays as it is.
    """
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        if _POLICY.read_text() == _POLICY_TEXT:  # a killed run's
            _POLICY.unlink()
    try:
        descriptor = os.open(_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield
        return
    try:
        with os.fdopen(descriptor, "w") as policy:
            policy.write(_POLICY_TEXT)
            # The mode above is less what the umask takes.
            os.fchmod(policy.fileno(), 0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


@contextmanager
def _only_one() -> Iterator[None]:
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise ClusterError(f"{' '.join(command)} failed:\n{tail}")
