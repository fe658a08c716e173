from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from paretopress.compress.recover import finetune
from paretopress.compress.recover.finetune import Recovery, rate_factor, steps_in_time, usual_optimizer
from paretopress.compress.recover.learning_rates import learning_rate_test
from paretopress.compress.recover.recipe import RATES, Optimizer, Recipe, Schedule
from paretopress.errors import RecoveryError
from paretopress.system.deadline import Deadline
from paretopress.tasks.base import distillation_loss


@pytest.mark.parametrize("temperature", [1.0, 3.0, 8.0])
def test_distillation_loss_has_the_formulas_gradient_when_alpha_is_one(temperature: float) -> None:
    student = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.double)
    distillation_loss(student, teacher, torch.zeros(5, dtype=torch.long), temperature=temperature, alpha=1.0).backward()
    # d/dz of T^2 KL / N is T (softmax(z / T) - softmax(t / T)) / N: Hinton et al. 2015, equation 2, times T^2
    expected = temperature * (F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)) / 5
    torch.testing.assert_close(student.grad, expected.detach())


def test_distillation_loss_is_cross_entropy_when_alpha_is_zero() -> None:
    student, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    loss = distillation_loss(student, torch.randn(5, 4), labels, temperature=4.0, alpha=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels))


def test_run_lowers_the_loss_when_the_student_is_disturbed(tiny: nn.Module, train: TensorDataset) -> None:
    student = copy.deepcopy(tiny)
    with torch.no_grad():
        student.fc.weight.mul_(-1.0)
    report = Recovery(tiny, train, Recipe(learning_rate=0.05, batch_size=16)).run(student, temperature=4.0, alpha=1.0, steps=30, seed=0)
    assert report.steps == 30
    assert report.last_loss < 0.5 * report.first_loss
    assert not student.training


