"""Who this process is towards the lease: a name that no other living process has.

After a SIGKILL the lease still names the dead process for its whole duration. A successor that can
be sure of that death takes the same name, and with it the lease at once, without the wait:

- In a pod the kubelet starts a container again only after the one before has ended, so the pod's
  uid is such a name.
- Elsewhere the name belongs to a file, and a lock on the file that the operating system drops
  when its holder dies. The name in the file is random, so equal host names do no harm.

A name given by hand is taken as it is: who gives it vouches that it is not used twice at once.
"""

import fcntl
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from sluice.errors import UserError

SLOTS = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """The name, and the locked file it belongs to, which must stay open while the process lives."""

    name: str
    lock: TextIOWrapper | None = None

    def close(self) -> None:
        """Let another process have the name."""
        if self.lock is not None:
            self.lock.close()


def claim_identity(given: str, environ: Mapping[str, str], directory: Path) -> Identity:
    """The name given, else the pod's, else one of the files' in ``directory``."""
    if given:
        return Identity(given)
    pod, uid = environ.get("POD_NAME", ""), environ.get("POD_UID", "")
    if pod and uid:
        return Identity(f"{pod}_{uid}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for slot in range(SLOTS):
        file = (directory / f"identity-{slot}").open("a+", encoding="ascii")
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.seek(0)
            token = file.read().strip()
            if not token:
                token = uuid.uuid4().hex[:12]
                file.write(token)
                file.flush()
            return Identity(f"{socket.gethostname()}_{token}", file)
        file.close()
    raise UserError(
        "NoIdentity",
        f"{SLOTS} operators already run on this host with their identities in {directory}. "
        "Stop one of them, or give each an --identity of its own.",
    )


def default_directory() -> Path:
    """Where the identities of a user's processes are kept."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/sluice-{os.getuid()}"  # noqa: S108 - made with mode 0700, and its content is no secret
    return Path(base) / "sluice-operator"
