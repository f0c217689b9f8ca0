"""The few calls of the OCI distribution protocol that fetch and push need.

Written over a plain HTTP client because the `oras` library sets no time-outs (a silent registry
would hang the init container for ever), waits up to minutes between tries of its own, and does not
honour SSL_CERT_FILE. Knows blobs, manifests and authentication; knows nothing of models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from sluice_inference.artifact.credentials import Access
from sluice_inference.artifact.errors import ArtifactError, make_http_error
from sluice_inference.artifact.uri import OciReference

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class Registry:
    """One repository of one registry. Every error carries the URI and the HTTP status."""

    def __init__(self, reference: OciReference, access: Access) -> None:
        self.reference = reference
        self._access = access
        scheme = "http" if reference.registry in access.plain_http else "https"
        self._base = f"{scheme}://{reference.registry}"
        self._authorization = f"Bearer {access.token}" if access.token else ""
        self._client = make_client({})

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def open_blob(self, digest: str) -> Iterator[httpx.Response]:
        """Stream a blob. Raises ArtifactError(NotFound) when the repository has no such blob."""
        with self._request("GET", self._path("blobs", digest)) as response:
            self._expect(response, 200)
            yield response

    def read_blob(self, digest: str, limit: int) -> bytes:
        """A small blob of at most `limit` bytes."""
        with self.open_blob(digest) as response:
            return read_limited(response, limit, str(self.reference))

    def has_blob(self, digest: str) -> bool:
        with self._request("HEAD", self._path("blobs", digest)) as response:
            if response.status_code == 404:
                return False
            self._expect(response, 200)
            return True

    def read_manifest(self, tag: str = "") -> bytes:
        """The OCI manifest that the reference's tag, or another one, names now."""
        path = self._path("manifests", tag or self.reference.tag)
        with self._request("GET", path, headers={"Accept": OCI_MANIFEST}) as response:
            self._expect(response, 200)
            return read_limited(response, 4 << 20, str(self.reference))

    def push_blob(self, digest: str, size: int, content: Any) -> None:
        """Upload one blob in one piece. `content` is bytes, or a factory of binary files."""
        with self._request("POST", self._path("blobs", "uploads/")) as response:
            self._expect(response, 202)
            location = httpx.URL(self._base).join(response.headers["location"])
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        url = str(location.copy_merge_params({"digest": digest}))
        with self._request("PUT", url, headers=headers, content=content) as response:
            self._expect(response, 201)

    def push_manifest(self, data: bytes, tag: str = "") -> None:
        """Make the reference's tag, or another one, name this OCI manifest."""
        path = self._path("manifests", tag or self.reference.tag)
        headers = {"Content-Type": OCI_MANIFEST}
        with self._request("PUT", path, headers=headers, content=data) as response:
            self._expect(response, 201)

    def _path(self, kind: str, name: str) -> str:
        return f"{self._base}/v2/{self.reference.repository}/{kind}/{name}"

    def _expect(self, response: httpx.Response, status: int) -> None:
        if response.status_code != status:
            raise make_http_error(str(self.reference), response.status_code)

    @contextmanager
    def _request(
        self, method: str, url: str, headers: dict[str, str] | None = None, content: Any = None
    ) -> Iterator[httpx.Response]:
        """Send, and once more with credentials where the registry asks for them."""
        try:
            response = self._send(method, url, headers or {}, content)
            if response.status_code == 401:
                challenge = response.headers.get("www-authenticate", "")
                response.close()
                self._authorization = self._answer(challenge)
                response = self._send(method, url, headers or {}, content)
            try:
                yield response
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise make_transport_error(str(self.reference), error) from error

    def _send(self, method: str, url: str, headers: dict[str, str], content: Any) -> httpx.Response:
        # An upload may be sent on to another host; the registry's credentials are not for it.
        if self._authorization and httpx.URL(url).netloc == httpx.URL(self._base).netloc:
            headers = {**headers, "Authorization": self._authorization}
        body = content() if callable(content) else content
        request = self._client.build_request(method, url, headers=headers, content=body)
        return self._client.send(request, stream=True)

    def _answer(self, challenge: str) -> str:
        """The Authorization header that a WWW-Authenticate challenge wants."""
        kind, _, rest = challenge.partition(" ")
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        basic = self._access.make_basic()
        if kind.lower() == "basic" and basic:
            return basic
        realm = parameters.pop("realm", "")
        if kind.lower() != "bearer" or self._access.token or not realm:
            raise make_http_error(str(self.reference), 401)
        if not realm.startswith("https://") and self._base.startswith("https://"):
            raise ArtifactError(
                "Unauthorized",
                f"{self.reference}: the registry sends credentials to {realm}, without TLS",
            )
        parameters.pop("error", None)
        headers = {"Authorization": basic} if basic else {}
        response = self._client.get(realm, params=parameters, headers=headers)
        if response.status_code != 200:
            raise make_http_error(str(self.reference), response.status_code)
        return f"Bearer {_read_token(response, f'{self.reference}: token service {realm}')}"


def _read_token(response: httpx.Response, where: str) -> str:
    """The token in a token service's answer. Raises ArtifactError: no JSON, or no token in it."""
    try:
        answer = response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "no content type")
        raise ArtifactError(
            "Unreachable",
            f"{where}: answered {kind} where JSON with a token belongs; a proxy or a login page "
            "may stand in between",
            retriable=True,
        ) from error
    found = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(found, str):
        raise ArtifactError(
            "Unauthorized",
            f"{where}: gave no token; does the user of spec.artifact.credentialsSecretRef have "
            "the right to read?",
        )
    return found


def make_client(headers: dict[str, str]) -> httpx.Client:
    """An HTTP client with time-outs. It honours SSL_CERT_FILE and keeps secrets from other hosts.

    Bodies are taken as they are stored: a compressed answer would not be what was hashed.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "sluice-inference", **headers}
    try:
        return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers=headers)
    except OSError as error:
        bundle = os.environ.get("SSL_CERT_FILE", "")
        raise ArtifactError(
            "Unreachable",
            f"SSL_CERT_FILE: certificates can't be read from {bundle!r}: {error.strerror}; name a "
            "file of PEM certificates, or unset it",
        ) from error


def read_limited(response: httpx.Response, limit: int, uri: str) -> bytes:
    """The body, if it has at most `limit` bytes. Raises ArtifactError(ManifestInvalid)."""
    data = bytearray()
    for piece in response.iter_bytes():
        data += piece
        if len(data) > limit:
            raise ArtifactError("ManifestInvalid", f"{uri}: a manifest of more than {limit} bytes")
    return bytes(data)


def make_transport_error(uri: str, error: httpx.HTTPError) -> ArtifactError:
    """Unreachable, with the kind of trouble; a certificate problem isn't worth another try."""
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return ArtifactError(
            "Unreachable", f"{uri}: {text}; SSL_CERT_FILE names the file of a private CA"
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return ArtifactError(
            "Unreachable",
            f"{uri}: {text}; a registry without TLS is named in ARTIFACT_PLAIN_HTTP=host:port",
        )
    return ArtifactError("Unreachable", f"{uri}: {text}", retriable=True)
