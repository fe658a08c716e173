from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from paretopress.compress.shuffle import ChannelShuffle
from paretopress.intake.rewrites import rewrite
from paretopress.intake.trace import take_in


def by_view(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def by_permute(x: Tensor) -> Tensor:
    return torch.flatten(torch.permute(torch.reshape(x, (x.size(0), 4, 2, 8, 8)), (0, 2, 1, 3, 4)), 1, 2)


def by_negative_axes(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 4, 8, 8).transpose(-3, -4).reshape(-1, 8, 8, 8)


def traced(function: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return fx.symbolic_trace(Model())


def rewritten(function: Callable[[Tensor], Tensor], x: Tensor) -> fx.GraphModule:
    module = traced(function)
    rewrite(module, x)
    assert torch.equal(module(x), function(x))
    return module


@pytest.mark.parametrize(("function", "groups"), [(by_view, 2), (by_permute, 4), (by_negative_axes, 2)])
def test_rewrite_finds_a_channel_shuffle_however_it_is_spelled(function: Callable[[Tensor], Tensor], groups: int) -> None:
    module = rewritten(function, torch.randn(2, 8, 8, 8))
    (shuffle,) = (part for part in module.modules() if isinstance(part, ChannelShuffle))
    assert shuffle.groups == groups
    assert {node.op for node in module.graph.nodes} == {"placeholder", "call_module", "output"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, 2, 4, 8, 8).transpose(1, 3).reshape(2, 8, 8, 8),  # swaps channels with rows
        lambda x: x.view(2, 2, 4, 8, 8).transpose(1, 2).reshape(2, 4, 16, 8),  # ends in another shape
        lambda x: x.view(2, 8, 64).transpose(1, 2).reshape(2, 8, 8, 8),  # joins rows and columns
        lambda x: x.transpose(2, 3).reshape(2, 8, 8, 8),
    ],
)
def test_rewrite_leaves_other_reshapes_as_they_are(function: Callable[[Tensor], Tensor]) -> None:
    module = rewritten(function, torch.randn(2, 8, 8, 8))
    assert not any(isinstance(part, ChannelShuffle) for part in module.modules())


def test_channel_shuffle_raises_when_the_channels_are_no_multiple_of_the_groups() -> None:
    with pytest.raises(ValueError, match="multiple of groups"):
        ChannelShuffle(3, 8)


class TwoUnits(nn.Module):
    """ShuffleNet V2 units in a row: torch-pruning alone divides by zero on them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.inner = nn.ModuleList([nn.Conv2d(4, 6, 3, 1, 1), nn.Conv2d(4, 6, 3, 1, 1)])
        self.outer = nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)])
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            passed, worked = x.chunk(2, 1)
            x = by_view(torch.cat([passed, outer(torch.relu(inner(worked)))], 1))
        return self.fc(x.mean((2, 3)))


def test_take_in_prunes_inside_the_units_alone_when_channels_are_shuffled_between_them(images: Tensor) -> None:
    graph = take_in(TwoUnits().eval(), images[:2]).graph
    assert {group.name for group in graph.channel_groups} == {"inner.0", "inner.1"}
    assert {item.name: item.reason for item in graph.frozen}["stem"] == "its channels are shuffled with others"
