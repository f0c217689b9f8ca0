"""Untrusted bytes: limits from the header before anything is decoded, and one rule for each mode."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sluice_inference.errors import RequestError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.sniff import read_header


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_image(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def make_png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a bomb, if it were believed."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk


def decode(data: bytes, size: int = 16) -> np.ndarray:
    return decode_image(data, ImagePlan.square(size), max_bytes=100_000, max_pixels=1_000_000)


JPEG = save(make_image(), "JPEG")
PNG = save(make_image(), "PNG")
NOISE = save(
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG"
)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        pytest.param(JPEG, "image/jpeg", id="a JPEG"),
        pytest.param(save(make_image(), "JPEG", progressive=True), "image/jpeg", id="progressive"),
        pytest.param(save(make_image(), "JPEG", comment=b"x" * 999), "image/jpeg", id="comment"),
        pytest.param(PNG, "image/png", id="a PNG"),
    ],
)
def test_the_header_tells_type_and_size(data: bytes, media_type: str) -> None:
    header = read_header(data, max_bytes=100_000, max_pixels=10_000)
    assert (header.media_type, header.width, header.height) == (media_type, 40, 20)


@pytest.mark.parametrize(
    ("data", "status", "code", "word"),
    [
        pytest.param(b"", 422, "IMAGE_CORRUPT", "empty", id="no bytes"),
        pytest.param(b"GIF89a" + b"x" * 50, 415, "UNSUPPORTED_MEDIA_TYPE", "a GIF", id="a GIF"),
        pytest.param(b"RIFFxxxxWEBP", 415, "UNSUPPORTED_MEDIA_TYPE", "WebP", id="a WebP"),
        pytest.param(b"<svg onload=1>", 415, "UNSUPPORTED_MEDIA_TYPE", "an SVG", id="an SVG"),
        pytest.param(b"hello", 415, "UNSUPPORTED_MEDIA_TYPE", "unknown", id="some text"),
        pytest.param(JPEG[:2], 422, "IMAGE_CORRUPT", "frame header", id="two bytes of a JPEG"),
        pytest.param(JPEG[:100], 422, "IMAGE_CORRUPT", "frame header", id="a JPEG's tables only"),
        pytest.param(
            NOISE[: len(NOISE) // 2], 422, "IMAGE_CORRUPT", "ends before", id="half a JPEG"
        ),
        pytest.param(NOISE[:-200], 422, "IMAGE_CORRUPT", "ends before", id="a JPEG cut at the end"),
        pytest.param(PNG[:20], 422, "IMAGE_CORRUPT", "within its header", id="20 bytes of a PNG"),
        pytest.param(PNG[:60], 422, "IMAGE_CORRUPT", "can't be decoded", id="half a PNG"),
        pytest.param(
            PNG[:45] + b"\xff\xff" + PNG[47:], 422, "IMAGE_CORRUPT", "damaged", id="a flipped byte"
        ),
        pytest.param(
            make_png_header(60_000, 60_000), 413, "IMAGE_TOO_LARGE", "60000x60000", id="a bomb"
        ),
        pytest.param(make_png_header(0, 9), 422, "IMAGE_TOO_SMALL", "0x9", id="no width"),
        pytest.param(
            save(make_image(4, 4), "PNG"), 422, "IMAGE_TOO_SMALL", "4x4", id="four pixels wide"
        ),
        pytest.param(b"\xff\xd8" + b"x" * 100_000, 413, "IMAGE_TOO_LARGE", "100002", id="long"),
    ],
)
def test_what_is_no_image_within_limits_is_refused(
    data: bytes, status: int, code: str, word: str
) -> None:
    with pytest.raises(RequestError) as caught:
        decode(data)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert word in caught.value.message
    assert "0x7f" not in caught.value.message  # no object's address


def test_every_prefix_of_an_image_is_answered_without_a_crash() -> None:
    for length in range(0, len(NOISE), 37):
        with pytest.raises(RequestError):
            decode(NOISE[:length])


@pytest.mark.parametrize(
    ("image", "left", "right"),
    [
        pytest.param(make_image(), (255, 0, 0), (0, 0, 255), id="RGB"),
        pytest.param(make_image().convert("P"), (255, 0, 0), (0, 0, 255), id="palette"),
        pytest.param(make_image().convert("L"), (76, 76, 76), (29, 29, 29), id="grey"),
        pytest.param(
            Image.new("RGBA", (40, 20), (9, 9, 9, 0)), (255,) * 3, (255,) * 3, id="transparent"
        ),
        pytest.param(
            Image.fromarray(np.full((20, 40), 0x8001, dtype=np.uint16)),
            (128,) * 3,
            (128,) * 3,
            id="16 bits",
        ),
    ],
)
def test_every_mode_becomes_rgb(
    image: Image.Image, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    pixels = decode(save(image, "PNG"))
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert np.abs(pixels[8, 2].astype(int) - left).max() <= 2
    assert np.abs(pixels[8, 13].astype(int) - right).max() <= 2


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = decode(save(make_image(), "JPEG", exif=exif, quality=95))
    assert pixels[8, 2, 2] > 200  # blue is left now
    assert pixels[8, 13, 0] > 200


def test_an_image_of_the_models_size_is_passed_on_untouched() -> None:
    values = np.random.default_rng(2).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert (decode(save(Image.fromarray(values), "PNG")) == values).all()
