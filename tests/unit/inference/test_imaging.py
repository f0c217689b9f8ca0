"""Untrusted bytes: limits from the header before anything is decoded, and one rule for each mode."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sluice_inference.errors import RequestError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.fit import compute_scaled
from sluice_inference.imaging.plan import Filter, Fit, ImagePlan
from sluice_inference.imaging.scans import check_scans
from sluice_inference.imaging.sniff import read_header
from tests.photos import make_photo


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


def decode_large(data: bytes, plan: ImagePlan) -> np.ndarray:
    return decode_image(data, plan, max_bytes=1 << 24, max_pixels=1 << 24)


def compare(left: np.ndarray, right: np.ndarray) -> tuple[int, float]:
    """Largest and mean difference, in grey levels."""
    difference = np.abs(left.astype(int) - right.astype(int))
    return int(difference.max()), float(difference.mean())


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


def repeat_scan(jpeg: bytes, number: int, count: int) -> bytes:
    """The JPEG with its scan of this number, and the tables before it, so often."""
    starts = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)]
    after = re.compile(rb"\xff[\xc4\xd9\xda]")
    begin, end = (
        found.start()
        for found in (after.search(jpeg, starts[at] + 2) for at in (number - 1, number))
        if found
    )
    return jpeg[:begin] + jpeg[begin:end] * count + jpeg[end:]


def make_planes(count: int) -> bytes:
    """A baseline JPEG whose one scan is now `count` scans of its first component."""
    start = JPEG.index(b"\xff\xda")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)
    return JPEG[:start] + (scan + JPEG[start + 14 : -2]) * count + b"\xff\xd9"


PROGRESSIVE = save(make_image(), "JPEG", progressive=True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(repeat_scan(PROGRESSIVE, 1, 65), id="progressive"),
        pytest.param(make_planes(65), id="one component at a time"),
        pytest.param(
            repeat_scan(PROGRESSIVE, 1, 65).replace(b"\xff\xda", b"\xff\xff\xff\xda"),
            id="with fill bytes",
        ),
    ],
)
def test_scans_without_number_are_refused_before_they_are_decoded(data: bytes) -> None:
    with pytest.raises(RequestError, match="more than 64 scans") as caught:
        decode(data)
    assert (caught.value.status, caught.value.code) == (422, "IMAGE_CORRUPT")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(repeat_scan(PROGRESSIVE, 1, 55), id="many"),
        pytest.param(
            save(make_image(), "JPEG", progressive=True, comment=b"\xff\xda" * 999),
            id="in a comment",
        ),
        pytest.param(PROGRESSIVE + b"\xff\xda" * 999, id="after the end"),
        pytest.param(JPEG[:-2] + make_planes(999)[2:], id="after the only one of a baseline"),
    ],
)
def test_only_scans_of_the_picture_itself_are_counted(data: bytes) -> None:
    check_scans(data)


def test_segments_without_number_are_refused() -> None:
    with pytest.raises(RequestError, match="more than 10000 segments"):
        check_scans(JPEG[:2] + b"\xff\xfe\x00\x02" * 10_000 + JPEG[2:])
    with pytest.raises(RequestError, match="no frame header"):
        decode(JPEG[:2] + b"\xff\xfe\x00\x02" * 10_000 + JPEG[2:])


def test_a_long_scan_is_read_over_wherever_its_pieces_end() -> None:
    start = PROGRESSIVE.index(b"\xff\xda") + 14
    for length in range((1 << 20) - 3, (1 << 20) + 3):
        filled = PROGRESSIVE[:start] + b"x" * length + repeat_scan(PROGRESSIVE, 1, 65)[start:]
        with pytest.raises(RequestError, match="scans"):
            check_scans(filled)


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


_MEASURE = """
import sys
from pathlib import Path
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.plan import ImagePlan

def read_peak() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

