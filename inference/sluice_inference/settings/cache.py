"""The settings of the cache of answers, and of the Redis that replicas share."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_inference.settings.reader import Reader

_MIB = 1024 * 1024
_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """`size_bytes` 0: no cache. `redis_url` "": nothing is shared."""

    size_bytes: int
    ttl_s: int
    redis_url: str
    redis_timeout_s: float


def read_cache(read: Reader) -> CacheSettings:
    url = read.text("REDIS_URL")
    if url and not url.startswith(_SCHEMES):
        # The value is not repeated: it may hold a password.
        read.problems.append(f"REDIS_URL: does not begin with one of {', '.join(_SCHEMES)}")
    return CacheSettings(
        size_bytes=int(read.number("CACHE_SIZE_MB", 0, 0, 1_048_576) * _MIB),
        ttl_s=read.integer("CACHE_TTL_S", 3600, 1, 31_536_000),
        redis_url=url,
        redis_timeout_s=read.number("REDIS_TIMEOUT_MS", 20, 1, 10_000) / 1000,
    )
