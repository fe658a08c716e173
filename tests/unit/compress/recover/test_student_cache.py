from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from paretopress.compress.recover.student_cache import StudentCache, StudentStore
from paretopress.core.outcome import Rung
from paretopress.core.plan import Plan
from paretopress.system.disk_cache import Cache


def weight(value: float) -> nn.Linear:
    layer = nn.Linear(4, 4, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_load_gives_the_weights_of_a_plan_that_differs_in_bits_alone() -> None:
    students = StudentCache()
    students.keep(weight(2.0), Plan(kept={"a": 8}), Rung.SHORT)
    student = weight(0.0)
    assert students.load(student, Plan(kept={"a": 8}, bits={"a": 8}), Rung.SHORT)
    assert torch.equal(student.weight, weight(2.0).weight)


def test_load_knows_nothing_when_widths_distillation_or_rung_differ() -> None:
    students = StudentCache()
    students.keep(weight(2.0), Plan(kept={"a": 8}), Rung.SHORT)
    student = weight(0.0)
    for plan, rung in (
        (Plan(kept={"a": 4}), Rung.SHORT),
        (Plan(kept={"a": 8}, temperature=2.0), Rung.SHORT),
        (Plan(kept={"a": 8}, rank={"a": 2}), Rung.SHORT),
        (Plan(kept={"a": 8}), Rung.LONG),
    ):
        assert not students.load(student, plan, rung)
    assert torch.equal(student.weight, weight(0.0).weight)


def test_keep_copies_the_weights_when_the_student_trains_on() -> None:
    students, trained = StudentCache(), weight(2.0)
    students.keep(trained, Plan(), Rung.SHORT)
    nn.init.zeros_(trained.weight)
    student = weight(0.0)
    students.load(student, Plan(), Rung.SHORT)
    assert torch.equal(student.weight, weight(2.0).weight)


def test_keep_forgets_what_was_not_used_for_longest_when_memory_is_bounded() -> None:
    students = StudentCache(kept_bytes=2 * 64)  # two matrices of 4 x 4 float32
    plans = [Plan(kept={"a": kept}) for kept in (1, 2, 3)]
    for plan in plans[:2]:
        students.keep(weight(1.0), plan, Rung.SHORT)
    students.load(weight(0.0), plans[0], Rung.SHORT)
    students.keep(weight(1.0), plans[2], Rung.SHORT)
    assert [students.load(weight(0.0), plan, Rung.SHORT) for plan in plans] == [True, False, True]


def save_other(names: dict[str, torch.Tensor]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(save(names))


@pytest.mark.parametrize(
    "damage",
    [
        save_other({"bias": torch.zeros(4)}),
        save_other({"weight": torch.zeros(4, 2)}),
        save_other({"weight": torch.zeros(4, 4, dtype=torch.float64)}),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["another tensor", "another shape", "another type", "truncated", "empty"],
)
def test_load_knows_nothing_when_what_was_stored_is_damaged(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    def students() -> StudentCache:
        return StudentCache(store=StudentStore(Cache(tmp_path, {}), {}))

    students().keep(weight(2.0), Plan(), Rung.SHORT)
    (file,) = tmp_path.rglob("*.safetensors")
    damage(file)
    student = weight(0.0)
    again = students()
    assert not again.load(student, Plan(), Rung.SHORT)
    assert torch.equal(student.weight, weight(0.0).weight)
    again.keep(weight(3.0), Plan(), Rung.SHORT)
    assert students().load(student, Plan(), Rung.SHORT)
    assert torch.equal(student.weight, weight(3.0).weight)