def test_run_repeats_itself_when_the_seed_is_the_same(tiny: nn.Module, train: TensorDataset) -> None:
    recovery = Recovery(tiny, train, Recipe(batch_size=16))
    before = torch.get_rng_state()
    students = [copy.deepcopy(tiny) for _ in range(2)]
    for student in students:
        recovery.run(student, temperature=4.0, alpha=0.5, steps=3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(students[0].state_dict().values(), students[1].state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_run_raises_when_the_loss_is_not_finite(tiny: nn.Module, train: TensorDataset) -> None:
    student = copy.deepcopy(tiny)
    with torch.no_grad():
        student.fc.bias[0] = math.nan
    with pytest.raises(RecoveryError, match="finite"):
        Recovery(tiny, train, Recipe(batch_size=16)).run(student, temperature=4.0, alpha=0.5, steps=1, seed=0)


def test_run_names_the_cause_when_the_data_set_fails(tiny: nn.Module, train: TensorDataset) -> None:
    class Broken(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            raise OSError("photo 7 is damaged")

    with pytest.raises(RecoveryError, match="photo 7 is damaged"):
        Recovery(tiny, Broken(*train.tensors), Recipe(batch_size=16)).run(tiny, temperature=4.0, alpha=0.5, steps=1, seed=0)


def test_run_sets_the_statistics_to_those_of_the_trained_weights(tiny: nn.Module, train: TensorDataset) -> None:
    Recovery(tiny, train, Recipe(batch_size=16)).recalibrated(tiny, seed=0)  # a teacher of these data
    student = copy.deepcopy(tiny)
    student.block1.bn1.running_mean.add_(100.0)  # its running average is far behind after three steps
    recovery = Recovery(tiny, train, Recipe(learning_rate=1e-4, batch_size=16))
    recovery.run(student, temperature=4.0, alpha=1.0, steps=3, seed=0)
    trained = student.block1.bn1.running_mean.clone()
    recovery.recalibrated(student, seed=0)
    torch.testing.assert_close(student.block1.bn1.running_mean, trained)


def test_run_keeps_the_running_averages_when_few_items_tell_less(tiny: nn.Module, train: TensorDataset) -> None:
    calm = Recipe(learning_rate=1e-6, batch_size=2, calibration_batches=1)  # two items against all that the averages hold
    student = copy.deepcopy(tiny)
    Recovery(tiny, train, calm).run(student, temperature=4.0, alpha=1.0, steps=1, seed=0)
    lone = copy.deepcopy(student)
    Recovery(tiny, train, calm).recalibrated(lone, seed=0)
    inputs = train.tensors[0][:64]
    wanted = tiny.eval()(inputs)
    assert (student(inputs) - wanted).abs().mean() < 0.5 * (lone(inputs) - wanted).abs().mean()


@pytest.mark.parametrize(("values", "seen"), [(10_000_000, [16, 16, 16, 16]), (3 * 8 * 8 * 40, [16, 16, 8]), (1, [16, 16])])
def test_recalibrated_takes_fewer_items_when_they_are_large(
    tiny: nn.Module, train: TensorDataset, values: int, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "_RECALIBRATION_VALUES", values)
    met: list[int] = []
    student = copy.deepcopy(tiny)
    student.register_forward_pre_hook(lambda _, inputs: met.append(len(inputs[0])))
    Recovery(tiny, train, Recipe(batch_size=16)).recalibrated(student, seed=0)
    assert met == seen


def test_recalibrated_restores_the_statistics_when_they_are_wrong(tiny: nn.Module, train: TensorDataset) -> None:
    student = copy.deepcopy(tiny)
    student.block1.bn1.running_mean.add_(100.0)
    before = student.fc.weight.clone()
    Recovery(tiny, train, Recipe(batch_size=16)).recalibrated(student, seed=0)
    assert float(student.block1.bn1.running_mean.abs().max()) < 10.0
    assert torch.equal(student.fc.weight, before)


def test_rate_factor_follows_the_schedule_when_named() -> None:
    line = [rate_factor(step, 12, Recipe(schedule=Schedule.LINEAR, warmup=0.17)) for step in range(12)]
    assert line == pytest.approx([0.5, 1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert {rate_factor(step, 12, Recipe(schedule=Schedule.CONSTANT, warmup=0.0)) for step in range(12)} == {1.0}


def test_rate_factor_rises_then_falls_when_a_cosine() -> None:
    factors = [rate_factor(step, 20, Recipe()) for step in range(20)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] < 0.01


@pytest.mark.parametrize(
    ("layers", "usual"),
    [
        ([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)], Optimizer.SGD),
        ([nn.Linear(8, 8), nn.LayerNorm(8)], Optimizer.ADAMW),
        ([nn.LSTM(8, 8)], Optimizer.ADAMW),
    ],
)
def test_usual_optimizer_goes_by_the_kind_of_network(layers: list[nn.Module], usual: Optimizer) -> None:
    assert usual_optimizer(nn.Sequential(*layers)) is usual
    assert min(RATES[Optimizer.ADAMW]) < min(RATES[Optimizer.SGD])


class Ticks:
    """A clock of which each step of training takes `step_s`."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        return self.now

    @contextmanager
    def step(self) -> Iterator[None]:
        self.now += self.step_s
        yield


@pytest.mark.parametrize(
    ("steps", "took_s", "left_s", "expected"),
    [
        (30, [], 5.0, 30),  # nothing is known yet
        (30, [], 0.0, 0),
        (30, [1.0] * 10, 100.0, 30),
        (30, [1.0] * 10, 8.0, 16),  # 8 s are 8 steps, of which two are kept for the end
        (30, [0.1] * 10 + [2.0] * 8, 8.0, 20),  # by what steps take now
        (30, [1.0] * 10, 1.0, 10),
    ],
    ids=["first", "too late", "time enough", "too short", "slower now", "over"],
)
def test_steps_in_time_are_those_that_fit(steps: int, took_s: list[float], left_s: float, expected: int) -> None:
    assert steps_in_time(steps, took_s, Deadline(left_s, lambda: 0.0)) == expected


def test_run_ends_in_time_with_its_rate_down_when_a_deadline_is_near(
    tiny: nn.Module, train: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, rates = Ticks(1.0), list[float]()
    monkeypatch.setattr(finetune.time, "monotonic", ticks)
    recovery = Recovery(tiny, train, Recipe(learning_rate=0.05, batch_size=16), ticks.step)
    step = recovery._step

    def noted(student: nn.Module, optimizer: torch.optim.Optimizer, *rest: Any) -> float:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(student, optimizer, *rest)

    monkeypatch.setattr(recovery, "_step", noted)
    report = recovery.run(copy.deepcopy(tiny), temperature=4.0, alpha=1.0, steps=100, seed=0, deadline=Deadline.after(20.0, ticks))
    assert report.steps == 17  # of 20 s: one takes the first batch, whose reading is timed
    assert ticks.now <= 20.0
    assert report.step_s == 1.0
    assert rates[-1] < 0.1 * max(rates)  # the whole cosine, not its first fifth


def test_learning_rate_test_leaves_out_what_there_is_no_time_for(
    tiny: nn.Module, train: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks(1.0)
    monkeypatch.setattr(finetune.time, "monotonic", ticks)
    rates = (0.003, 0.01, 0.03, 0.1)

    def recovery_of(rate: float) -> Recovery:
        return Recovery(tiny, train, Recipe(rate, 16), ticks.step)

    losses = learning_rate_test(lambda: copy.deepcopy(tiny), recovery_of, rates, 3, lambda _: 0.0, Deadline.after(9.0, ticks))
    assert list(losses) == [0.01, 0.03]  # from the middle; 6 s of 9, and the third has no time for its three steps


def test_seconds_per_step_are_measured_when_there_is_no_time_left(
    tiny: nn.Module, train: TensorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks(2.5)
    monkeypatch.setattr(finetune.time, "monotonic", ticks)
    recovery = Recovery(tiny, train, Recipe(batch_size=16), ticks.step)
    assert recovery.seconds_per_step(tiny, deadline=Deadline.after(-1.0, ticks)) == 2.5
    assert ticks.now == 2.5  # one step


def test_quickest_threads_leaves_the_number_of_threads_as_it_was(tiny: nn.Module, train: TensorDataset) -> None:
    before = torch.get_num_threads()
    found = Recovery(tiny, train, Recipe(batch_size=16)).quickest_threads(tiny, (1, 2))
    assert set(found) == {1, 2}
    assert torch.get_num_threads() == before
