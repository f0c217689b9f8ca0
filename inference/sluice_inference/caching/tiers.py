"""Both tiers as one: outputs by key, first from this process' memory, then from Redis. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from sluice_inference.caching.codec import decode_output, encode_output
from sluice_inference.caching.memory import MemoryCache
from sluice_inference.caching.shared import SharedCache
from sluice_inference.engine.backend import Output
from sluice_inference.metrics import Metrics
from sluice_inference.settings.cache import CacheSettings


class Tiers:
    """What all models of a process share: one bound on the memory, one Redis."""

    def __init__(self, limit_bytes: int, shared: SharedCache | None, metrics: Metrics) -> None:
        self._memory = MemoryCache(limit_bytes)
        self._shared = shared
        metrics.cache_bytes.set_function(lambda: self._memory.size)
        metrics.cache_items.set_function(lambda: len(self._memory))

    def start(self) -> None:
        """Begin to look for Redis, where there is to be one. Event loop only."""
        if self._shared is not None:
            self._shared.start()

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    def look(self, key: bytes) -> Output | None:
        """What this process has."""
        value = self._memory.get(key)
        return None if value is None else decode_output(key, value)

    async def fetch(self, keys: Sequence[bytes], *, is_shared: bool) -> dict[bytes, Output]:
        """What Redis has of `keys`, which from now on this process has too."""
        found = {}
        if is_shared and self._shared is not None:
            for key, value in (await self._shared.get_many(keys)).items():
                output = decode_output(key, value)
                if output is not None:
                    self._memory.put(key, value)
                    found[key] = output
        return found

    def keep(self, key: bytes, output: Output, *, is_shared: bool) -> None:
        """Put an output into both tiers; `is_shared` False: into this process' own only."""
        value = encode_output(key, output)
        self._memory.put(key, value)
        if is_shared and self._shared is not None:
            self._shared.put(key, value)


def make_tiers(settings: CacheSettings, metrics: Metrics) -> Tiers | None:
    """The tiers that the settings ask for; None where nothing is to be kept."""
    if not settings.size_bytes:
        return None
    shared = SharedCache(settings, metrics) if settings.redis_url else None
    return Tiers(settings.size_bytes, shared, metrics)