data = sys.stdin.buffer.read()
before = read_peak()
decode_image(data, ImagePlan.square(16), max_bytes=1 << 24, max_pixels=1 << 24)
print(read_peak() - before)
"""


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.new("RGBA", (4000, 4000), (9, 9, 9, 77)), id="transparent"),
        pytest.param(Image.new("LA", (4000, 4000), (9, 77)), id="transparent grey"),
        pytest.param(Image.new("I;16", (4000, 4000), 9), id="16 bits"),
    ],
)
def test_a_picture_is_not_copied_for_each_step_to_rgb(image: Image.Image) -> None:
    """Peak memory of a process of its own: Pillow's pixels are in nobody's books."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE], input=save(image, "PNG"), capture_output=True, check=True
    )
    most = 2 * 4 * 4000 * 4000  # the picture as it was and in RGB, at Pillow's 4 bytes a pixel
    assert int(done.stdout) < 1.15 * most


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 640)])
def test_exif_orientation_is_applied(turn: int, width: int, height: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = save(make_photo(width, height), "JPEG", exif=exif, quality=95)
    plan = ImagePlan(48, 32)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    wanted = upright.resize((48, 32), Image.Resampling.BICUBIC)
    most, mean = compare(decode_large(data, plan), np.asarray(wanted))
    assert most <= 4
    assert mean <= 0.6


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(save(make_photo(300, 200), "JPEG"), id="plain"),
        pytest.param(save(make_photo(300, 200), "JPEG", progressive=True), id="progressive"),
        pytest.param(save(make_photo(300, 200), "JPEG", subsampling=0), id="full colour"),
        pytest.param(save(make_photo(300, 200).convert("L"), "JPEG"), id="grey"),
        pytest.param(save(make_photo(300, 200).convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(save(make_photo(300, 200), "JPEG") + b"trailing", id="bytes after its end"),
    ],
)
def test_a_jpeg_is_what_pillow_makes_of_it(data: bytes) -> None:
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert compare(decode_large(data, ImagePlan(300, 200)), wanted)[0] <= 1


def test_a_large_jpeg_decoded_small_looks_the_same() -> None:
    data = save(make_photo(1920, 1080), "JPEG", quality=90)
    plan = ImagePlan(224, 224, Fit.CROP, 224)
    scaled = Image.open(io.BytesIO(data)).resize((398, 224), Image.Resampling.BICUBIC)
    wanted = np.asarray(scaled.crop((87, 0, 311, 224)))
    most, mean = compare(decode_large(data, plan), wanted)
    assert most <= 6
    assert mean <= 0.7


STRETCH = ImagePlan(16, 8)
CROP = ImagePlan(16, 16, Fit.CROP, 20)
KEEP = ImagePlan(0, 0, Fit.KEEP, 100)


@pytest.mark.parametrize(
    ("plan", "size", "scaled", "shape"),
    [
        pytest.param(STRETCH, (50, 70), (16, 8), (8, 16), id="stretched"),
        pytest.param(CROP, (40, 81), (20, 40), (16, 16), id="upright, cropped"),
        pytest.param(CROP, (81, 40), (40, 20), (16, 16), id="across, cropped"),
        pytest.param(CROP, (10, 10), (20, 20), (16, 16), id="small, scaled up and cropped"),
        pytest.param(CROP, (4000, 8), (10000, 20), (16, 16), id="a strip, of which little is left"),
        pytest.param(KEEP, (60, 100), (60, 100), (100, 60), id="kept as it is"),
        pytest.param(KEEP, (400, 200), (100, 50), (50, 100), id="kept, but no larger than that"),
        pytest.param(KEEP, (4000, 8), (100, 1), (1, 100), id="never without any height"),
        pytest.param(ImagePlan(0, 0, Fit.KEEP), (400, 20), (400, 20), (20, 400), id="no bound"),
    ],
)
def test_a_picture_is_fitted_as_planned(
    plan: ImagePlan, size: tuple[int, int], scaled: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert compute_scaled(size, plan) == scaled
    for kind in ("JPEG", "PNG"):
        assert decode_large(save(make_photo(*size), kind), plan).shape == (*shape, 3)


def test_the_middle_is_what_is_left_of_a_strip() -> None:
    strip = Image.new("RGB", (4000, 8))
    strip.paste((250, 250, 250), (1998, 0, 2002, 8))
    pixels = decode_large(save(strip, "PNG"), CROP)
    assert pixels[:, 7:9].min() > 240
    assert pixels[:, [0, 15]].max() == 0


@pytest.mark.parametrize("kind", list(Filter))
def test_each_filter_is_pillows(kind: Filter) -> None:
    photo = make_photo(60, 40)
    wanted = photo.resize((16, 16), getattr(Image.Resampling, kind.name))
    plan = ImagePlan(16, 16, filter=kind)
    assert compare(decode_large(save(photo, "PNG"), plan), np.asarray(wanted))[0] == 0


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (100, 300), (640, 641)])
def test_cropping_gives_what_scaling_everything_and_cutting_gives(width: int, height: int) -> None:
    photo, plan = make_photo(width, height), ImagePlan(48, 48, Fit.CROP, 64)
    across, down = compute_scaled(photo.size, plan)
    left, top = (across - 48) // 2, (down - 48) // 2
    scaled = photo.resize((across, down), Image.Resampling.BICUBIC)
    wanted = np.asarray(scaled.crop((left, top, left + 48, top + 48)))
    assert compare(decode_large(save(photo, "PNG"), plan), wanted)[0] == 0


def test_an_image_of_the_models_size_is_passed_on_untouched() -> None:
    values = np.random.default_rng(2).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert (decode(save(Image.fromarray(values), "PNG")) == values).all()


def test_a_png_is_held_to_its_checksums() -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    damaged = bytearray(whole.getvalue())
    damaged[len(damaged) // 2] ^= 1
    assert decode_image(
        whole.getvalue(), ImagePlan.square(64), max_bytes=100_000, max_pixels=10_000
    ).shape == (64, 64, 3)
    with pytest.raises(RequestError) as caught:
        decode_image(bytes(damaged), ImagePlan.square(64), max_bytes=100_000, max_pixels=10_000)
    assert caught.value.code == "IMAGE_CORRUPT"
