"""Decode one image to the model's pixels. Called in the decode pool, never on the event loop.

JPEG goes through libjpeg-turbo (simplejpeg) where it is an ordinary one; everything odd, and PNG,
through Pillow, which also has the last word on what is damaged.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from sluice_inference.imaging.fit import Pixels, Size, compute_scaled, fit_picture
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.scans import check_scans
from sluice_inference.imaging.sniff import ImageHeader, make_corrupt, read_header

# A file that ends early is refused, not filled up with grey.
ImageFile.LOAD_TRUNCATED_IMAGES = False

# What Pillow's JPEG and PNG readers raise on damaged bytes.
_DAMAGED = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# A JPEG may be decoded at a fraction of its size, but not below this many times what it is scaled to
# afterwards. On a finely textured picture of 1920x1080 that moves grey levels by 0.6 on average; at 1 it
# would be several times as much.
_DETAIL = 2
_STRIP_PIXELS = 1 << 18
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})


def decode_image(data: bytes, plan: ImagePlan, *, max_bytes: int, max_pixels: int) -> Pixels:
    """JPEG or PNG bytes as the plan's pixels, uint8 [height, width, 3] RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit values lose their low byte,
    then the picture is scaled and cut as the plan says.
    Raises RequestError: what `read_header` raises, and 422 IMAGE_CORRUPT.
    """
    header = read_header(data, max_bytes=max_bytes, max_pixels=max_pixels)
    if header.media_type == "image/png":
        _check_chunks(data)
    else:
        check_scans(data)
    try:
        with Image.open(BytesIO(data), formats=["JPEG", "PNG"]) as image:
            if image.size != (header.width, header.height):
                raise make_corrupt("the image contradicts its own header")
            turn = image.getexif().get(_ORIENTATION, 1)
            scaled = compute_scaled(_turn_size(image.size, turn), plan)
            rgb = _decode(image, data, header, _turn_size(scaled, turn))
            if turn in _TURNS:
                rgb = rgb.transpose(_TURNS[turn])
    except _DAMAGED as error:
        cause = "the file ends before the picture does" if _is_truncated(error) else "it is damaged"
        raise make_corrupt(f"the image can't be decoded: {cause}") from error
    return fit_picture(rgb, scaled, plan)


def _decode(image: Image.Image, data: bytes, header: ImageHeader, scaled: Size) -> Image.Image:
    """The picture in RGB as it lies in the file: at least `_DETAIL` times `scaled`, or its own size."""
    if header.media_type != "image/jpeg":
        return _to_rgb(image)
    least = (_DETAIL * scaled[0], _DETAIL * scaled[1])
    if image.mode in ("RGB", "L"):
        try:
            pixels = simplejpeg.decode_jpeg(
                data,
                "RGB",
                fastdct=False,
                fastupsample=False,
                min_width=min(least[0], header.width),
                min_height=min(least[1], header.height),
                min_factor=2,
            )
        except ValueError:
            # Damaged, or only unusual: Pillow tells which.
            pass
        else:
            return Image.fromarray(pixels)
    image.draft("RGB", least)
    return _to_rgb(image)


def _turn_size(size: Size, turn: int) -> Size:
    return (size[1], size[0]) if turn in _SIDEWAYS else size


def _to_rgb(image: Image.Image) -> Image.Image:
    """In strips: a copy of the whole for each step would take four times the picture's memory."""
    if image.mode == "RGB":
        image.load()
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_convert(image.crop(box)), box)
    image.close()  # its pixels, which whoever opened it would hold on to
    return rgb


def _convert(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(wide.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _check_chunks(png: bytes) -> None:
    """Hold every chunk to its own checksum, which Pillow does not do for the pixels' chunks.

    Raises RequestError 422 IMAGE_CORRUPT. What ends too early is left to the decoder.
    """
    position = 8
    while position + 12 <= len(png):
        end = position + 8 + int.from_bytes(png[position : position + 4], "big")
        if end + 4 > len(png):
            return
        if zlib.crc32(memoryview(png)[position + 4 : end]) != int.from_bytes(
            png[end : end + 4], "big"
        ):
            raise make_corrupt("the image can't be decoded: it is damaged")
        position = end + 4


def _is_truncated(error: BaseException) -> bool:
    return "truncated" in str(error).lower() or isinstance(error, EOFError)
