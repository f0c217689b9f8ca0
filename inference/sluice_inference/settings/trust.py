"""Whose signature a model needs. Parses keys; checks nothing with them (`artifact/signature.py` does)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice_inference.settings.reader import Reader

# What stands before the 32 bytes of an Ed25519 public key in a SubjectPublicKeyInfo (RFC 8410, section 4).
_SPKI = bytes.fromhex("302a300506032b6570032100")
_ARMOUR = re.compile(r"-----(BEGIN|END) PUBLIC KEY-----")


@dataclass(frozen=True, slots=True)
class Trust:
    """Ed25519 public keys, 32 bytes each, by their IDs. `signature` is the one given beside the artifact."""

    keys: Mapping[str, bytes] = field(default_factory=dict)
    is_required: bool = False
    signature: str = ""


def read_trust(read: Reader) -> Trust:
    """SIGNATURE_KEYS and REQUIRE_SIGNATURE, which hold for every model here; MODEL_SIGNATURE of this one."""
    everywhere = Reader(read.env)
    if not read.prefix:  # else the primary model's reader tells what is wrong with them
        everywhere.problems = read.problems
    keys: dict[str, bytes] = {}
    for entry in everywhere.text("SIGNATURE_KEYS").split(","):
        if not entry.strip():
            continue
        name, _, text = entry.partition("=")
        key = _read_key(text)
        if key is None or not re.fullmatch(r"[\w.@-]{1,64}", name.strip()):
            everywhere.tell(
                "SIGNATURE_KEYS",
                f"{name.strip()[:64]!r} is not ID=KEY with an Ed25519 public key, as base64 or PEM "
                "(openssl pkey -pubout)",
            )
            continue
        keys[name.strip()] = key
    is_required = everywhere.flag("REQUIRE_SIGNATURE", default=False)
    if is_required and not keys:
        everywhere.tell("REQUIRE_SIGNATURE", "true needs the keys to check with (SIGNATURE_KEYS)")
    return Trust(keys, is_required, read.text("MODEL_SIGNATURE"))


def _read_key(text: str) -> bytes | None:
    """The 32 bytes of a key, or None: raw or SubjectPublicKeyInfo, in base64, with PEM's lines or without."""
    compact = re.sub(r"\s", "", _ARMOUR.sub("", text))
    try:
        data = base64.b64decode(compact, validate=True)
    except ValueError:  # binascii.Error is one, and so is what letters outside ASCII give
        return None
    if len(data) == len(_SPKI) + 32 and data.startswith(_SPKI):
        return data[len(_SPKI) :]
    return data if len(data) == 32 else None
