"""One answer as bytes and back: for the cache, in this process and in Redis. Never pickle; no I/O.

A value begins with the digest of what it answers, so that a value under the wrong key is seen and not
used. After it, little-endian: a fixed head, the vectors as float32, the words in UTF-8.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from sluice_inference.engine.backend import Output
from sluice_inference.imaging.quality import Quality

# Goes into the keys: another layout never meets an older one's values.
FORMAT = 1
_ABSENT = 0xFFFFFFFF
_HEAD = struct.Struct("<IIIB")  # lengths of embedding, scores (values) and text (bytes); quality?
_QUALITY = struct.Struct("<ddddIIQ")
Vector = NDArray[np.float32]


def encode_output(key: bytes, output: Output) -> bytes:
    text = None if output.text is None else output.text.encode()
    quality = output.quality
    return b"".join(
        (
            key,
            _HEAD.pack(
                _ABSENT if output.embedding is None else output.embedding.size,
                _ABSENT if output.scores is None else output.scores.size,
                _ABSENT if text is None else len(text),
                quality is not None,
            ),
            b"" if quality is None else _encode_quality(quality),
            _encode_vector(output.embedding),
            _encode_vector(output.scores),
            text or b"",
        )
    )


def decode_output(key: bytes, value: bytes) -> Output | None:
    """The answer under `key`; None where the bytes are not one (cut off, another key's, not ours)."""
    if not value.startswith(key):
        return None
    try:
        widths = _HEAD.unpack_from(value, len(key))
        at = len(key) + _HEAD.size
        quality = None
        if widths[3]:
            quality = Quality(*_QUALITY.unpack_from(value, at))
            at += _QUALITY.size
        embedding, at = _decode_vector(value, at, widths[0])
        scores, at = _decode_vector(value, at, widths[1])
        text = None if widths[2] == _ABSENT else value[at : at + widths[2]].decode()
        at += 0 if widths[2] == _ABSENT else widths[2]
    except (struct.error, ValueError):
        return None
    return Output(embedding, scores, text, quality) if at == len(value) else None


def _encode_quality(quality: Quality) -> bytes:
    return _QUALITY.pack(
        quality.sharpness,
        quality.brightness,
        quality.dark,
        quality.bright,
        quality.width,
        quality.height,
        quality.fingerprint,
    )


def _encode_vector(vector: Vector | None) -> bytes:
    return b"" if vector is None else vector.astype("<f4", copy=False).tobytes()


def _decode_vector(value: bytes, at: int, count: int) -> tuple[Vector | None, int]:
    if count == _ABSENT:
        return None, at
    return np.frombuffer(value, dtype="<f4", count=count, offset=at), at + 4 * count
