from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from paretopress.compress.explicit.attention import Attention
from paretopress.compress.prune.channel_shuffle import ChannelShuffle
from paretopress.intake.rewrites import explicit, rewrite
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


def test_channel_shuffle_raises_when_groups_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="multiple of groups"):
        ChannelShuffle(3, 8)


class TwoUnits(nn.Module):
    """ShuffleNet V2 units in a row."""

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


def test_take_in_prunes_inside_units_when_channels_are_shuffled_between(images: Tensor) -> None:
    graph = take_in(TwoUnits().eval(), images[:2]).graph
    assert {group.name for group in graph.channel_groups} == {"inner.0", "inner.1"}
    assert {item.name: item.reason for item in graph.frozen}["stem"] == "its channels are shuffled with others"


class SamePadded(nn.Conv2d):
    """A convolution that pads by itself, as models converted from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ByFunctions(nn.Module):
    """Layers called as functions: a subclass of nn.Conv2d, a shared weight, bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = SamePadded(3, 8, 3, stride=2)
        self.depthwise = SamePadded(8, 8, 3, groups=8)
        self.shared = nn.Parameter(torch.randn(8, 8))
        self.kernel = nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.conv(x)))).mean((2, 3))
        x = nn.functional.linear(nn.functional.linear(x, self.shared), self.shared.t())
        return nn.functional.linear(x, weight=self.kernel)


def test_take_in_finds_layers_that_are_called_as_functions(images: Tensor) -> None:
    model = ByFunctions().eval()
    intake = take_in(model, images[:2])
    assert [layer.name for layer in intake.graph.layers] == ["conv", "depthwise", "shared_layer", "constant_0_shared_layer", "kernel_layer"]
    assert intake.graph.layer("conv").stride == (2, 2)
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(images), model(images))


class PaddedByAChild(nn.Conv2d):
    """A convolution that a child of its own pads, as in efficientnet_lite_pytorch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.pad(x), self.weight, self.bias)


def test_take_in_holds_weights_once_when_a_part_is_still_called(images: Tensor) -> None:
    model = nn.Sequential(PaddedByAChild(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    intake = take_in(model, images[:2])
    assert set(intake.module.state_dict()) == {"0_layer.weight", "0_layer.bias", "4.weight", "4.bias"}
    assert set(model.state_dict()) == {"0.weight", "0.bias", "4.weight", "4.bias"}
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(images), model(images))


class WordedPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Conv2d(3, 8, (3, 5), padding="same", dilation=(2, 1))
        self.even = nn.Conv2d(8, 8, 4, padding="same")
        self.none = nn.Conv2d(8, 8, 3, padding="valid")
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.none(self.even(self.odd(x))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_take_in_puts_paddings_in_numbers_where_both_sides_are_alike(images: Tensor) -> None:
    model = WordedPadding().eval()
    module = take_in(model, images[:2]).module
    assert [module.get_submodule(name).padding for name in ("odd", "even", "none")] == [(2, 2), "same", (0, 0)]
    with torch.inference_mode():
        torch.testing.assert_close(module(images), model(images))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_explicit_attention_computes_the_same(attends: Callable[..., nn.Module], images: Tensor, batch_first: bool, bias: bool) -> None:
    model = attends(batch_first=batch_first, bias=bias).eval()
    with torch.inference_mode():
        wanted = model(images)
        torch.testing.assert_close(explicit(model)(images), wanted, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(part, Attention) for part in model.modules()) == 2


@pytest.mark.parametrize("original", [nn.MultiheadAttention(8, 2, add_zero_attn=True), nn.MultiheadAttention(8, 2, add_bias_kv=True)])
def test_explicit_leaves_attention_with_added_rows_alone(original: nn.MultiheadAttention) -> None:
    model = nn.Sequential(original)
    assert explicit(model)[0] is original


def test_explicit_leaves_attention_inside_torchs_own_layers_alone() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert not any(isinstance(part, Attention) for part in explicit(model).modules())


@pytest.mark.parametrize("batch_first", [True, False])
def test_take_in_offers_whole_heads_of_attention(attends: Callable[..., nn.Module], images: Tensor, batch_first: bool) -> None:
    graph = take_in(attends(batch_first=batch_first).eval(), images[:2]).graph
    heads = {group.name: group for group in graph.channel_groups if group.unit > 1}
    assert set(heads) == {"attentions.0.query", "attentions.1.query"}
    group = heads["attentions.0.query"]
    assert (group.channels, group.unit) == (32, 8)
    assert group.layers == ("attentions.0.query", "attentions.0.key", "attentions.0.value")
    assert group.feeds == ("attentions.0.out",)
    assert "first" in {group.name for group in graph.channel_groups}
