from __future__ import annotations

import copy
import pickle

import pytest
import torch

from paretopress.intake.recording.reshapes import aligned
from paretopress.intake.recording.sizes import Size


def size(value: int) -> Size:
    return Size.of_axis(torch.zeros(value), 0, None)


def test_size_is_an_int_wherever_python_needs_one() -> None:
    assert size(6) == 6
    assert list(range(size(2))) == [0, 1]
    assert [10, 11, 12][size(1)] == 11
    assert size(6) / 4 == 1.5
    assert torch.zeros(2, 6).view(size(6), -1).shape == (6, 2)


@pytest.mark.parametrize(
    ("computed", "value"),
    [
        pytest.param(size(6) * 2 + 1, 13, id="product and sum"),
        pytest.param(2 * size(6) - size(4), 8, id="from the left"),
        pytest.param(20 - size(6), 14, id="difference from a number"),
        pytest.param(size(7) // 2, 3, id="quotient"),
        pytest.param(20 // size(6), 3, id="quotient of a number"),
        pytest.param(size(7) % 4, 3, id="remainder"),
    ],
)
def test_size_remembers_how_it_is_computed(computed: object, value: int) -> None:
    assert isinstance(computed, Size)
    assert computed == value


def test_size_is_a_plain_int_when_copied() -> None:
    assert type(copy.deepcopy(size(3))) is int
    assert type(pickle.loads(pickle.dumps(size(3)))) is int


def test_aligned_tells_which_axes_become_which() -> None:
    assert aligned((2, 3, 4, 5), (2, 12, 5)) == [(range(0, 1), range(0, 1)), (range(1, 3), range(1, 2)), (range(3, 4), range(2, 3))]
    assert aligned((2, 6), (2, 3, 2)) == [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 3))]
    assert aligned((2, 5, 1, 1), (2, 5)) == [(range(0, 1), range(0, 1)), (range(1, 4), range(1, 2))]
    assert aligned((2, 3), (3, 2)) == [(range(0, 2), range(0, 2))]
    assert aligned((2, 3), (5,)) == []
