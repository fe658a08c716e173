from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.compress.sensitivity.channel_importance import rank_channels
from paretopress.core.plan import Criterion, Plan
from paretopress.intake.trace import Intake, take_in
from paretopress.tasks.base import sampled_nll_of_logits
from paretopress.tasks.classification import Classification

GROUP, DEAD, LOUD = "block1.conv1", 5, 2


def ranked(model: nn.Module, images: Tensor, criterion: Criterion) -> tuple[int, ...]:
    intake = take_in(model, images[:2])
    return rank_channels(intake.module, intake.graph, images, criterion, task=Classification())[GROUP]


@pytest.mark.parametrize("criterion", Criterion)
def test_rank_channels_puts_a_dead_channel_first_when_ranked(tiny: nn.Module, images: Tensor, criterion: Criterion) -> None:
    with torch.no_grad():
        tiny.block1.conv1.weight[DEAD] = 0.0
        tiny.block1.bn1.weight[DEAD] = tiny.block1.bn1.bias[DEAD] = tiny.block1.bn1.running_mean[DEAD] = 0.0
        tiny.block1.conv2.weight[:, DEAD] = 0.0
    order = ranked(tiny, images, criterion)
    assert order[0] == DEAD
    assert sorted(order) == list(range(8))


@pytest.mark.parametrize("criterion", [Criterion.MEAN_ACTIVATION, Criterion.APOZ])
def test_rank_channels_puts_a_never_zero_channel_last_by_activations(tiny: nn.Module, images: Tensor, criterion: Criterion) -> None:
    with torch.no_grad():
        tiny.block1.bn1.bias[LOUD] = 50.0
    assert ranked(tiny, images, criterion)[-1] == LOUD
    assert ranked(tiny, images, Criterion.BN_SCALE)[-1] != LOUD


def test_rank_channels_follows_the_scales_when_batch_norm_decides(tiny: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        tiny.block1.bn1.weight.copy_(torch.tensor([0.3, -0.9, 0.1, 0.8, 0.2, -0.7, 0.6, 0.4]))
    assert ranked(tiny, images, Criterion.BN_SCALE) == (2, 4, 0, 7, 6, 5, 3, 1)


def test_rank_channels_follows_the_gradients_of_gates_when_taylor_decides(tiny: nn.Module, images: Tensor) -> None:
    gates = torch.ones(len(images), 8, 1, 1, requires_grad=True)
    tiny.block1.conv2.register_forward_pre_hook(lambda _, args: (args[0] * gates,))
    sampled_nll_of_logits(tiny(images), torch.Generator().manual_seed(0)).backward()
    assert gates.grad is not None
    expected = gates.grad.square().sum((0, 2, 3))
    tiny.block1.conv2._forward_pre_hooks.clear()
    order = ranked(tiny, images, Criterion.TAYLOR)
    sizes = expected[list(order)]
    assert (sizes.diff() >= -1e-5 * sizes.max()).all()


def test_rank_channels_names_no_group_when_the_criterion_cannot_tell(images: Tensor) -> None:
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    intake = take_in(smooth, images[:2])

    def named(criterion: Criterion) -> set[str]:
        return set(rank_channels(intake.module, intake.graph, images, criterion, task=Classification()))

    assert named(Criterion.L1) == {"0", "2"}
    assert named(Criterion.TAYLOR) == {"0", "2"}  # the Linear reads 16 positions of each of the other's channels
    assert named(Criterion.BN_SCALE) == named(Criterion.APOZ) == set()


def test_compress_module_keeps_the_channels_of_a_given_ranking(intake: Intake, tiny: nn.Module) -> None:
    order = (0, 1, 2, 3, 7, 6, 5, 4)
    compressed = compress_module(intake.module, intake.graph, Plan(kept={GROUP: 4}), {GROUP: order})
    assert compressed.kept.outputs[GROUP] == (4, 5, 6, 7)
    assert torch.equal(compressed.module.get_submodule(GROUP).weight, tiny.block1.conv1.weight[4:])


def test_rank_channels_leaves_the_module_as_it_was_when_done(intake: Intake, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in intake.module.state_dict().items()}
    for criterion in Criterion:
        rank_channels(intake.module, intake.graph, images, criterion, task=Classification())
    after = intake.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in intake.module.parameters())
