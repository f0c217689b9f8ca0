"""Every name that Sluice derives, in one place.

Names are pure functions of what they name, so that a lost object is found or made again under the same
name.  This module must not know what the objects look like.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

GROUP = "sluice.dev"
API_VERSION = f"{GROUP}/v1alpha1"

HASH_LENGTH = 10
# What a Service may be called (RFC 1123).
LABEL_LENGTH = 63
# No vowels and no look-alikes: a hash never spells a word and can be read aloud at 3 a.m.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def version_name(model: str, version: str) -> str:
    """The ModelVersion's name; the CRD holds users to the same rule."""
    return f"{model}-{version}"


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_hash(value: object) -> str:
    """Ten characters over the canonical JSON of `value`."""
    number = int.from_bytes(hashlib.sha256(canonical_json(value).encode()).digest(), "big")
    letters = []
    for _ in range(HASH_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return "".join(letters)


def revision_hash(service: str, role: str, inputs: Mapping[str, Any]) -> str:
    """A revision's identity: over service, role and inputs, never over what they render to."""
    return short_hash({"service": service, "role": role, "inputs": inputs})


def child_name(service: str, revision: str) -> str:
    """Deployment, Service, HPA, PDB and ControllerRevision of one revision share it."""
    return f"{service}-{revision}"


def comparer_name(service: str, revision: str) -> str:
    """Deployment and Service of what compares a candidate with stable.

    A long service name is cut: the hash is over the whole of it.
    """
    ending = f"-compare-{revision}"
    return service[: LABEL_LENGTH - len(ending)].rstrip("-") + ending


def checker_name(service: str, revision: str, begun: str) -> str:
    """The Job that checks a candidate, one for each time that its rollout is `begun`."""
    ending = f"-check-{short_hash([service, revision, begun])}"
    return service[: LABEL_LENGTH - len(ending)].rstrip("-") + ending


def front_name(service: str) -> str:
    """The Service that clients use."""
    return service
