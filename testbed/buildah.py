"""Calls buildah with a storage of the testbed's own, apart from the machine's images.

Knows how a build reaches the package registries from here; what is built is said in ``base`` and
``images``.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import build
from testbed.errors import ClusterError

_CERTIFICATES = Path("/etc/ssl/certs")
_BUNDLE = _CERTIFICATES / "ca-certificates.crt"


def folder() -> Path:
    """Where images, layers and pip's downloads are kept between builds."""
    return build.cache_root() / "images"


def is_there(image: str) -> bool:
    """Whether the storage holds ``image``."""
    return _call("inspect", "--type", "image", image).returncode == 0


def run(*arguments: str, log: Path | None = None) -> str:
    """Run one buildah command; its standard output, or its last words as a ClusterError.

    ``log`` gets the whole output where it is worth keeping; nothing is returned then.
    """
    done = _call(*arguments, log=log)
    if done.returncode != 0:
        words = log.read_text(errors="replace") if log is not None else done.stderr
        tail = "\n".join(words.splitlines()[-15:])
        where = f", whole log in {log}" if log is not None else ""
        raise ClusterError(f"buildah {arguments[0]} failed{where}:\n{tail}")
    return done.stdout.strip() if log is None else ""


def registry_access() -> list[str]:
    """Flags with which the RUN steps of a build reach the package index as this machine does.

    Mounted for the build only: neither certificates nor addresses become part of an image.
    """
    settings = []
    flags = []
    if _BUNDLE.exists():
        flags += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
        settings.append(f"cert = {_BUNDLE}")
    for variable, key in (
        ("PIP_INDEX_URL", "index-url"),
        ("PIP_EXTRA_INDEX_URL", "extra-index-url"),
    ):
        if os.environ.get(variable):
            settings.append(f"{key} = {os.environ[variable]}")
    configuration = folder() / "pip.conf"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        configuration.unlink()
    configuration.touch(mode=0o600)
    configuration.write_text("\n".join(["[global]", *settings, ""]))
    return [*flags, "--volume", f"{configuration}:/etc/pip.conf:ro"]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold what ``name`` stands for against another build of it; others go on beside it."""
    locks = folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _call(*arguments: str, log: Path | None = None) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("buildah")
    if program is None:
        raise ClusterError("building images needs buildah: as root, run `apt-get install buildah`")
    scratch = folder() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    command = [
        # Its mounts, some of which it forgets, end with the process, however that ends.
        *("unshare", "--mount", "--propagation", "private"),
        program,
        f"--root={folder() / 'storage'}",
        "--runroot=/run/sluice-testbed-images",
        "--storage-driver=overlay",
        *arguments,
    ]
    # TMPDIR holds the caches that RUN steps mount, and layers on their way.
    environment = {**os.environ, "TMPDIR": str(scratch), "BUILDAH_ISOLATION": "chroot"}
    if log is None:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        return subprocess.run(
            command, stdout=output, stderr=output, text=True, check=False, env=environment
        )
