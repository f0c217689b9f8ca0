"""Type and size of an image from its first bytes, so that limits hold before anything is decoded.

Pure functions over bytes; no image library.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sluice_inference.errors import RequestError

MIN_SIDE = 8
# Metadata comes in pieces of 64 KiB, so in a few dozen. To walk over this many takes some 20 ms.
MAX_SEGMENTS = 10_000
ALLOWED = "image/jpeg, image/png"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers, all but DHT (C4), JPG (C8) and DAC (CC).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}
_FOREIGN = {
    b"GIF8": "a GIF",
    b"RIFF": "a WebP",
    b"BM": "a BMP",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Media type, and width and height in pixels, as the file claims."""

    media_type: str
    width: int
    height: int


def read_header(data: bytes, *, max_bytes: int, max_pixels: int) -> ImageHeader:
    """The header of an image within the limits.

    Raises RequestError: 415 UNSUPPORTED_MEDIA_TYPE, 413 IMAGE_TOO_LARGE, 422 IMAGE_CORRUPT or
    IMAGE_TOO_SMALL.
    """
    if not data:
        raise make_corrupt("the image is empty")
    if len(data) > max_bytes:
        raise RequestError(
            413,
            "IMAGE_TOO_LARGE",
            f"the image has {len(data)} bytes; at most {max_bytes} are taken (MAX_IMAGE_MB). "
            "Send it smaller",
        )
    header = _sniff(data)
    if header.width * header.height > max_pixels:
        raise RequestError(
            413,
            "IMAGE_TOO_LARGE",
            f"the image is {header.width}x{header.height}; at most {max_pixels} pixels are taken "
            "(MAX_PIXELS). Scale it down",
        )
    if min(header.width, header.height) < MIN_SIDE:
        raise RequestError(
            422,
            "IMAGE_TOO_SMALL",
            f"the image is {header.width}x{header.height}; each side needs {MIN_SIDE} pixels",
        )
    return header


def make_corrupt(cause: str) -> RequestError:
    """The answer for bytes that are no whole image: cause and next step."""
    return RequestError(
        422,
        "IMAGE_CORRUPT",
        f"{cause}; open the file in a viewer, save it again as JPEG or PNG, and send it whole",
    )


def _sniff(data: bytes) -> ImageHeader:
    if data[:2] == b"\xff\xd8":
        width, height = _read_jpeg(data)
        return ImageHeader("image/jpeg", width, height)
    if data[:8] == _PNG:
        if len(data) < 24 or data[12:16] != b"IHDR":
            raise make_corrupt("the PNG ends within its header")
        width, height = struct.unpack(">II", data[16:24])
        return ImageHeader("image/png", width, height)
    kind = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), "unknown")
    raise RequestError(
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        f"the content is {kind}, by its first bytes; allowed are {ALLOWED}",
    )


def _read_jpeg(data: bytes) -> tuple[int, int]:
    """Width and height from the first start-of-frame segment."""
    position, end = 2, len(data)
    for _ in range(MAX_SEGMENTS):
        if position + 4 > end or data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _NO_LENGTH:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2:
            break
        if marker in FRAMES:
            if position + 9 > end:
                break
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        if marker in (0xD9, 0xDA):  # image data before any frame header
            break
        position += 2 + length
    raise make_corrupt("the JPEG has no frame header; it is cut off or damaged")
