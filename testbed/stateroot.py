"""The folder under which all instances of a user keep their records: where, and whether it is safe.

What is read there decides which processes are signalled and which cluster is talked to, so nothing
in it is used before its owner and mode have been looked at.  What a record says is the business of
``cluster``.
"""

import os
import stat
from pathlib import Path
from typing import IO

from testbed.errors import ClusterError

# Root's instances are found again from everywhere: namespaces, control groups and data follow from
# an instance's name alone, and sudo, su and ssh differ in whether they set XDG_RUNTIME_DIR.
_OF_ROOT = Path("/run/sluice-testbed-state")


def path_of(user: int) -> Path:
    """Where the instances of the user with id ``user`` are."""
    if user == 0:
        return _OF_ROOT
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "sluice-testbed"
    return Path("/tmp") / f"sluice-testbed-{user}"  # noqa: S108 - made with mode 0700 and checked


def find() -> Path:
    """This user's folder, which need not exist; a ClusterError where it is not safe to use."""
    path = path_of(os.geteuid())
    _check(path)
    return path


def ensure() -> Path:
    """This user's folder, made for its owner alone where it was missing."""
    path = path_of(os.geteuid())
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass  # something that is no folder: said below
    except OSError as error:
        raise ClusterError(
            f"{path}, where instances are recorded, cannot be made: {error}"
        ) from error
    _check(path)
    return path


def open_lock(path: Path) -> IO[str]:
    """Open the lock file ``path`` to read and append; a link in its place is an OSError."""
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))


def _check(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    wrong = ""
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is not a folder"
    elif found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        wrong = f"has mode {stat.S_IMODE(found.st_mode):o}"
    if wrong:
        raise ClusterError(
            f"{path} {wrong}: it has to be a folder of user {os.geteuid()} with mode 700; "
            "see who made it, remove it, and run this again"
        )
