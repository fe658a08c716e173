from __future__ import annotations

import pytest
import torch
from torch import nn

from paretopress.compress.prune.surgery import entries_of, keep_entries, silence_entries
from paretopress.core.model_graph import Role

X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


class Held(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.eval()


def cut(part: nn.Module, role: Role, keep: list[int]) -> nn.Module:
    held = Held(part)
    keep_entries(held, "part", role, keep)
    assert entries_of(held, "part", role) == len(keep)
    return held.part


KEEP = [0, 3, 4, 7]


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: nn.Conv2d(8, 8, 3), id="convolution"),
        pytest.param(lambda: nn.ConvTranspose2d(8, 8, 3), id="transposed"),
    ],
)
def test_keep_entries_keeps_the_outputs_and_inputs_of_a_convolution(layer: object) -> None:
    torch.manual_seed(0)
    whole = layer()  # type: ignore[operator]
    wanted = whole(X)[:, KEEP]
    torch.testing.assert_close(cut(whole, Role.OUTPUTS, KEEP)(X), wanted)
    torch.manual_seed(0)
    whole = layer()  # type: ignore[operator]
    masked = X.clone()
    masked[:, [1, 2, 5, 6]] = 0.0
    wanted = whole(masked)
    torch.testing.assert_close(cut(whole, Role.INPUTS, KEEP)(X[:, KEEP]), wanted)


def test_keep_entries_keeps_whole_groups_of_a_grouped_convolution() -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(8, 12, 3, groups=4)
    wanted = whole(X)[:, 3:9]
    held = Held(whole)
    keep_entries(held, "part", Role.OUTPUTS, range(3, 9))
    keep_entries(held, "part", Role.INPUTS, range(2, 6))
    assert held.part.groups == 2
    torch.testing.assert_close(held.part(X[:, 2:6]), wanted)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.PReLU(8)])
def test_keep_entries_keeps_the_values_of_channels(norm: nn.Module) -> None:
    with torch.no_grad():
        for value in (*norm.parameters(), *norm.buffers()):
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    wanted = norm.eval()(X)[:, KEEP]
    torch.testing.assert_close(cut(norm, Role.VALUES, KEEP)(X[:, KEEP]), wanted)


def test_keep_entries_keeps_whole_groups_of_a_group_norm() -> None:
    norm = nn.GroupNorm(4, 8)
    torch.testing.assert_close(cut(norm, Role.VALUES, [2, 3, 6, 7])(X[:, [2, 3, 6, 7]]), nn.GroupNorm(4, 8)(X)[:, [2, 3, 6, 7]])


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8)])
def test_silence_entries_leaves_features_out_of_a_layer_norm_s_statistics(norm: nn.Module) -> None:
    held, x = Held(norm), X.movedim(1, -1)
    wanted = type(norm)(4)(x[..., KEEP])
    silence_entries(held, "part", Role.VALUES, [1, 2, 5, 6])
    found = held.part(x)
    torch.testing.assert_close(found[..., KEEP], wanted)
    assert not found[..., [1, 2, 5, 6]].any()


def test_keep_entries_cuts_a_parameter_along_its_axis() -> None:
    held = Held(nn.Identity())
    held.scale = nn.Parameter(torch.arange(12.0).view(1, 4, 3))
    keep_entries(held, "scale", Role.VALUES, [1, 3], axis=1)
    assert held.scale[0].tolist() == [[3.0, 4.0, 5.0], [9.0, 10.0, 11.0]]
    assert isinstance(held.scale, nn.Parameter)
    silence_entries(held, "scale", Role.VALUES, [0], axis=1)
    assert held.scale[0].tolist() == [[0.0, 0.0, 0.0], [9.0, 10.0, 11.0]]
