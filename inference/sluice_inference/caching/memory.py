"""The process' own tier: least recently used, bounded by bytes. Event loop only; knows no meaning."""

from __future__ import annotations

from collections import OrderedDict

# What an entry costs beside its value: key, node of the ordered dict, object headers (measured).
_OVERHEAD_BYTES = 170


class MemoryCache:
    """Bytes by key. `size` counts what entries really cost, not only their values."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Keep `value`; what was not used for longest goes. One larger than all room is not kept."""
        self.drop(key)
        cost = _count_cost(value)
        if cost > self._limit:
            return
        self._values[key] = value
        self.size += cost
        while self.size > self._limit:
            _, gone = self._values.popitem(last=False)
            self.size -= _count_cost(gone)

    def drop(self, key: bytes) -> None:
        gone = self._values.pop(key, None)
        if gone is not None:
            self.size -= _count_cost(gone)


def _count_cost(value: bytes) -> int:
    return len(value) + _OVERHEAD_BYTES
