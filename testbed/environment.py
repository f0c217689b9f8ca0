"""The environment that the testbed's processes get from this one: which parts go along.

Looks nothing up and starts nothing.
"""

import os
from collections.abc import Mapping

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without http_proxy and its like, in either case.

    For whatever talks to an instance: its addresses exist in its namespace alone, where no proxy of
    the machine is to be reached.  Downloads keep them.
    """
    return {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}


def complete_path(path: str) -> str:
    """``path`` with the system's folders that it lacks at its end."""
    # An ordinary user's PATH, and with it often that of sudo and su, lacks the folders of ip and nft.
    known = path.split(os.pathsep) if path else []
    missing = [each for each in _SYSTEM_FOLDERS.split(":") if each not in known]
    return os.pathsep.join([*known, *missing])


def extend_path() -> None:
    """Let this process, and all that it starts, find the system's programs.  Safe to run again."""
    os.environ["PATH"] = complete_path(os.environ.get("PATH", ""))
