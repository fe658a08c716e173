"""Sizes of recorded tensors: ints that remember how they are computed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx


class Size(int):
    """The size of a tensor's axis, or what was computed from such sizes.

    It is an int wherever Python needs one, in `range` or a comparison. As an argument of a torch function it becomes a node, so that
    the graph takes other batch sizes and widths.

    Attributes:
        recording: what it belongs to; elsewhere it is a plain int.
        origin: (function, first, second): what computes it, e.g. (Tensor.size, x, 0) or (mul, another size, 2).
        node: that stands for it, once there is one.
    """

    recording: object
    origin: tuple[Callable[..., Any], Any, Any]
    node: fx.Node | None

    def __new__(cls, value: int, recording: object, origin: tuple[Callable[..., Any], Any, Any]) -> Size:
        """Return the size of that value."""
        made = super().__new__(cls, value)
        made.recording, made.origin, made.node = recording, origin, None
        return made

    @classmethod
    def of_axis(cls, tensor: Tensor, axis: int, recording: object) -> Size:
        """Return the size of an axis of a tensor."""
        return cls(int(tensor.shape[axis]), recording, (Tensor.size, tensor, axis))

    def _computed(self, function: Callable[..., Any], first: Any, second: Any) -> Any:
        if not (isinstance(first, int) and isinstance(second, int)):
            return NotImplemented
        return Size(function(int(first), int(second)), self.recording, (function, first, second))

    def __add__(self, other: Any) -> Any:
        return self._computed(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self._computed(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self._computed(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._computed(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self._computed(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._computed(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._computed(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._computed(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return self._computed(operator.mod, self, other)

    def __deepcopy__(self, memo: object) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)
