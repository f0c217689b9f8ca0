"""API keys: the file that lists them, and the search for the one that a client shows.

The file holds SHA-256 sums only. That is enough for keys of 128 random bits or more, which nobody
can guess; it would not be for passwords, which is why the file says how to make a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sluice_inference.errors import UnusableFileError
from sluice_inference.guarding.roles import Role
from sluice_inference.settings.guard import MAX_PER_MINUTE

MAX_KEYS = 1000
MAX_KEY_BYTES = 512
_FORM = "NAME:ROLE:SHA256 or NAME:ROLE:SHA256:REQUESTS_PER_MINUTE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COUNT = re.compile(r"[0-9]{1,7}")
_EMPTY = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `per_minute` is its own limit, None for the server's; several keys may share a name."""

    name: str
    role: Role
    digest: bytes
    per_minute: int | None = None


class KeyRing:
    """The keys that are good now."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, shown: bytes) -> Key | None:
        """The key that a client shows, or None.

        Goes through all of them and compares in constant time, so that the time taken tells nothing
        of how near a guess is, nor of which key it was.
        """
        if not shown or len(shown) > MAX_KEY_BYTES:
            return None
        digest, found = hashlib.sha256(shown).digest(), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def parse_keys(text: str) -> KeyRing:
    """The keys of a file's text: a key a line, empty lines and lines with `#` left out.

    Raises UnusableFileError, which names the first lines at fault and never quotes them.
    """
    keys: list[Key] = []
    problems: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            keys.append(_parse_line(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if len({key.digest for key in keys}) < len(keys):
        problems.append("one key is listed twice; list each key once")
    if not keys and not problems:
        problems.append(f"there is no key in it, which would lock everybody out; write {_FORM}")
    if len(keys) > MAX_KEYS:
        problems.append(f"{len(keys)} keys; at most {MAX_KEYS} are taken")
    if problems:
        raise UnusableFileError("; ".join(problems[:5]))  # one slip tends to be in every line
    return KeyRing(keys)


def _parse_line(line: str) -> Key:
    """Raises ValueError. What stands in the line stays out of the message: it may be a bare key."""
    parts = line.split(":")
    if len(parts) not in (3, 4):
        raise ValueError(f"has {len(parts)} parts between colons; write {_FORM}")
    name, role, digest, *limit = parts
    if not _NAME.fullmatch(name):
        raise ValueError("the name has 1 to 63 letters, digits, '.', '_', '@' and '-'")
    if role not in set(Role):
        raise ValueError(f"the role is one of {', '.join(Role)}")
    if not _SHA256.fullmatch(digest.lower()):
        raise ValueError(
            "the third part is the key's SHA-256 as 64 hexadecimal digits, never the key"
        )
    if bytes.fromhex(digest) == _EMPTY:
        raise ValueError("the third part is the SHA-256 of nothing; the key was empty")
    if limit and not (_COUNT.fullmatch(limit[0]) and 1 <= int(limit[0]) <= MAX_PER_MINUTE):
        raise ValueError(f"requests per minute are a whole number from 1 to {MAX_PER_MINUTE}")
    return Key(name, Role(role), bytes.fromhex(digest), int(limit[0]) if limit else None)
