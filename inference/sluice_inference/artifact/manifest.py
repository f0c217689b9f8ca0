"""The artifact manifest: canonical JSON that names every file with size and SHA-256.

Its own SHA-256 is the version's digest. Pure but for reading the folder; knows no transport.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from sluice_inference.artifact.errors import ArtifactError

MANIFEST = "manifest.json"
# Signs the manifest, so it can't be listed in it.
SIGNATURE = "manifest.sig"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_TOTAL_BYTES = 1 << 40
_CHUNK = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Pickles run code when they are loaded. They are refused by name before a byte is fetched.
_REFUSED_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".py", ".so"})


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: relative POSIX path, SHA-256 as 64 hex digits, size in bytes."""

    path: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All files of an artifact, sorted by path, the manifest itself left out."""

    files: tuple[FileEntry, ...]
    schema: int

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)


def make_manifest(folder: Path) -> bytes:
    """The canonical manifest of a folder, as the bytes whose digest names the version.

    Raises ArtifactError(ManifestInvalid) for an empty folder, links, or an unsafe path.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise _invalid(f"{path.relative_to(folder)} is a symbolic link; copy the file instead")
        relative = path.relative_to(folder).as_posix()
        if path.is_dir() or relative in (MANIFEST, SIGNATURE):
            continue
        digest, size = hash_file(path)
        entries.append(FileEntry(path=relative, sha256=digest, size=size))
    entries.sort(key=lambda entry: entry.path)
    manifest = Manifest(files=tuple(entries), schema=1)
    _check(manifest)
    return _encode(manifest)


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`. Call it only with bytes whose digest was verified.

    Raises ArtifactError(ManifestInvalid): not canonical JSON, unsorted, double or unsafe paths,
    more files or bytes than allowed.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise _invalid(f"not a manifest of schema 1: {error}") from error
    _check(manifest)
    if _encode(manifest) != data:
        raise _invalid("not canonical JSON (sorted keys, no white space, UTF-8)")
    return manifest


def compute_digest(data: bytes) -> str:
    """`sha256:` and the SHA-256 of `data` in hex."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_digest(digest: str) -> str:
    """`digest`, if it is one. Raises ArtifactError(ManifestInvalid) otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise _invalid(f"digest {digest!r} is not 'sha256:' and 64 lowercase hex digits")
    return digest


def verify_manifest(data: bytes, digest: str, uri: str) -> Manifest:
    """The manifest in `data`, once its digest is the one the version names.

    Raises ArtifactError: DigestMismatch before anything is parsed, then ManifestInvalid.
    """
    check_manifest(data, digest, uri)
    return parse_manifest(data)


def check_manifest(data: bytes, digest: str, uri: str) -> None:
    """Compare a manifest's bytes with the version's digest. Raises ArtifactError(DigestMismatch)."""
    actual = compute_digest(data)
    if actual != digest:
        raise ArtifactError(
            "DigestMismatch",
            f"{uri}: the manifest there is {actual}, the version names {digest}; the artifact was "
            "changed after it was registered. Push it under a version of its own",
        )


def verify_folder(folder: Path, digest: str) -> Manifest:
    """Check manifest, sizes and hashes of a folder on disk. Raises ArtifactError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError("NotFound", f"{folder}: there is no {MANIFEST}")
    manifest = verify_manifest(path.read_bytes(), digest, str(path))
    for entry in manifest.files:
        check_file(folder / entry.path, entry)
    return manifest


def check_file(path: Path, entry: FileEntry) -> None:
    """Compare one file with its entry. Raises ArtifactError(FileCorrupt) with both values."""
    if not path.is_file():
        raise ArtifactError("FileCorrupt", f"{entry.path}: listed in the manifest but not there")
    digest, size = hash_file(path)
    check_content(entry, digest, size)


def check_content(entry: FileEntry, digest: str, size: int) -> None:
    """Compare what was read with the entry. Raises ArtifactError(FileCorrupt)."""
    if size != entry.size:
        raise ArtifactError(
            "FileCorrupt", f"{entry.path}: {size} bytes, the manifest says {entry.size}"
        )
    if digest != entry.sha256:
        raise ArtifactError(
            "FileCorrupt", f"{entry.path}: sha256 is {digest}, the manifest says {entry.sha256}"
        )


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and size in bytes, of a file read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _encode(manifest: Manifest) -> bytes:
    value: dict[str, Any] = msgspec.to_builtins(manifest)
    return msgspec.json.encode(value, order="deterministic")


def _check(manifest: Manifest) -> None:
    if manifest.schema != 1:
        raise _invalid(f"schema {manifest.schema} is not 1, the only one known")
    if not 1 <= len(manifest.files) <= MAX_FILES:
        raise _invalid(f"{len(manifest.files)} files; allowed are 1 to {MAX_FILES}")
    paths = [entry.path for entry in manifest.files]
    if paths != sorted(set(paths)):
        raise _invalid("files are not sorted by path, or a path is there twice")
    known = set(paths)
    for entry in manifest.files:
        if problem := _explain_path(entry.path):
            raise _invalid(f"path {entry.path!r} {problem}")
        for parent in PurePosixPath(entry.path).parents:
            if str(parent) in known:
                raise _invalid(
                    f"path {entry.path!r} lies in {str(parent)!r}, which is a file too; a name is "
                    "either a file or a folder"
                )
        if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise _invalid(f"{entry.path}: sha256 is not 64 lowercase hex digits")
        if entry.size < 0:
            raise _invalid(f"{entry.path}: a size of {entry.size} bytes")
    if manifest.total_bytes > MAX_TOTAL_BYTES:
        raise _invalid(f"{manifest.total_bytes} bytes in all; allowed are {MAX_TOTAL_BYTES}")


def _explain_path(path: str) -> str:
    """What is wrong with a path, or nothing."""
    pure = PurePosixPath(path)
    if not path or len(path) > 512 or not path.isprintable() or "\\" in path:
        return "is empty, longer than 512 characters, or has characters that are not allowed"
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path == ".":
        return "is not a plain relative path; '..', './', '//' and a leading '/' are refused"
    if pure.parts[0] in (MANIFEST, SIGNATURE) or any(part.endswith(".part") for part in pure.parts):
        return "is a name this tool uses itself"
    if pure.suffix.lower() in _REFUSED_SUFFIXES:
        return "may hold code; only safetensors, ONNX, JSON, text and images are served"
    return ""


def _invalid(message: str) -> ArtifactError:
    return ArtifactError("ManifestInvalid", message)
