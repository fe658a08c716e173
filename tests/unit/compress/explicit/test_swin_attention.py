from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2, SwinTransformer

from paretopress.compress.apply import compress_module
from paretopress.compress.explicit.swin_attention import WindowAttention, attends_in_windows
from paretopress.core.plan import Plan
from paretopress.intake.rewrites import explicit
from paretopress.intake.trace import take_in

WIDTH, HEADS = 32, 4


def original(window: list[int], shift: list[int]) -> nn.Module:
    torch.manual_seed(0)
    return ShiftedWindowAttention(WIDTH, window, shift, HEADS).eval()


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        pytest.param((8, 8), [4, 4], [0, 0], id="whole windows"),
        pytest.param((8, 8), [4, 4], [2, 2], id="shifted"),
        pytest.param((7, 10), [4, 4], [2, 2], id="padded and shifted"),
        pytest.param((4, 12), [4, 4], [2, 2], id="one window high"),
        pytest.param((3, 3), [4, 4], [2, 2], id="one window"),
        pytest.param((6, 8), [3, 4], [1, 2], id="windows that are no squares"),
    ],
)
def test_window_attention_computes_what_torchvision_does(size: tuple[int, int], window: list[int], shift: list[int]) -> None:
    wanted = original(window, shift)
    x = torch.randn(3, *size, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(WindowAttention(wanted, size)(x), wanted(x), rtol=1e-4, atol=1e-5)


def test_attends_in_windows_is_false_for_attention_by_cosines() -> None:
    assert attends_in_windows(original([4, 4], [2, 2]))
    assert not attends_in_windows(ShiftedWindowAttentionV2(WIDTH, [4, 4], [2, 2], HEADS))


@pytest.fixture
def swin() -> nn.Module:
    torch.manual_seed(0)
    return SwinTransformer([2, 2], 32, [2, 2], [2, 4], [4, 4], num_classes=10).eval()


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))


def test_explicit_leaves_windows_alone_without_a_run(swin: nn.Module) -> None:
    assert not any(isinstance(part, WindowAttention) for part in explicit(swin).modules())


def test_take_in_finds_heads_and_widths_of_a_swin_transformer(swin: nn.Module, photos: Tensor) -> None:
    intake = take_in(swin, photos)
    with torch.inference_mode():
        torch.testing.assert_close(intake.module(photos), swin(photos), rtol=1e-4, atol=1e-4)
    groups = {group.name: group for group in intake.graph.channel_groups}
    assert groups["features.1.0.attn.query"].unit == 16
    assert groups["features.1.0.mlp.0"].feeds == ("features.1.0.mlp.3",)
    assert groups.keys() >= {f"features.{stage}.{block}.{part}" for stage in (1, 3) for block in (0, 1) for part in ("attn.query", "mlp.0")}
    assert {"features.1.0.attn.out", "features.1.0.mlp.3"} < set(groups["features.0.0"].layers)  # the width of the first stage


def test_compress_module_removes_heads_with_their_biases(swin: nn.Module, photos: Tensor) -> None:
    intake = take_in(swin, photos)
    compressed = compress_module(intake.module, intake.graph, Plan(kept={"features.3.1.attn.query": 32}))
    biases = {part.path for group in intake.graph.channel_groups if group.name == "features.3.1.attn.query" for part in group.parts}
    (bias,) = biases & dict(intake.module.named_parameters()).keys()
    assert (intake.module.get_parameter(bias).shape, compressed.module.get_parameter(bias).shape) == (
        (4, 4, 16, 16),
        (4, 2, 16, 16),
    )  # a bias for each window
    left = compressed.kept.outputs["features.3.1.attn.value"]
    silenced = copy.deepcopy(intake.module)
    value = silenced.get_submodule("features.3.1.attn.value")
    with torch.no_grad():
        for parameter in value.parameters():
            parameter[[channel for channel in range(64) if channel not in left]] = 0.0
    with torch.inference_mode():
        torch.testing.assert_close(compressed.module(photos), silenced(photos), rtol=1e-4, atol=1e-4)
