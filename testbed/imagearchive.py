"""Images made of a few programs and nothing else, as archives that containerd imports.

For images that need no build: what the programs do, and who runs them, is decided elsewhere.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from testbed.errors import ClusterError

_USER = "65532:65532"


def write(target: Path, files: Mapping[str, Path], reference: str, *, entrypoint: str = "") -> None:
    """Write the image ``reference`` that holds ``files`` (path in it, without "/" -> file here).

    All of them can be run; the same files give the same bytes.  ``entrypoint`` is the program it
    starts where a pod names none.  Programs are found in /usr/local/bin.
    """
    layer = target.with_name(target.name + ".layer")
    with tarfile.open(layer, "w") as tar:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o755
            with path.open("rb") as content:
                tar.addfile(entry, content)
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    config: dict[str, object] = {"User": _USER, "Env": ["PATH=/usr/local/bin"]}
    if entrypoint:
        config["Entrypoint"] = [entrypoint]
    configuration = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        entry = tarfile.TarInfo("layer.tar")
        entry.size, entry.mode = layer.stat().st_size, 0o644
        with layer.open("rb") as content:
            tar.addfile(entry, content)
        for name, data in (("config.json", configuration), ("manifest.json", manifest)):
            text = json.dumps(data).encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text))
    layer.unlink()


def find_libraries(program: Path) -> list[Path]:
    """The shared libraries, and the loader, that ``program`` is started with on this machine."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"ldd {program}: {(done.stderr or done.stdout).strip()}")
    return read_libraries(done.stdout, program)


def read_libraries(output: str, program: Path) -> list[Path]:
    """The paths in what ldd says of ``program``; a ClusterError where one is missing here."""
    missing = re.findall(r"^\s*(\S+) => not found$", output, re.MULTILINE)
    if missing:
        raise ClusterError(f"{program} needs {', '.join(missing)}, which this machine lacks")
    return [Path(each) for each in re.findall(r"(?:^|=>)\s*(/\S+) \(0x", output, re.MULTILINE)]
