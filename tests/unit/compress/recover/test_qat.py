from __future__ import annotations

import pytest
import torch
from torch import nn

from paretopress.compress.recover.qat import fake_quantised


def layer(weights: list[list[float]]) -> nn.Linear:
    made = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weights))
    return made


def test_fake_quantised_rounds_weights_per_channel_and_inputs_per_tensor() -> None:
    module = nn.Sequential(layer([[1.27, 0.014], [127.0, 1.4]]))
    x = torch.tensor([[2.55, 0.004], [0.0, 0.006]])
    with fake_quantised(module, ["0"], reduce_range=False):
        y = module(x)
    # steps: 0.01 for the inputs (0 to 2.55 in 255), 0.01 and 1.0 for the two channels: the inputs become 2.55, 0.0 and 0.0, 0.01
    assert torch.allclose(y, torch.tensor([[2.55 * 1.27, 2.55 * 127.0], [0.01 * 0.01, 0.01 * 1.0]]), atol=1e-5)


def test_fake_quantised_takes_seven_bits_when_the_range_is_reduced() -> None:
    module = nn.Sequential(layer([[0.63, 0.014]]))
    with fake_quantised(module, ["0"], reduce_range=True):
        assert torch.allclose(module[0].weight, torch.tensor([[0.63, 0.01]]))


def test_fake_quantised_leaves_names_and_values_as_they_were_when_it_ends() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    parameters = list(module.parameters())
    with fake_quantised(module, ["0", "2", "gone"], reduce_range=False):
        module.eval()(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert not torch.equal(module[2][1].weight, before["2.1.weight"])  # factors are rounded too
    after = module.state_dict()
    assert sorted(after) == sorted(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert {id(p) for p in module.parameters()} == {id(p) for p in parameters}
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_fake_quantised_lets_gradients_through_when_training() -> None:
    module = nn.Sequential(layer([[0.5, -0.25]]))
    with fake_quantised(module, ["0"], reduce_range=False):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        module(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    assert torch.allclose(module[0].weight.detach(), torch.tensor([[0.1, -0.65]]))  # minus 0.1 times 4 images


def test_fake_quantised_undoes_itself_when_the_block_fails() -> None:
    module = nn.Sequential(layer([[0.5]]))
    with pytest.raises(RuntimeError, match="stop"), fake_quantised(module, ["0"], reduce_range=False):
        raise RuntimeError("stop")
    assert list(module.state_dict()) == ["0.weight"]
