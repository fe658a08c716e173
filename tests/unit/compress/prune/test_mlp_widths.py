from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.prune.mlp_widths import find_mlp_widths, is_mlp_width
from paretopress.core.model_graph import ChannelGroup
from paretopress.core.plan import Plan
from paretopress.intake.trace import take_in

CHAIN = ChannelGroup("0", 32, ("0",), ("3",))


def three(activation: nn.Module) -> fx.GraphModule:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 32), activation, nn.Dropout(0.1), nn.Linear(32, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    return fx.symbolic_trace(layers.eval())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Identity(), nn.Hardswish()])
def test_find_chains_returns_the_width_between_two_linears(activation: nn.Module) -> None:
    module = three(activation)
    assert find_mlp_widths(module) == [CHAIN]
    assert is_mlp_width(module, CHAIN)


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.Softmax(-1), nn.LayerNorm(32)])
def test_find_mlp_widths_returns_none_when_values_mix_or_zero_moves(between: nn.Module) -> None:
    module = three(between)
    assert find_mlp_widths(module) == []
    assert not is_mlp_width(module, CHAIN)


class Twice(nn.Module):
    def __init__(self, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third, self._read = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(32, 8), read

    def forward(self, x: Tensor) -> Tensor:
        return self._read(self, x)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda m, x: m.second(h := m.first(x)) + m.third(h), id="two readers"),
        pytest.param(lambda m, x: m.second(m.first(m.second(m.first(x)))), id="layers called twice"),
        pytest.param(lambda m, x: m.second(m.first(x).relu()) + 0.0 * m.first(x).sum(), id="read elsewhere"),
    ],
)
def test_find_chains_returns_none_when_others_see_the_width(read: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert find_mlp_widths(fx.symbolic_trace(Twice(read).eval())) == []


def test_compress_module_prunes_a_chain_as_if_its_units_were_silent() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    intake = take_in(three(nn.GELU()), x)
    compressed = compress_module(intake.module, intake.graph, Plan(kept={"0": 16}))
    left = compressed.kept.outputs["0"]
    assert compressed.kept.inputs["3"] == left
    assert (len(left), compressed.module.get_submodule("3").in_features) == (16, 16)
    gone = [unit for unit in range(32) if unit not in left]
    silenced = three(nn.GELU())
    with torch.no_grad():
        for parameter in silenced.get_submodule("0").parameters():
            parameter[gone] = 0.0
    with torch.inference_mode():
        torch.testing.assert_close(compressed.module(x), silenced(x), rtol=1e-4, atol=1e-5)
