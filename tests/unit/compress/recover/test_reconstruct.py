from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from paretopress.compress.apply import Compressed, compress_module
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.least_squares import Start, fit_near, onto_rank
from paretopress.compress.recover.patch_sampling import PatchSampling
from paretopress.compress.recover.recipe import Recipe
from paretopress.compress.recover.reconstruct import Reconstruction
from paretopress.core.plan import Plan
from paretopress.errors import RecoveryError
from paretopress.intake.trace import Intake, take_in

PLANS = {
    "branch removed": Plan(kept={"block1.conv1": 0}),
    "pruned inside a branch": Plan(kept={"block1.conv1": 4}),
    "stream pruned": Plan(kept={"block2.conv2": 8}),
    "both factors": Plan(rank={"block2.conv2": 3}),
    "mixed": Plan(kept={"block1.conv1": 0, "block2.conv1": 8}, rank={"block2.conv2": 4}),
}


@pytest.fixture
def many() -> Tensor:
    """(160, 3, 8, 8) float32: noise that neighbouring pixels share, so that activations depend on one another as in photos."""
    noise = torch.randn(160, 3, 10, 10, generator=torch.Generator().manual_seed(2))
    return 3.0 * F.avg_pool2d(noise, 3, 1)


def outputs(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(images)


def compressed(intake: Intake, plan: Plan) -> Compressed:
    return compress_module(intake.module, intake.graph, plan)


def recalibrated(intake: Intake, many: Tensor, module: fx.GraphModule) -> fx.GraphModule:
    train = TensorDataset(many, torch.zeros(len(many), dtype=torch.long))
    Recovery(intake.module, train, Recipe(batch_size=24)).recalibrated(module, seed=0)
    return module


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel"), [(1, 1, 1, 3), (2, 1, 1, 3), (2, 0, 1, 1), (1, (2, 1), (2, 1), 3)])
def test_patches_times_the_weights_are_the_outputs_when_sampled_alike(
    stride: int, padding: int | tuple[int, int], dilation: int | tuple[int, int], kernel: int
) -> None:
    layer = nn.Conv2d(3, 5, kernel, stride, padding, dilation)
    x = torch.randn(4, 3, 9, 7)
    positions = PatchSampling(4, 24, seed=0)
    rows = positions.patches(x, layer) @ layer.weight.flatten(1).T + layer.bias
    assert rows.shape == (24, 5)
    torch.testing.assert_close(rows, positions.rows(layer(x)), rtol=1e-4, atol=1e-5)


def test_patch_sampling_takes_every_place_once_when_there_are_few() -> None:
    assert PatchSampling(2, 100, seed=0).of(6).sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("rows", [400, 30], ids=["more rows than features", "fewer"])
def test_fit_near_finds_the_map_when_the_target_is_affine(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, 40, generator=generator), torch.randn(3, 40, generator=generator)
    near = weight + 0.1 * torch.randn(3, 40, generator=generator)
    fit = fit_near(x, x @ weight.T + 2.0, Start(near, torch.zeros(3), frees_bias=True), held=rows // 5)
    if rows == 400:
        assert fit.error_left < 1e-4
        torch.testing.assert_close(fit.weight, weight, rtol=0.02, atol=0.02)
    torch.testing.assert_close(fit.bias, torch.full((3,), 2.0), rtol=0.25, atol=0.25)
    assert fit.error_left < 0.1


def test_fit_near_keeps_the_bias_when_it_is_not_free() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    fit = fit_near(x, x.sum(1, keepdim=True) + 5.0, Start(torch.zeros(1, 4), torch.zeros(1), frees_bias=False), held=10)
    assert fit.bias.tolist() == [0.0]


def test_fit_near_stays_where_it_is_when_nothing_is_to_be_learnt() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(40, 30, generator=generator), torch.randn(40, 2, generator=generator)
    start = Start(torch.randn(2, 30, generator=generator), torch.zeros(2), frees_bias=True)
    target = x @ start.weight.T + noise - noise[:30].mean(0)  # thirty rows for thirty features: any fit is to the noise
    assert torch.equal(fit_near(x, target, start, held=10).weight, start.weight)


def test_onto_rank_keeps_the_outputs_that_vary_most() -> None:
    x = torch.diag(torch.tensor([10.0, 0.1]))  # the second feature hardly moves: its weight, though larger, is given up
    weight = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    torch.testing.assert_close(onto_rank(1)(weight, x), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_apply_brings_outputs_nearer_than_recalibration_when_compressed(intake: Intake, many: Tensor, plan: Plan) -> None:
    train, unseen = many[:120], many[120:]
    wanted = outputs(intake.module, unseen)
    plain = recalibrated(intake, train, compressed(intake, plan).module)
    solved = compressed(intake, plan)
    left = Reconstruction(intake.module, train, seed=0).apply(solved)
    assert left
    assert max(left.values()) <= 1.0
    error, before = (float((outputs(module, unseen) - wanted).square().mean()) for module in (solved.module, plain))
    assert error < 0.7 * before


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(kept={"attentions.0.query": 16}), id="heads"),
        pytest.param(Plan(kept={"first": 16}), id="width between Linear layers"),
        pytest.param(Plan(rank={"second": 4}), id="factors of a Linear"),
    ],
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_apply_solves_linear_layers_over_positions(attends: Callable[..., nn.Module], many: Tensor, plan: Plan, batch_first: bool) -> None:
    model = attends(batch_first=batch_first)
    intake, (train, unseen) = take_in(model, many[:2]), many.split((120, 40))
    student = compressed(intake, plan)
    before = float((outputs(student.module, unseen) - outputs(model, unseen)).square().mean())
    Reconstruction(intake.module, train, seed=0).apply(student)
    assert float((outputs(student.module, unseen) - outputs(model, unseen)).square().mean()) < 0.8 * before


def test_patch_sampling_pairs_rows_with_what_a_linear_makes_of_them() -> None:
    layer, x, positions = nn.Linear(6, 5), torch.randn(4, 3, 7, 6), PatchSampling(4, 40, seed=0)
    rows = positions.patches(x, layer) @ layer.weight.T + layer.bias
    assert rows.shape == (40, 5)
    torch.testing.assert_close(rows, positions.rows(layer(x), channels_last=True), rtol=1e-4, atol=1e-5)


def test_apply_restores_the_outputs_when_the_lost_channels_were_copies(tiny: nn.Module, images: Tensor, many: Tensor) -> None:
    block = tiny.block1
    with torch.no_grad():
        for small in (1, 6):  # they give a fifth of what channel 0 gives, so what reads them can read that instead
            for tensor in (block.conv1.weight, block.bn1.running_mean):
                tensor[small] = 0.2 * tensor[0]
            block.bn1.running_var[small] = 0.04 * block.bn1.running_var[0]
            for tensor in (block.bn1.weight, block.bn1.bias):
                tensor[small] = 0.2 * tensor[0]
            block.conv2.weight[:, small] *= 0.8
    intake = take_in(tiny, images[:2])
    pruned = compressed(intake, Plan(kept={"block1.conv1": 6}))
    assert pruned.kept.outputs["block1.conv1"] == (0, 2, 3, 4, 5, 7)
    wanted = outputs(tiny, many)
    before = float((outputs(pruned.module, many) - wanted).square().mean())
    Reconstruction(intake.module, many, seed=0).apply(pruned)
    assert float((outputs(pruned.module, many) - wanted).square().mean()) < 0.01 * before


def test_apply_makes_up_for_a_removed_branch_at_the_next_sum(many: Tensor) -> None:
    class Twins(nn.Module):
        """Two branches of the same weights: with one gone, the other must give twice as much."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.two.load_state_dict(self.one.state_dict())
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            first = x + self.one(x)
            return self.fc((first + self.two(x)).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Twins().eval()
    original = fx.symbolic_trace(model)
    student = fx.symbolic_trace(copy.deepcopy(model))
    first = next(node for node in student.graph.nodes if node.name == "add")
    first.replace_all_uses_with(first.args[0])
    student.recompile()
    Reconstruction(original, many, seed=0).apply(Compressed(student, ()))
    torch.testing.assert_close(outputs(student, many), outputs(original, many), rtol=0.02, atol=0.02)


def test_apply_leaves_what_comes_before_the_change_alone(intake: Intake, many: Tensor) -> None:
    pruned = compressed(intake, Plan(kept={"block2.conv1": 8}))
    left = Reconstruction(intake.module, many, seed=0).apply(pruned)
    before, after = intake.module.state_dict(), pruned.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(("stem", "block1")))
    # the shortcut, called last before the sum, makes up for what the branch is off; the depthwise layer is not solved for
    assert list(left) == ["block2.conv2", "block2.down.0", "fc"]


def test_apply_recalibrates_a_norm_behind_a_sum_when_its_input_changed(many: Tensor) -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first, self.second, self.fc = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Linear(8, 4)
            self.branch, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.branch(torch.relu(self.first(x)))
            x = x + self.other(torch.relu(self.second(x)))
            return self.fc(x.mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PreActivation().eval()
    original, student = fx.symbolic_trace(model), fx.symbolic_trace(copy.deepcopy(model))
    with torch.no_grad():
        student.branch.weight.zero_()
        student.branch.bias.fill_(9.0)
    student.branch = nn.Sequential(student.branch)  # of one: not to be solved for, so the stream stays as it is off
    Reconstruction(original, many, seed=0).apply(Compressed(student, ()))
    assert torch.equal(student.first.running_mean, torch.zeros(8))
    assert float(student.second.running_mean.min()) > 5.0


def test_apply_holds_against_recalibration_when_that_follows(intake: Intake, many: Tensor) -> None:
    solved = compressed(intake, PLANS["mixed"])
    Reconstruction(intake.module, many, seed=0).apply(solved)
    before = outputs(solved.module, many)
    after = outputs(recalibrated(intake, many, solved.module), many)
    assert float((after - before).square().mean()) < 0.01 * float(before.var())


def test_apply_repeats_itself_when_the_seed_is_the_same(intake: Intake, many: Tensor) -> None:
    made = [compressed(intake, PLANS["mixed"]) for _ in range(2)]
    before = torch.get_rng_state()
    for each in made:
        Reconstruction(intake.module, many, seed=5).apply(each)
    one, two = (each.module.state_dict() for each in made)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_apply_leaves_a_layer_alone_when_too_few_rows_could_judge_it(intake: Intake, many: Tensor) -> None:
    pruned = compressed(intake, PLANS["stream pruned"])
    assert "fc" not in Reconstruction(intake.module, many[:40], seed=0).apply(pruned)  # ten held-out rows


def test_reconstruct_does_nothing_when_there_are_no_calibration_batches(intake: Intake, many: Tensor) -> None:
    train = TensorDataset(many, torch.zeros(len(many), dtype=torch.long))
    pruned = compressed(intake, PLANS["mixed"])
    before = {name: tensor.clone() for name, tensor in pruned.module.state_dict().items()}
    Recovery(intake.module, train, Recipe(batch_size=8, calibration_batches=0)).reconstruct(pruned, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in pruned.module.state_dict().items())


def test_reconstruct_raises_when_the_teacher_is_not_traced(intake: Intake, tiny: nn.Module, many: Tensor) -> None:
    train = TensorDataset(many, torch.zeros(len(many), dtype=torch.long))
    with pytest.raises(RecoveryError, match="traced teacher, but got TinyNet"):
        Recovery(tiny, train, Recipe(batch_size=8)).reconstruct(compressed(intake, PLANS["mixed"]), seed=0)


@pytest.mark.parametrize("misled", [True, False])
def test_reconstruct_keeps_the_weights_where_other_items_show_harm(
    intake: Intake, many: Tensor, misled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_few_items(solver: Reconstruction, student: Compressed) -> None:
        with torch.no_grad():
            student.module.fc.weight.mul_(-1.0)

    if misled:
        monkeypatch.setattr(Reconstruction, "apply", by_few_items)
    train = TensorDataset(many, torch.zeros(len(many), dtype=torch.long))
    pruned = compressed(intake, PLANS["branch removed"])
    before = {name: tensor.clone() for name, tensor in pruned.module.state_dict().items()}
    notes = Recovery(intake.module, train, Recipe(batch_size=32)).reconstruct(pruned, seed=0)
    assert bool(notes) is misled
    assert all(torch.equal(before[name], tensor) for name, tensor in pruned.module.state_dict().items()) is misled
