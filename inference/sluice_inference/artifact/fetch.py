"""Fetch: bring an artifact into a folder and verify every byte before anyone may use it.

The manifest's digest is checked before the manifest is parsed; each file is hashed while it streams
to disk and takes its name only once size and hash are right; `manifest.json` is written last.
"""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.manifest import (
    MANIFEST,
    SIGNATURE,
    FileEntry,
    check_content,
    check_digest,
    check_manifest,
    hash_file,
    parse_manifest,
)
from sluice_inference.artifact.signature import check_signature
from sluice_inference.artifact.source import Source
from sluice_inference.logs import log
from sluice_inference.settings.trust import Trust

_T = TypeVar("_T")
UNSIGNED = Trust()
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 10.0
_MAKE_ROOM = "make room on the node's disk, or send the pod to another (spec.runtime.nodeSelector)"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: number of files and their bytes."""

    files: int
    bytes: int


class Retry:
    """Tries again what may pass by itself, for at most `bound_s` seconds without progress.

    Progress is what `advance` is told: without it, a large file would have used up its time by
    being read, and the first cut connection would end the fetch.
    """

    def __init__(
        self,
        bound_s: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bound_s = bound_s
        self._clock = clock
        self._wait = wait
        self._since = 0.0
        self._furthest = 0

    def advance(self, reached: int) -> None:
        """The current try has brought `reached` bytes; more than any before it is progress.

        Less is not: a server that cuts every try at the same byte must not be asked for ever.
        """
        if reached > self._furthest:
            self._furthest, self._since = reached, self._clock()

    def call(self, work: Callable[[], _T]) -> _T:
        """`work()`, again while it fails retriably and there is time. Raises its last error."""
        self._since, self._furthest = self._clock(), 0
        wait_s = _FIRST_WAIT_S
        while True:
            furthest = self._furthest
            try:
                return work()
            except ArtifactError as error:
                if self._furthest > furthest:
                    wait_s = _FIRST_WAIT_S
                pause = wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, hides nothing
                if not error.retriable or self._clock() + pause - self._since > self._bound_s:
                    raise
                log("warning", "will try again", reason=error.reason, problem=error.message)
                self._wait(pause)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


def fetch_artifact(
    source: Source, uri: str, digest: str, into: Path, retry: Retry, trust: Trust = UNSIGNED
) -> Fetched:
    """Bring the artifact that `digest` names from `source` into the folder `into`.

    Its manifest must be signed as `trust` says. Files that are there already and right (an init
    container that ran before) are kept. Raises ArtifactError with one of the contract's reasons.
    """
    check_digest(digest)
    data = retry.call(lambda: source.read_manifest(digest))
    check_manifest(data, digest, uri)
    # Asked for only where somebody's signature counts: it costs one more request.
    signature = retry.call(lambda: source.read_signature(digest)) if trust.keys else ""
    if signer := check_signature(data, signature, trust):
        log("info", "the manifest's signature is right", key=signer)
    manifest = parse_manifest(data)
    try:
        into.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, SIGNATURE):
            (into / name).unlink(missing_ok=True)
        wanted = [entry for entry in manifest.files if not _is_there(into, entry)]
        _check_space(into, sum(entry.size for entry in wanted))
        for entry in wanted:
            retry.call(lambda entry=entry: _fetch_file(source, entry, into, retry))  # type: ignore[misc]
        if signature:
            (into / SIGNATURE).write_text(signature)
        part = into / f"{MANIFEST}.part"
        part.write_bytes(data)
        part.replace(into / MANIFEST)
    except OSError as error:
        raise _explain_disk(error, into) from error
    return Fetched(files=len(manifest.files), bytes=manifest.total_bytes)


def _fetch_file(source: Source, entry: FileEntry, into: Path, retry: Retry) -> None:
    target = into / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            for piece in source.read_file(entry):
                size += len(piece)
                if size > entry.size:
                    break  # no more than the manifest promised, whatever the other side sends
                digest.update(piece)
                file.write(piece)
                retry.advance(size)
        check_content(entry, digest.hexdigest(), size)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _is_there(into: Path, entry: FileEntry) -> bool:
    path = into / entry.path
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    return hash_file(path)[0] == entry.sha256


def _check_space(into: Path, needed: int) -> None:
    free = shutil.disk_usage(into).free
    if needed > free:
        raise ArtifactError(
            "NoSpace",
            f"{into}: {needed} bytes are needed, {free} are free; {_MAKE_ROOM}",
        )


def _explain_disk(error: OSError, into: Path) -> ArtifactError:
    """What went wrong with the target folder; sources explain their own errors."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtifactError(
            "NoSpace",
            f"{into}: {error.strerror}; {_MAKE_ROOM}",
        )
    return ArtifactError(
        "Unreachable",
        f"{error.filename or into}: the artifact can't be stored: {error.strerror}; this is the "
        "pod's own volume, not the artifact's source",
    )
