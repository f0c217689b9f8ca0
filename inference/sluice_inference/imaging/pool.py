"""The decode pool: a few threads, so that decoding never holds up the event loop or the model."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from sluice_inference.errors import RequestError
from sluice_inference.imaging.decode import decode_image
from sluice_inference.imaging.fit import Pixels
from sluice_inference.imaging.plan import ImagePlan
from sluice_inference.imaging.quality import Quality, measure_quality
from sluice_inference.imaging.sniff import read_header
from sluice_inference.metrics import Metrics
from sluice_inference.settings.limits import Limits


class DecodePool:
    """Decodes images. Pillow and zlib release the interpreter's lock."""

    def __init__(self, workers: int, limits: Limits, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._limits = limits
        self._seconds = metrics.stage_seconds.labels("decode")

    async def decode(self, data: bytes, plan: ImagePlan) -> Pixels | RequestError:
        """The plan's pixels, or what to tell the client about these bytes."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._decode, data, plan
        )

    async def measure(self, data: bytes, pixels: Pixels) -> Quality:
        """The quality of a picture: the pixels that `decode` made of `data`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._measure, data, pixels
        )

    def _measure(self, data: bytes, pixels: Pixels) -> Quality:
        limits = self._limits
        header = read_header(data, max_bytes=limits.max_image_bytes, max_pixels=limits.max_pixels)
        return measure_quality(pixels, header.width, header.height)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _decode(self, data: bytes, plan: ImagePlan) -> Pixels | RequestError:
        started = time.perf_counter()
        try:
            return decode_image(
                data,
                plan,
                max_bytes=self._limits.max_image_bytes,
                max_pixels=self._limits.max_pixels,
            )
        except RequestError as problem:
            return problem
        finally:
            self._seconds.observe(time.perf_counter() - started)
