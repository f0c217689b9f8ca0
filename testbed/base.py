"""The image that the project's images stand on where no public registry is to be had.

Debian with Python, made once by debootstrap from the archive that this machine uses, and kept in
the image storage.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from testbed import buildah, scratch
from testbed.errors import ClusterError
from testbed.progress import Progress

_SUITE = "bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_LEFT_OUT = (
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "dev/*",
    "tmp/*",
    "etc/resolv.conf",
    "etc/hostname",
)
"""Not needed in a container, or of this machine and no other's business."""
_SOURCES = "etc/apt/sources.list"


def reference() -> str:
    """The base image's name in the storage; its tag follows from what it is made of."""
    recipe = [_SUITE, *_PACKAGES, *_LEFT_OUT, os.uname().machine]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    return f"localhost/sluice-base:{key}"


def ensure(progress: Progress) -> str:
    """Make the base image where it is missing; its reference."""
    image = reference()
    with buildah.locked("base"):
        if not buildah.is_there(image):
            with progress.step(f"base image: Debian {_SUITE} with Python (once)"):
                _make(image)
    return image


def _make(image: str) -> None:
    with scratch.make_scratch(buildah.folder(), "base") as folder:
        root = folder / "root"
        _bootstrap(root)
        _strip(root)
        _commit(root, image)


def _bootstrap(root: Path) -> None:
    log = buildah.folder() / "logs" / "debootstrap.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # What it mounts in there ends with it, however it ends.
    command = ["unshare", "--mount", "--propagation", "private"]
    command += ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    command += [_SUITE, str(root), *find_mirror(_source_files())]
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise ClusterError(f"debootstrap failed, whole log in {log}:\n{tail}")


def _source_files() -> list[Path]:
    return [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]


def find_mirror(sources: Iterable[Path]) -> list[str]:
    """The Debian archive that apt's ``sources`` name, as debootstrap's argument.

    Nothing where they name none: debootstrap then takes its own.
    """
    for path in sources:
        if path.is_file():
            found = re.search(
                r"^(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?(?=\s|$)",
                path.read_text(),
                re.MULTILINE,
            )
            if found:
                return [found[1]]
    return []


def _strip(root: Path) -> None:
    for pattern in _LEFT_OUT:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / _SOURCES).write_text("")


def _commit(root: Path, image: str) -> None:
    container = buildah.run("from", "scratch")
    try:
        buildah.run("add", "--quiet", container, f"{root}/.", "/")
        buildah.run(
            "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container
        )
        buildah.run("commit", "--quiet", "--timestamp", "0", container, image)
    finally:
        buildah.run("rm", container)
