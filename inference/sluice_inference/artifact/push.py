"""Push: write a folder to an OCI registry as one artifact, its manifest as the config blob."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.fetch import Retry
from sluice_inference.artifact.manifest import (
    MANIFEST,
    SIGNATURE,
    compute_digest,
    make_manifest,
    parse_manifest,
    verify_folder,
)
from sluice_inference.artifact.registry import OCI_MANIFEST, Registry
from sluice_inference.artifact.signature import ANNOTATION, make_signature_tag
from sluice_inference.artifact.uri import parse_oci

ARTIFACT_TYPE = "application/vnd.sluice.model.v1"
CONFIG_TYPE = "application/vnd.sluice.manifest.v1+json"
LAYER_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"


def write_manifest(folder: Path) -> str:
    """Make `manifest.json` for the folder as it is now, and return its digest."""
    data = make_manifest(folder)
    (folder / MANIFEST).write_bytes(data)
    return compute_digest(data)


def make_oci_manifest(manifest: bytes, signature: str = "") -> bytes:
    """The OCI manifest for an artifact manifest: config = the manifest, one layer for each file.

    A signature of the manifest goes into an annotation.
    """
    layers = [
        {
            "mediaType": LAYER_TYPE,
            "digest": f"sha256:{entry.sha256}",
            "size": entry.size,
            "annotations": {TITLE: entry.path},
        }
        for entry in parse_manifest(manifest).files
    ]
    config = {"mediaType": CONFIG_TYPE, "digest": compute_digest(manifest), "size": len(manifest)}
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": layers,
    }
    if signature:
        value["annotations"] = {ANNOTATION: signature}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def push_artifact(folder: Path, uri: str, access: Access, retry: Retry) -> str:
    """Push a folder and return the version's digest. The tag moves last.

    A `manifest.json` that is there is held to the files, else one is made. Raises ArtifactError.
    """
    reference = parse_oci(uri)
    path = folder / MANIFEST
    if not path.is_file():
        write_manifest(folder)
    data = path.read_bytes()
    signed = folder / SIGNATURE
    signature = signed.read_text().strip() if signed.is_file() else ""
    digest = compute_digest(data)
    manifest = verify_folder(folder, digest)
    registry = Registry(reference, access)
    try:
        for entry in manifest.files:
            content = _make_reader(folder / entry.path)
            _push_blob(registry, retry, f"sha256:{entry.sha256}", entry.size, content)
        _push_blob(registry, retry, digest, len(data), lambda: iter([data]))
        if signature:
            signed_manifest = make_oci_manifest(data, signature)
            tag = make_signature_tag(digest)
            retry.call(lambda: registry.push_manifest(signed_manifest, tag))
        retry.call(lambda: registry.push_manifest(make_oci_manifest(data)))
    finally:
        registry.close()
    return digest


def _push_blob(
    registry: Registry,
    retry: Retry,
    digest: str,
    size: int,
    content: Callable[[], Iterator[bytes]],
) -> None:
    if not retry.call(lambda: registry.has_blob(digest)):
        retry.call(lambda: registry.push_blob(digest, size, content))


def _make_reader(path: Path) -> Callable[[], Iterator[bytes]]:
    """A fresh stream at each call: an upload that is tried again starts at the first byte."""

    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece

    return read
