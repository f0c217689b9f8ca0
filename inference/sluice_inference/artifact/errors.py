"""Why an artifact could not be fetched: the contract's reasons, and which of them are final."""

from __future__ import annotations

PERMANENT = frozenset(
    {"DigestMismatch", "SignatureInvalid", "ManifestInvalid", "FileCorrupt", "UnsupportedScheme"}
)
REASONS = PERMANENT | {"NotFound", "Unauthorized", "Unreachable", "NoSpace"}


class ArtifactError(Exception):
    """A fetch or push that failed, with the contract's `reason`.

    `retriable` marks what may pass by itself within seconds (a refused connection, a 503); only
    that is tried again inside one run.
    """

    def __init__(self, reason: str, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retriable = retriable

    @property
    def permanent(self) -> bool:
        """Can a later run not help either?"""
        return self.reason in PERMANENT


def make_http_error(uri: str, status: int) -> ArtifactError:
    """The error for an HTTP status that is not the wanted one."""
    if status in (401, 403):
        return ArtifactError(
            "Unauthorized",
            f"{uri}: HTTP {status}; set spec.artifact.credentialsSecretRef to a Secret with "
            "ARTIFACT_USERNAME and ARTIFACT_PASSWORD, or ARTIFACT_TOKEN, that may read it",
        )
    if status in (404, 410):
        return ArtifactError("NotFound", f"{uri}: HTTP {status}; there is nothing at this address")
    retriable = status in (408, 425, 429) or status >= 500
    return ArtifactError("Unreachable", f"{uri}: HTTP {status}", retriable=retriable)
