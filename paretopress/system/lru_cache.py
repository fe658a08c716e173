"""An LRU cache bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class LruCache(Generic[V]):
    """Keeps the values that were used last, `limit_bytes` of them at most together; `size_of` tells the bytes of one."""

    def __init__(self, limit_bytes: int, size_of: Callable[[V], int]) -> None:
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._left_bytes, self._size_of = limit_bytes, size_of

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def get(self, key: Hashable) -> V | None:
        """Return a value, None if it is not here any more."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value; one that is larger than all that may be kept is let go at once."""
        if key in self._values:
            self._left_bytes += self._size_of(self._values.pop(key))
        self._left_bytes -= self._size_of(value)
        self._values[key] = value
        while self._left_bytes < 0 and self._values:
            self._left_bytes += self._size_of(self._values.popitem(last=False)[1])
