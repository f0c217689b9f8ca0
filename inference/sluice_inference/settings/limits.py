"""Bounds on what one request, and all of them together, may cost."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_inference.settings.reader import Reader

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one request may cost."""

    max_images: int
    max_texts: int
    max_image_bytes: int
    max_pixels: int
    max_concurrent_requests: int
    max_body_bytes_in_flight: int
    request_timeout_s: float

    @property
    def max_body_bytes(self) -> int:
        """Bytes of one request body: all images in base64 (4/3) and room for the wrapping."""
        return self.max_images * self.max_image_bytes * 4 // 3 + 64 * 1024


def read_limits(read: Reader) -> Limits:
    return Limits(
        max_images=read.integer("MAX_IMAGES", 10, 1, 1000),
        max_texts=read.integer("MAX_TEXTS", 128, 1, 10_000),
        max_image_bytes=int(read.number("MAX_IMAGE_MB", 10, 0.001, 1024) * _MIB),
        max_pixels=read.integer("MAX_PIXELS", 40_000_000, 64, 1_000_000_000),
        max_concurrent_requests=read.integer("MAX_CONCURRENT_REQUESTS", 256, 1, 100_000),
        max_body_bytes_in_flight=int(
            read.number("MAX_BODY_MB_IN_FLIGHT", 512, 0.001, 1_048_576) * _MIB
        ),
        request_timeout_s=read.number("REQUEST_TIMEOUT_MS", 10_000, 1, 600_000) / 1000,
    )
