"""Artifact URIs: which scheme, which host, which path. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from sluice_inference.artifact.errors import ArtifactError

SCHEMES = ("oci", "https", "pvc")
_OCI = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-f:]+\](?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})"
)


@dataclass(frozen=True, slots=True)
class OciReference:
    """`oci://registry[:port]/repository:tag`, taken apart."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"oci://{self.registry}/{self.repository}:{self.tag}"


def parse_scheme(uri: str) -> str:
    """The URI's scheme. Raises ArtifactError(UnsupportedScheme) for one that is not served."""
    scheme = urlsplit(uri).scheme
    if scheme not in SCHEMES:
        raise ArtifactError(
            "UnsupportedScheme", f"{uri}: scheme {scheme!r} is not one of {', '.join(SCHEMES)}"
        )
    return scheme


def parse_oci(uri: str) -> OciReference:
    """An OCI URI's parts. Raises ArtifactError(UnsupportedScheme) with the form wanted."""
    match = _OCI.fullmatch(uri)
    if match is None:
        raise ArtifactError(
            "UnsupportedScheme", f"{uri}: not of the form oci://registry[:port]/repository:tag"
        )
    return OciReference(**match.groupdict())


def parse_pvc(uri: str) -> str:
    """The path inside the claim of `pvc://claim/path`. Raises ArtifactError."""
    parts = urlsplit(uri)
    path = parts.path.strip("/")
    if not parts.netloc or ".." in path.split("/"):
        raise ArtifactError("UnsupportedScheme", f"{uri}: not of the form pvc://claim/path")
    return path
