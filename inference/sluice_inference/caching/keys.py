"""What an answer is filed under: everything that decides it, and nothing else. No I/O.

Two requests meet under one key only where the same server, with the same model, run the same way, would see
the same bytes.
"""

from __future__ import annotations

import hashlib

import msgspec

from sluice_inference.caching.codec import FORMAT
from sluice_inference.engine.backend import ModelFacts
from sluice_inference.predictor import Input, Question
from sluice_inference.settings.model import ModelSettings
from sluice_inference.settings.quality import QualitySettings

KEY_BYTES = 20


class KeyMaker:
    """Makes keys for one loaded model.

    Part of each: the artifact's digest, name and version, backend, device and precision (other kernels,
    other last digits), how a picture becomes pixels, what a picture is refused for, and `server`, the
    revision of whoever computes: another image may decode or compute in another way.
    """

    def __init__(
        self, model: ModelSettings, facts: ModelFacts, quality: QualitySettings, server: str
    ) -> None:
        self.facts = facts
        decided_by = {
            "format": FORMAT,
            "server": server,
            "model": [model.digest, model.name, model.version, facts.architecture],
            "run": [facts.backend, facts.device, model.precision],
            "answer": [facts.tasks, facts.labels, facts.space, facts.dimension],
            "picture": facts.image,
            "refused": quality if quality.enforce else None,
        }
        self._salt = hashlib.blake2b(msgspec.json.encode(decided_by), digest_size=32).digest()

    def make(self, one: Input, *, with_quality: bool) -> bytes:
        """The key of an input, 20 bytes. Hashing is the cost: about 1 ms for each MiB."""
        kind, parts = _take_apart(one)
        made = hashlib.blake2b(kind, key=self._salt, digest_size=KEY_BYTES)
        made.update(b"q" if with_quality and kind != b"text" else b"-")
        for part in parts:
            made.update(len(part).to_bytes(8, "big"))
            made.update(part)
        return made.digest()


def _take_apart(one: Input) -> tuple[bytes, tuple[bytes, ...]]:
    match one:
        case bytes():
            return b"image", (one,)
        case str():
            return b"text", (one.encode(),)
        case Question():
            return b"question", (one.image, one.text.encode(), one.task.encode())
