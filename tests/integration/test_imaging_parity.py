"""Our cropping against the public CLIP image processor: here because transformers is slow to import."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.plan import Fit, ImagePlan
from tests.photos import make_photo

PLAN = ImagePlan(224, 224, Fit.CROP, 224)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (301, 277), (100, 300), (224, 224), (640, 641)]
)
def test_cropping_is_that_of_the_public_clip_processor(width: int, height: int, kind: str) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    buffer = io.BytesIO()
    make_photo(width, height).save(buffer, kind)
    reference = CLIPImageProcessorPil()(
        Image.open(buffer), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0].transpose(1, 2, 0)
    pixels = decode_image(buffer.getvalue(), PLAN, max_bytes=1 << 24, max_pixels=1 << 24)
    difference = np.abs(pixels.astype(int) - reference.astype(int))
    assert difference.max() <= 1
    assert difference.mean() <= 0.2
