from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paretopress.compress.apply import compress_module
from paretopress.core.plan import Plan
from paretopress.errors import CompressError
from paretopress.evaluators.macs import count_macs
from paretopress.intake.trace import Intake, take_in


def outputs(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(images)


def test_compress_module_reproduces_the_baseline_when_the_plan_is_empty(intake: Intake, tiny: nn.Module, images: Tensor) -> None:
    same = compress_module(intake.module, intake.graph, Plan()).module
    assert torch.equal(outputs(same, images), outputs(tiny, images))


def test_compress_module_keeps_widths_equal_when_the_stream_is_pruned(intake: Intake) -> None:
    module = compress_module(intake.module, intake.graph, Plan(kept={"block2.conv2": 8})).module
    layers = dict(module.named_modules())
    assert (layers["block2.conv2"].out_channels, layers["block2.down.0"].out_channels) == (8, 8)
    assert (layers["depthwise"].groups, layers["fc"].in_features) == (8, 8)


def test_compress_module_leaves_other_groups_alone_when_one_is_pruned(intake: Intake) -> None:
    module = compress_module(intake.module, intake.graph, Plan(kept={"block1.conv1": 4})).module
    layers = dict(module.named_modules())
    assert layers["block1.conv1"].out_channels == 4
    assert layers["block1.conv2"].in_channels == 4
    assert [layers[name].out_channels for name in ("stem", "block1.conv2", "block2.conv1")] == [8, 8, 16]


def test_compress_module_drops_silent_channels_first(tiny: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        for silent in (1, 6):  # a channel of no weight matters to nobody: pruning it must not change the outputs
            tiny.block1.conv1.weight[silent] = 0.0
            tiny.block1.bn1.weight[silent] = tiny.block1.bn1.bias[silent] = 0.0
            tiny.block1.conv2.weight[:, silent] = 0.0
    intake = take_in(tiny, images[:2])
    pruned = compress_module(intake.module, intake.graph, Plan(kept={"block1.conv1": 6})).module
    torch.testing.assert_close(outputs(pruned, images), outputs(tiny, images), rtol=1e-4, atol=1e-5)


def test_compress_module_equals_the_skip_when_a_branch_is_removed(intake: Intake, tiny: nn.Module, images: Tensor) -> None:
    removed = compress_module(intake.module, intake.graph, Plan(kept={"block1.conv1": 0})).module
    assert not any(name.startswith("block1") for name, _ in removed.named_modules())
    tiny.block1 = nn.Identity()  # its input is a ReLU's output already, so the ReLU after the add changes nothing
    torch.testing.assert_close(outputs(removed, images), outputs(tiny, images))


@pytest.mark.parametrize("group", ["block1.conv1", "block2.conv2"])
def test_compress_module_names_the_channels_that_are_left_when_pruned(intake: Intake, group: str) -> None:
    compressed = compress_module(intake.module, intake.graph, Plan(kept={group: 4, "block2.conv1": 8}))
    named = compressed.kept.outputs.keys() | compressed.kept.inputs.keys()
    assert {group, "block2.conv1"} < named
    for name in named:  # the weights of what is left are those of the named channels of the original
        before, after = (m.get_submodule(name).weight for m in (intake.module, compressed.module))
        rows = compressed.kept.outputs.get(name, range(len(before)))
        before = before[list(rows)]
        if name in compressed.kept.inputs:
            before = before[:, list(compressed.kept.inputs[name])]
        assert torch.equal(before, after), name


def test_compress_module_lowers_macs_when_a_rank_is_given(intake: Intake) -> None:
    dense = count_macs(intake.module, torch.zeros(1, 3, 8, 8)).macs
    plan = Plan(rank={"block2.conv2": 4})
    factored = count_macs(compress_module(intake.module, intake.graph, plan).module, torch.zeros(1, 3, 8, 8)).macs
    # 16 positions x (16*16*9 dense) against channel SVD 16 x 4 x (16*9 + 16); the spatial SVD may cost less, never more
    assert factored <= dense - 16 * (16 * 16 * 9 - 4 * (16 * 9 + 16))


def test_compress_module_says_when_a_rank_is_past_break_even(intake: Intake) -> None:
    plan = Plan(kept={"block2.conv1": 2}, rank={"block2.conv2": 12})
    compressed = compress_module(intake.module, intake.graph, plan)
    assert compressed.notes == ("rank/block2.conv2: 12 is past the break-even rank 8 of the pruned layer; left dense",)
    assert isinstance(dict(compressed.module.named_modules())["block2.conv2"], nn.Conv2d)


def test_compress_module_does_not_change_the_base_when_it_compresses(intake: Intake, images: Tensor) -> None:
    before = outputs(intake.module, images)
    compress_module(intake.module, intake.graph, Plan(kept={"block1.conv1": 0, "block2.conv1": 8}, rank={"block2.conv2": 2}))
    assert torch.equal(outputs(intake.module, images), before)


@pytest.mark.parametrize(
    "plan",
    [Plan(kept={"nothing": 4}), Plan(rank={"nothing": 4}), Plan(bits={"nothing": 8}), Plan(kept={"block2.conv1": 0})],
    ids=["group", "layer", "bit group", "branch without identity skip"],
)
def test_compress_module_raises_when_the_plan_names_what_is_not_there(intake: Intake, plan: Plan) -> None:
    with pytest.raises(CompressError):
        compress_module(intake.module, intake.graph, plan)
