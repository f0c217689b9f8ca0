"""Signatures of manifests: who says that this is a model to be served.

The digest says that an artifact is the one a version names; a signature says whose it is. Ed25519 (RFC 8032)
over the bytes of `manifest.json`, so that any tool can make and check one. A signature is a line
`KEY-ID:BASE64`; several may stand side by side, for a change of keys.
"""

from __future__ import annotations

import base64

from sluice_inference.artifact.errors import ArtifactError
from sluice_inference.artifact.manifest import SIGNATURE
from sluice_inference.errors import LoadError
from sluice_inference.settings.trust import Trust

ANNOTATION = "dev.sluice.signature"
MAX_SIGNATURE_BYTES = 16 * 1024


def check_signature(manifest: bytes, found: str, trust: Trust) -> str:
    """Hold a manifest to the keys that are trusted; returns the ID of the one that signed it.

    `found` is what lies beside the manifest; `MODEL_SIGNATURE` comes first. Nothing signed, or only by keys
    not known here, gives "" where no signature is required. Raises ArtifactError(SignatureInvalid): one that
    is required is missing, or one by a known key is wrong.
    """
    if not trust.keys:
        return ""
    given = _parse(trust.signature or found)
    for key_id, signature in given.items():
        if key_id not in trust.keys:
            continue
        if not _is_right(trust.keys[key_id], signature, manifest):
            raise _refuse(
                f"the signature by {key_id!r} is not one over this manifest; it was made for other "
                "bytes or by another key. Sign the manifest that the version names"
            )
        return key_id
    if trust.is_required:
        by = f"it is signed by {', '.join(given)}, " if given else "it is not signed, "
        raise _refuse(
            f"{by}and a signature by one of {', '.join(sorted(trust.keys))} is required "
            "(REQUIRE_SIGNATURE, SIGNATURE_KEYS)"
        )
    return ""


def make_signature_tag(digest: str) -> str:
    """The tag in a registry under which the signature of the manifest of this digest is kept."""
    return digest.replace(":", "-") + ".sig"


def sign_manifest(manifest: bytes, key_id: str, private_key: bytes) -> str:
    """The line that stands for `private_key` (PEM, PKCS 8, Ed25519). Raises LoadError for another key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LoadError("the key is no private key in PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LoadError(
            "the key is not an Ed25519 key; openssl genpkey -algorithm ed25519 makes one"
        )
    return f"{key_id}:{base64.b64encode(key.sign(manifest)).decode()}"


def _parse(text: str) -> dict[str, bytes]:
    """Signatures by key ID. Raises ArtifactError for what is no signature."""
    signatures: dict[str, bytes] = {}
    for line in text.split():
        key_id, separator, encoded = line.rpartition(":")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except ValueError:  # binascii.Error is one, and so is what letters outside ASCII give
            signature = b""
        if not separator or len(signature) != 64:
            raise _refuse("a signature is not KEY-ID:BASE64 with 64 bytes; make it anew")
        signatures[key_id] = signature
    return signatures


def _is_right(key: bytes, signature: bytes, manifest: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


def _refuse(message: str) -> ArtifactError:
    return ArtifactError("SignatureInvalid", f"{SIGNATURE}: {message}")
