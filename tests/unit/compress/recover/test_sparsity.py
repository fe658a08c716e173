from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.qat import fake_quantised
from paretopress.compress.recover.recipe import DENSE, Recipe, Sparsity
from paretopress.compress.recover.sparsity import held, sparsity_masks
from paretopress.config import parse_config
from paretopress.errors import ConfigError


def chosen(module: nn.Module) -> list[Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)]


def share_of_zeros(weights: list[Tensor]) -> float:
    return float(torch.cat([(weight == 0.0).flatten().float() for weight in weights]).mean())


def test_a_share_takes_the_smallest_weights_of_all_layers_together() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[0.1, -0.2], [0.3, 9.0]]))
        module[1].weight.copy_(torch.tensor([[5.0, -6.0], [0.05, 8.0]]))
    with held(sparsity_masks(Sparsity(share=0.5), module)):
        pass
    assert module[0].weight.tolist() == [[0.0, 0.0], [0.0, 9.0]]
    assert module[1].weight.tolist() == [[5.0, -6.0], [0.0, 8.0]]


def test_sparsity_pattern_keeps_the_largest_of_each_block_of_inputs() -> None:
    module = nn.Sequential(nn.Conv2d(4, 1, 1, bias=False), nn.Conv2d(6, 1, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -4.0, 3.0, 2.0]).view(1, 4, 1, 1))
    before = module[1].weight.clone()
    with held(sparsity_masks(Sparsity.parse("2:4"), module)):
        pass
    assert module[0].weight.flatten().tolist() == [0.0, -4.0, 3.0, 0.0]
    assert torch.equal(module[1].weight, before)


@pytest.mark.parametrize("zeros", [0.5, "2:4"])
@pytest.mark.parametrize("rounded", [False, True])
def test_zeros_stay_while_a_student_is_trained_again(tiny: nn.Module, train: TensorDataset, zeros: float | str, rounded: bool) -> None:
    student = copy.deepcopy(tiny)
    recovery = Recovery(tiny, train, Recipe(learning_rate=0.05, batch_size=16, zeros=Sparsity.parse(zeros)))
    recovery.run(student, temperature=4.0, alpha=0.5, steps=3, seed=0)
    weights = [weight for weight in chosen(student) if zeros == 0.5 or weight.shape[1] % 4 == 0]
    assert share_of_zeros(weights) == pytest.approx(0.5, abs=0.01)
    gone = [weight == 0.0 for weight in weights]
    if rounded:
        with fake_quantised(student, ["block1.conv1", "fc"], reduce_range=False):
            recovery.run(student, temperature=4.0, alpha=0.5, steps=3, seed=1)
    else:
        recovery.run(student, temperature=4.0, alpha=0.5, steps=3, seed=1)
    after = [weight for weight in chosen(student) if zeros == 0.5 or weight.shape[1] % 4 == 0]
    assert all(torch.equal(weight == 0.0, zero) for weight, zero in zip(after, gone, strict=True))


def test_gradients_of_zeros_are_zero_within_the_block_alone() -> None:
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.1, 3.0]]))
    x = torch.ones(1, 2)
    with held(sparsity_masks(Sparsity(share=0.5), module)):
        module(x).sum().backward()
        assert module.weight.grad.tolist() == [[0.0, 1.0]]
    module.zero_grad()
    module(x).sum().backward()
    assert module.weight.grad.tolist() == [[1.0, 1.0]]


def test_no_zeros_leave_a_module_as_it_was(tiny: nn.Module) -> None:
    assert sparsity_masks(DENSE, tiny) == []
    assert Sparsity.parse(0.0) == DENSE


@pytest.mark.parametrize("value", [1.0, -0.1, "4:2", "2of4", "", "0:4"])
def test_what_is_no_share_and_no_pattern_is_refused(value: float | str) -> None:
    with pytest.raises(ConfigError, match="share of the weights"):
        parse_config({"recovery": {"zeros": value}}, "the file")
