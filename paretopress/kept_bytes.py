"""Bytes that are used again soon, the ones used last, up to a limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class KeptBytes:
    """Keeps the values that were used last, `limit_bytes` of them at most together."""

    def __init__(self, limit_bytes: int) -> None:
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._left_bytes = limit_bytes

    def get(self, key: Hashable) -> bytes | None:
        """Return a value, None if it is not here any more."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: bytes) -> None:
        """Keep a value; one that is larger than all that may be kept is let go at once."""
        self._left_bytes += len(self._values.pop(key, b"")) - len(value)
        self._values[key] = value
        while self._left_bytes < 0:
            self._left_bytes += len(self._values.popitem(last=False)[1])
