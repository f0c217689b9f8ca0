"""Where an artifact's bytes come from: one small interface, one class for each scheme.

A source streams bytes and maps its transport's errors; it verifies nothing. `fetch.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.errors import ArtifactError, make_http_error
from sluice_inference.artifact.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileEntry,
)
from sluice_inference.artifact.registry import (
    Registry,
    make_client,
    make_transport_error,
    read_limited,
)
from sluice_inference.artifact.signature import (
    ANNOTATION,
    MAX_SIGNATURE_BYTES,
    make_signature_tag,
)
from sluice_inference.artifact.uri import OciReference, parse_oci, parse_pvc, parse_scheme

_CHUNK = 1 << 20


class Source(Protocol):
    """An artifact at its address. Its methods raise ArtifactError."""

    def read_manifest(self, digest: str) -> bytes:
        """The manifest's bytes, unverified. `digest` is the one wanted."""

    def read_signature(self, digest: str) -> str:
        """What signs the manifest of this digest, unverified; empty where nothing does."""

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        """One file's bytes, unverified, in pieces."""

    def close(self) -> None:
        """Give connections back."""


def make_source(uri: str, access: Access, mount: Path) -> Source:
    """The source for a URI; `mount` is where a pvc:// claim is mounted."""
    match parse_scheme(uri):
        case "oci":
            return OciSource(parse_oci(uri), access)
        case "https":
            return HttpsSource(uri, access)
        case _:
            return FolderSource(mount / parse_pvc(uri), uri)


class OciSource:
    """An OCI registry. Everything is read by content: the tag only explains what is missing."""

    def __init__(self, reference: OciReference, access: Access) -> None:
        self.reference = reference
        self._registry = Registry(reference, access)

    def read_manifest(self, digest: str) -> bytes:
        try:
            return self._registry.read_blob(digest, MAX_MANIFEST_BYTES)
        except ArtifactError as error:
            if error.reason != "NotFound":
                raise
        # The blob is not there. What does the tag name, then?
        try:
            config = json.loads(self._registry.read_manifest())["config"]["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                "ManifestInvalid", f"{self.reference}: the tag does not name a model artifact"
            ) from error
        if config != digest:
            raise ArtifactError(
                "DigestMismatch",
                f"{self.reference}: the tag holds {config}, the version names {digest}; the tag "
                "was moved after the version was registered. Push under a tag of its own",
            )
        raise ArtifactError("NotFound", f"{self.reference}: the registry lost blob {digest}")

    def read_signature(self, digest: str) -> str:
        """The annotation that `push` left under a tag of the digest's own, which no later version moves."""
        try:
            manifest = self._registry.read_manifest(make_signature_tag(digest))
            annotations = json.loads(manifest).get("annotations") or {}
            return str(annotations.get(ANNOTATION, ""))[:MAX_SIGNATURE_BYTES]
        except (ValueError, AttributeError):
            return ""
        except ArtifactError as error:
            if error.reason == "NotFound":
                return ""
            raise

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        with self._registry.open_blob(f"sha256:{entry.sha256}") as response:
            yield from response.iter_bytes(_CHUNK)

    def close(self) -> None:
        self._registry.close()


class HttpsSource:
    """A folder under an https:// address.

    Not through fsspec: its http file system says "file not found" for a refused connection and for
    a bad certificate, so nobody could tell what to try again and what to repair.
    """

    def __init__(self, uri: str, access: Access) -> None:
        self._base = uri.rstrip("/")
        headers = {}
        if authorization := access.make_authorization():
            headers["Authorization"] = authorization
        self._client = make_client(headers)

    def read_manifest(self, digest: str) -> bytes:
        with self._open(f"{self._base}/{MANIFEST}") as response:
            return read_limited(response, MAX_MANIFEST_BYTES, str(response.url))

    def read_signature(self, digest: str) -> str:
        try:
            with self._open(f"{self._base}/{SIGNATURE}") as response:
                data = read_limited(response, MAX_SIGNATURE_BYTES, str(response.url))
        except ArtifactError as error:
            if error.reason == "NotFound":
                return ""
            raise
        return data.decode("ascii", errors="replace")

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        with self._open(f"{self._base}/{quote(entry.path)}") as response:
            yield from response.iter_bytes(_CHUNK)

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _open(self, address: str) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", address) as response:
                if response.status_code != 200:
                    raise make_http_error(address, response.status_code)
                yield response
        except httpx.HTTPError as error:
            raise make_transport_error(address, error) from error


class FolderSource:
    """A folder on a mounted claim."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._uri = uri

    def read_manifest(self, digest: str) -> bytes:
        with self._open(MANIFEST) as file:
            data: bytes = file.read(MAX_MANIFEST_BYTES + 1)
        return data

    def read_signature(self, digest: str) -> str:
        try:
            with self._open(SIGNATURE) as file:
                data: bytes = file.read(MAX_SIGNATURE_BYTES)
        except ArtifactError as error:
            if error.reason == "NotFound":
                return ""
            raise
        return data.decode("ascii", errors="replace")

    def read_file(self, entry: FileEntry) -> Iterator[bytes]:
        with self._open(entry.path) as file:
            while piece := file.read(_CHUNK):
                yield piece

    def close(self) -> None:
        """Nothing is held open."""

    @contextmanager
    def _open(self, path: str) -> Iterator[Any]:
        """The open file. Errors while it is read are the claim's too, not the target volume's."""
        try:
            with (self._folder / path).open("rb") as file:
                yield file
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ArtifactError("NotFound", f"{self._uri}: there is no {path}") from error
        except PermissionError as error:
            raise ArtifactError(
                "Unauthorized", f"{self._uri}: {path} can't be read by user 65532"
            ) from error
        except OSError as error:
            raise ArtifactError(
                "Unreachable",
                f"{self._uri}: {path} can't be read: {error.strerror}; is the claim's storage up?",
                retriable=True,
            ) from error
