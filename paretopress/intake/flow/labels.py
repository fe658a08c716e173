"""Labels of channels, in classes that grow together: a disjoint-set forest over arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# the label of what belongs to no channel
NONE = 0
Index = npt.NDArray[np.int64]


class Labels:
    """Labels 1, 2, ... in classes; channels of one class are removed together, and none of a class that is pinned.

    Source: Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm", for joining many pairs at a time.
    """

    def __init__(self) -> None:
        self._parent: Index = np.zeros(1, np.int64)
        self._reason: Index = np.zeros(1, np.int64)
        self._reasons = [""]

    def fresh(self, count: int) -> Tensor:
        """Return new labels (count,) int64, each a class of its own."""
        first = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(first, first + count)])
        self._reason = np.concatenate([self._reason, np.zeros(count, np.int64)])
        return torch.arange(first, first + count)

    def roots(self, labels: Tensor) -> Tensor:
        """Return the labels that stand for the classes of labels, of their shape."""
        return torch.from_numpy(self._roots(labels.numpy()))

    def join(self, first: Tensor, second: Tensor) -> None:
        """Let each label of one tensor be in the class of its counterpart in another of that shape; what meets no channel is pinned."""
        pairs = torch.stack([part.flatten() for part in compact(first, second)]).numpy()
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        alone = (pairs == NONE).any(axis=0)
        self._pin(pairs[:, alone].max(axis=0), "its output is combined with something that keeps all its channels")
        one, other = pairs[:, ~alone]
        while len(one):
            one, other = self._roots(one), self._roots(other)
            apart = one != other
            one, other = one[apart], other[apart]
            np.minimum.at(self._parent, np.maximum(one, other), np.minimum(one, other))

    def pin(self, labels: Tensor, reason: str) -> None:
        """Pin the classes of all labels of a tensor; a label keeps the first reason that it got."""
        self._pin(np.unique(labels.numpy()), reason)

    def reasons(self) -> dict[int, str]:
        """Return class -> why it stays, for those that are pinned."""
        pinned = np.flatnonzero(self._reason)
        return {int(root): self._reasons[self._reason[label]] for root, label in zip(self._roots(pinned)[::-1], pinned[::-1], strict=True)}

    def _pin(self, labels: Index, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)
        new = labels[(labels != NONE) & (self._reason[labels] == 0)]
        self._reason[new] = self._reasons.index(reason)

    def _roots(self, labels: Index) -> Index:
        found = self._parent[labels]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                break
            found = further
        self._parent[labels] = found
        return found


def compact(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors of a shape without the axes along which both merely repeat."""
    for axis in range(first.dim()):
        if first.shape[axis] > 1 and first.stride(axis) == 0 and second.stride(axis) == 0:
            first, second = first.narrow(axis, 0, 1), second.narrow(axis, 0, 1)
    return first, second


def shrunk(labels: Tensor) -> Tensor:
    """Return labels with the axes along which they are the same as repeats of their first entry, which take no memory."""
    for axis in range(labels.dim()):
        if labels.shape[axis] > 1 and labels.stride(axis) != 0:
            head = labels.narrow(axis, 0, 1)
            if bool((labels == head).all()):
                labels = head.expand(labels.shape)
    return labels


def along(labels: Tensor, axis: int) -> Tensor | None:
    """Return the labels (size,) of an axis, None where they are not the same along all other axes."""
    moved = labels.movedim(axis, 0)
    head = moved[(slice(None), *[slice(0, 1)] * (labels.dim() - 1))]
    return head.reshape(-1).clone() if bool((moved == head).all()) else None
