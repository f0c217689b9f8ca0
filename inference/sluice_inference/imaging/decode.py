"""Decode one image to the model's size. Called in the decode pool, never on the event loop."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.sniff import make_corrupt, read_header

Pixels = NDArray[np.uint8]

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


def decode_image(data: bytes, plan: ImagePlan, *, max_bytes: int, max_pixels: int) -> Pixels:
    """JPEG or PNG bytes as the plan's pixels, uint8 [height, width, 3] RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit values lose their low byte,
    then the whole picture is scaled (bicubic) without cropping: where things are is what counts.
    Raises RequestError: what `read_header` raises, and 422 IMAGE_CORRUPT.
    """
    header = read_header(data, max_bytes=max_bytes, max_pixels=max_pixels)
    try:
        with Image.open(BytesIO(data), formats=["JPEG", "PNG"]) as image:
            if image.size != (header.width, header.height):
                raise make_corrupt("the image contradicts its own header")
            if header.media_type == "image/jpeg":
                # Lets the JPEG decoder skip detail nobody will see; twice the size keeps quality.
                image.draft("RGB", (2 * plan.width, 2 * plan.height))
            upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
    except _DAMAGED as error:
        cause = "the file ends before the picture does" if _is_truncated(error) else "it is damaged"
        raise make_corrupt(f"the image can't be decoded: {cause}") from error
    size = (plan.width, plan.height)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(rgb, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(wide.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _is_truncated(error: BaseException) -> bool:
    return "truncated" in str(error).lower() or isinstance(error, EOFError)
