"""The Debian packages that the node tier stands on: which are missing, and their installation.

Installs only by the machine's own package manager and only what is missing.
"""

import os
import shutil
import subprocess
from pathlib import Path

from testbed.errors import ClusterError
from testbed.progress import Progress

_PROOFS = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "nftables": "nft",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iproute2": "ip",
    "util-linux": "nsenter",
}
"""Package -> a program or file that is there where the package is, wherever it came from."""

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan_packages() -> list[str]:
    """The packages to install here."""
    return [package for package, proof in _PROOFS.items() if not is_there(proof)]


def ensure(progress: Progress) -> None:
    """Install what is missing.  Needs root and apt-get where something is."""
    missing = plan_packages()
    if not missing:
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"the node tier needs {', '.join(missing)}: as root, run `{command}`")
    with progress.step(f"install {', '.join(missing)}"):
        _run("apt-get", "update", "-q")
        # No recommends: they bring services that start by themselves.
        _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing)
    still = plan_packages()
    if still:
        raise ClusterError(f"installed, yet not found: {', '.join(still)}; run `{command}` by hand")


def is_there(proof: str) -> bool:
    """Whether a program (or, with a slash, a file) is on this machine."""
    if proof.startswith("/"):
        return Path(proof).exists()
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}"
    return shutil.which(proof, path=path) is not None


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
