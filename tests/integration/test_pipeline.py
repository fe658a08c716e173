"""One trial on a small real model, in this process."""

from __future__ import annotations

import errno
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from paretopress.compress.recover import finetune
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.recipe import Recipe
from paretopress.compress.recover.student_cache import StudentCache
from paretopress.config import parse_config
from paretopress.core.outcome import Budget, Latency, Rung
from paretopress.core.plan import Criterion, Plan
from paretopress.core.resampling import resized
from paretopress.errors import OutOfTimeError, RunError
from paretopress.evaluators import accuracy
from paretopress.evaluators.accuracy import onnx_scorer
from paretopress.evaluators.size import file_facts, input_shapes
from paretopress.intake.datasets import batches
from paretopress.intake.datasets.data import Data
from paretopress.intake.trace import take_in
from paretopress.run.findings import SetupFinder
from paretopress.search.candidates import Bounds
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system import arrays_on_disk, atomic_files
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.run_folder import RunFolder, create_run_folder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets import file_facts as file_facts_module
from paretopress.tasks.classification import Classification
from paretopress.tasks.spread import item_scores
from paretopress.trial import evaluator as evaluator_module
from paretopress.trial import pipeline
from paretopress.trial.effort import Effort
from paretopress.trial.evaluator import STUDENT_FILE, PlanEvaluator
from paretopress.trial.pipeline import Batches, Pipeline, PipelineSettings


@dataclass
class FixedTarget:
    """A target on which every candidate takes the same time."""

    latency_ms: float
    measured: list[str] = field(default_factory=list)

    def measure(self, candidate: Path, reference: Path, **_: Any) -> Latency:
        self.measured.append(file_facts(candidate)[1])
        ms = self.latency_ms
        return Latency(ms, (ms, ms), ms / 10.0, (ms / 10.0, ms / 10.0), ms, ms, 10.0, 8, 100, 0.0)

    def measure_baseline(self, path: Path, **_: Any) -> Latency:
        return Latency(10.0, (10.0, 10.0), 1.0, (1.0, 1.0), 10.0, 10.0, 10.0, 8, 100, 0.0)


class CountingRecovery(Recovery):
    """Counts the training steps that were asked for."""

    steps = 0

    def run(self, student: nn.Module, *, steps: int, **rest: Any) -> Any:
        self.steps += steps
        return super().run(student, steps=steps, **rest)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run_folder(tmp_path / "run")


class HarmfulRecovery(Recovery):
    """Training after which a student answers the contrary."""

    def run(self, student: nn.Module, **rest: Any) -> Any:
        report = super().run(student, **rest)
        with torch.no_grad():
            student.fc.weight.mul_(-1.0)
            student.fc.bias.mul_(-1.0)
        return report


def evaluator(tiny: nn.Module, folder: RunFolder, latency_ms: float, *, own_labels: bool = False) -> PlanEvaluator:
    """Return an evaluator on random images, with random labels or those that the model gives."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> TensorDataset:
        images, labels = torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 4, (count,), generator=generator)
        with torch.inference_mode():
            return TensorDataset(images, tiny.eval()(images).argmax(dim=1) if own_labels else labels)

    data = Data(split(64), split(32), split(32))
    intake = take_in(tiny, data.val.tensors[0][:2])  # type: ignore[attr-defined]
    pipeline = Pipeline(intake, data, FixedTarget(latency_ms), folder, PipelineSettings(0, reduce_range=False, scoring_threads=1))
    baseline = pipeline.measure_baseline()
    bounds = Bounds(Budget(latency_ms=5.0), baseline.latency.latency_ms, baseline.val_accuracy)
    return PlanEvaluator(pipeline, CountingRecovery(intake.module, data.train, Recipe(batch_size=16)), Effort(2, 4, 3, 1), bounds)


def test_evaluate_trains_nothing_when_the_plan_is_over_the_budget(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=6.0)
    outcome = evaluate(Plan(bits={"stem": 8}), Rung.COSTS, 0)
    assert evaluate.recovery.steps == 0  # type: ignore[attr-defined]
    assert outcome.rejected == "over the latency budget, 6.000 ms (up to 6.000) > 5.000 ms"
    assert outcome.rung is Rung.COSTS
    assert not folder.candidate(0, final=False).exists()


def test_evaluate_measures_the_bytes_it_keeps_when_within_budget(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    outcome = evaluate(Plan(kept={"block1.conv1": 4}, bits={"stem": 8}), Rung.SHORT, 3)
    assert evaluate.recovery.steps == 2  # type: ignore[attr-defined]
    assert "reconstruct" in outcome.stages_s
    assert file_facts(folder.root / outcome.onnx_path) == (outcome.size_bytes, outcome.onnx_sha256)
    assert evaluate.pipeline.target.measured[-1] == outcome.onnx_sha256  # type: ignore[attr-defined]


def test_outcomes_tell_the_error_of_their_drop_when_items_are_scored(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    pipeline, plan = evaluate.pipeline, Plan(kept={"block2.conv1": 8})
    evaluate(plan, Rung.COSTS, 1)
    outcome = evaluate(plan, Rung.SHORT, 1)
    scores = np.load(folder.baseline_scores)
    share = evaluate.bounds.baseline_accuracy / 100.0
    assert (len(scores), scores.mean()) == (32, evaluate.bounds.baseline_accuracy)
    assert pipeline.measure_baseline().val_error == pytest.approx(100.0 * np.sqrt(share * (1.0 - share) / 31))
    theirs = item_scores(onnx_scorer(folder.root / outcome.onnx_path, Batches(pipeline.data.val, 32), threads=1))
    assert theirs is not None
    changed, lost = np.count_nonzero(theirs != scores), (theirs - scores).sum() / 100.0
    assert outcome.val_error == pytest.approx(100.0 * np.sqrt(changed + 1 - lost**2 / 34) / 34)  # of 32 items, and half of each kind
    folder.baseline_scores.unlink()  # as in a run of an earlier version
    resumed = Pipeline(pipeline.intake, pipeline.data, pipeline.target, folder, PipelineSettings(0, reduce_range=False, scoring_threads=1))
    assert PlanEvaluator(resumed, evaluate.recovery, evaluate.effort, evaluate.bounds)(plan, Rung.SHORT, 1).val_error is None


def test_latency_counts_the_baselines_interval_for_a_bound_in_ms(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.8)
    unsure = replace(evaluate.bounds, baseline_ci_ms=(9.3, 10.7))
    evaluate = PlanEvaluator(evaluate.pipeline, evaluate.recovery, evaluate.effort, unsure)
    outcome = evaluate(Plan(), Rung.COSTS, 0)
    assert outcome.latency.latency_ci_ms[1] == pytest.approx(4.8 * np.sqrt(10.7 / 9.3))
    assert outcome.rejected.startswith("over the latency budget, 4.800 ms (up to 5.149) > 5.000 ms")


def test_evaluate_goes_on_from_the_trial_when_final(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    plan = Plan(kept={"block2.conv1": 8})
    short = evaluate(plan, Rung.SHORT, 1)
    final = evaluate(plan, Rung.FINAL, 1)
    assert evaluate.recovery.steps == 5  # type: ignore[attr-defined]
    assert (final.onnx_path, final.rung) == ("finalists/0001/model.onnx", Rung.FINAL)
    assert final.macs == short.macs
    assert "reconstruct" not in final.stages_s  # it goes on from weights that were solved for and trained
    assert (folder.root / short.onnx_path).is_file()


def test_a_trial_times_its_first_file_and_its_last(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate, plan = evaluator(tiny, folder, latency_ms=4.0), Plan(kept={"block1.conv1": 8}, bits={"stem": 8})
    measured = evaluate.pipeline.target.measured  # type: ignore[attr-defined]
    outcomes = [evaluate(plan, rung, 1) for rung in (Rung.COSTS, Rung.SHORT, Rung.LONG)]
    assert measured == [outcomes[0].onnx_sha256]
    assert [outcome.latency.alike for outcome in outcomes] == [False, True, True]
    final = evaluate(plan, Rung.FINAL, 1)
    assert measured[1:] == [final.onnx_sha256]
    assert not final.latency.alike
    evaluate.latency_again(outcomes[2])
    assert measured[2:] == [outcomes[2].onnx_sha256]


@pytest.mark.parametrize("rung", [Rung.SHORT, Rung.FINAL])
def test_training_that_does_harm_is_taken_back(tiny: nn.Module, folder: RunFolder, rung: Rung) -> None:
    evaluate, plan = evaluator(tiny, folder, latency_ms=4.0, own_labels=True), Plan(kept={"block1.conv1": 12})
    untrained = evaluate(plan, Rung.COSTS, 1)
    evaluate.recovery = HarmfulRecovery(evaluate.pipeline.intake.module, evaluate.pipeline.data.train, Recipe(batch_size=16))
    outcome = evaluate(plan, rung, 1)
    assert untrained.val_accuracy > 80.0
    assert outcome.val_accuracy == pytest.approx(untrained.val_accuracy)
    assert outcome.notes[-1].endswith("points of validation top-1, and are taken back")


def test_costs_are_scored_against_the_original_on_the_same_items(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_EARLY_ITEMS", 8)
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    early = evaluate.pipeline.early_accuracy(evaluate.pipeline.intake.module)
    assert early != evaluate.bounds.baseline_accuracy
    assert evaluate(Plan(), Rung.COSTS, 0).val_accuracy == pytest.approx(evaluate.bounds.baseline_accuracy)
    found = evaluate(Plan(kept={"block1.conv1": 4}), Rung.COSTS, 1).val_accuracy
    assert evaluate._in_hand is not None
    assert found == pytest.approx(evaluate.pipeline.early_accuracy(evaluate._in_hand.module) - early + evaluate.bounds.baseline_accuracy)


def finder_of(here: Pipeline, deadline: Deadline) -> SetupFinder:
    return SetupFinder(here, SearchSpace(here.intake.graph, SpaceOptions()), parse_config({}, "the test"), StageTimer(), deadline, print)


@dataclass(frozen=True)
class Scripted(Classification):
    """A task whose divergences are given."""

    told: tuple[float, ...] = ()
    asked: list[int] = field(default_factory=list)

    def divergence(self, found: Any, wanted: Any) -> Tensor:
        self.asked.append(len(self.asked))
        return torch.tensor(self.told[self.asked[-1]])


@pytest.mark.parametrize(
    ("told", "steps", "trained"),
    [((0.5, 0.4), 5, [5]), ((0.5, 0.6, 0.5, 0.4), 20, [5, 10, 20]), ((0.5, 0.6, 0.7, 0.8), 40, [5, 10, 20])],
    ids=["at once", "after twenty", "never"],
)
def test_setup_finds_how_many_steps_gain_anything(
    tiny: nn.Module, folder: RunFolder, told: tuple[float, ...], steps: int, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = evaluator(tiny, folder, latency_ms=4.0).pipeline
    here.data = replace(here.data, task=Scripted(told=told))
    ran: list[int] = []
    monkeypatch.setattr(Recovery, "run", lambda self, student, *, steps, **_: ran.append(steps))
    recovery = Recovery(here.intake.module, here.data.train, Recipe(batch_size=16))
    finder = finder_of(here, NO_DEADLINE)
    assert finder._least_steps(recovery, torch.rand(8, 3, 8, 8), 0.01) == steps
    assert ran == trained


@pytest.mark.parametrize("deadline", [Deadline.after(1.0), NO_DEADLINE], ids=["no time", "steps of a minute"])
def test_setup_takes_few_steps_to_gain_where_there_is_no_time_to_look(tiny: nn.Module, folder: RunFolder, deadline: Deadline) -> None:
    here = evaluator(tiny, folder, latency_ms=4.0).pipeline
    recovery = Recovery(here.intake.module, here.data.train, Recipe(batch_size=16))
    assert finder_of(here, deadline)._least_steps(recovery, torch.rand(8, 3, 8, 8), 60.0) == 5


@pytest.mark.parametrize("damage", ["truncated", "another structure"])
def test_evaluate_starts_from_original_weights_when_the_trials_are_damaged(tiny: nn.Module, folder: RunFolder, damage: str) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    plan = Plan(kept={"block2.conv1": 8})
    evaluate(plan, Rung.SHORT, 1)
    student = folder.root / "trials/0001/student.safetensors"
    student.write_bytes(student.read_bytes()[:-8] if damage == "truncated" else save({"weight": torch.zeros(4)}))
    final = evaluate(plan, Rung.FINAL, 1)
    assert "reconstruct" in final.stages_s
    assert any("starts from the original ones" in note for note in final.notes)
    assert file_facts(folder.root / final.onnx_path) == (final.size_bytes, final.onnx_sha256)


@pytest.mark.parametrize("rung", [Rung.COSTS, Rung.SHORT])
def test_evaluate_names_the_score_when_the_metric_gives_none(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, rung: Rung
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    monkeypatch.setattr(type(evaluate.pipeline.data.task.scorer()), "score", lambda _: float("nan"))
    with pytest.raises(RunError, match=r"a score must be a finite number, but got val_accuracy=nan"):
        evaluate(Plan(), rung, 1)
    assert not folder.candidate(1, final=False).exists()


def test_demand_measured_refuses_a_file_that_is_gone_or_another(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    outcome = evaluate(Plan(), Rung.SHORT, 1)
    evaluate.pipeline.demand_measured(outcome)
    path = folder.root / outcome.onnx_path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="another hash"):
        evaluate.pipeline.demand_measured(outcome)
    path.unlink()
    with pytest.raises(RunError, match="must be readable, but got No such file"):
        evaluate.pipeline.demand_measured(outcome)


def test_evaluate_goes_on_from_the_trial_when_layers_share_weights(tiny: nn.Module, folder: RunFolder) -> None:
    tiny.block1.conv2.weight = tiny.block1.conv1.weight
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    plan = Plan(kept={"block2.conv1": 8})
    evaluate(plan, Rung.SHORT, 1)
    evaluate(Plan(), Rung.SHORT, 2)  # so that the first is read back
    final = evaluate(plan, Rung.FINAL, 1)
    assert "reconstruct" not in final.stages_s
    assert (folder.root / final.onnx_path).is_file()


def test_evaluate_goes_on_from_the_short_rung_when_long(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate, again = evaluator(tiny, folder, latency_ms=4.0), None
    plan = Plan(kept={"block2.conv1": 8})
    for rung in (Rung.COSTS, Rung.SHORT, Rung.LONG):
        again = evaluate(plan, rung, 1)
    assert evaluate.recovery.steps == 6  # type: ignore[attr-defined]  # 2 and 4 more
    assert again is not None
    assert file_facts(folder.root / again.onnx_path) == (again.size_bytes, again.onnx_sha256)
    in_one_process = load_file(folder.root / "trials/0001/student.safetensors")
    evaluate(plan, Rung.SHORT, 1)
    resumed = PlanEvaluator(evaluate.pipeline, evaluate.recovery, evaluate.effort, evaluate.bounds)
    resumed(plan, Rung.LONG, 1)
    weights = load_file(folder.root / "trials/0001/student.safetensors")
    counters = "num_batches_tracked"  # counts the batches of the first rung's recalibration too, and nothing reads it
    differ = [name for name, value in weights.items() if not name.endswith(counters) and not torch.equal(value, in_one_process[name])]
    assert differ == []


@pytest.mark.parametrize(("rounded", "kept"), [(60.0, True), (40.0, False)])
def test_evaluate_keeps_the_better_file_when_int8_costs_accuracy(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, rounded: float, kept: bool
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate.effort = Effort(2, 4, 5, 1)
    evaluate.recovery.recipe = replace(evaluate.recovery.recipe, learning_rate=0.1)
    plan = Plan(kept={"block1.conv1": 4}, bits={"stem": 8})
    evaluate(plan, Rung.SHORT, 1)
    monkeypatch.setattr(Pipeline, "float_accuracy", lambda self, module: 0.0)  # int8 costs nothing
    without = evaluate(plan, Rung.FINAL, 1)
    weights = load_file(folder.root / "finalists/0001/student.safetensors")
    monkeypatch.setattr(Pipeline, "float_accuracy", lambda self, module: 52.0)
    monkeypatch.setattr(Pipeline, "file_accuracy", lambda self, path: rounded if path.name.startswith("rounded-") else 50.0)
    final = evaluate(plan, Rung.FINAL, 1)
    again = load_file(folder.root / "finalists/0001/student.safetensors")
    same = all(torch.equal(value, weights[name]) for name, value in again.items())
    assert (final.onnx_sha256 != without.onnx_sha256, not same) == (kept, kept)
    assert final.notes[-1].endswith(f"1 steps with rounding brought back {10.0 if kept else 0.0:.2f}")
    assert evaluate.pipeline.target.measured[-1] == final.onnx_sha256  # type: ignore[attr-defined]
    assert sorted(file.name for file in (folder.root / "finalists/0001").iterdir()) == ["model.onnx", "student.safetensors"]


def test_evaluate_trains_once_when_plans_differ_in_bits_alone(tiny: nn.Module, folder: RunFolder) -> None:
    made = evaluator(tiny, folder, latency_ms=4.0)
    evaluate = PlanEvaluator(made.pipeline, made.recovery, made.effort, made.bounds, students=StudentCache())
    weights = []
    for number, bits in enumerate(({}, {"stem": 8})):
        for rung in (Rung.COSTS, Rung.SHORT):
            evaluate(Plan(kept={"block2.conv1": 8}, bits=bits), rung, number)
        weights.append(load_file(folder.root / f"trials/{number:04d}/student.safetensors"))
    assert evaluate.recovery.steps == 2  # type: ignore[attr-defined]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_evaluate_scores_the_baselines_accuracy_when_the_plan_is_empty(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    still = PlanEvaluator(
        evaluate.pipeline,
        CountingRecovery(tiny, evaluate.pipeline.data.train, Recipe(16, calibration_batches=0)),
        Effort(0, 0, 0, 1),
        evaluate.bounds,
    )
    outcome = still(Plan(), Rung.SHORT, 0)
    assert outcome.val_accuracy == evaluate.bounds.baseline_accuracy


def test_evaluate_leaves_nothing_behind_when_the_disk_is_full(tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        evaluate(Plan(), Rung.SHORT, 0)
    assert list((folder.root / "trials").iterdir()) == []


def test_pipeline_changes_no_input_when_it_measures(tiny: nn.Module, folder: RunFolder, images: Tensor) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate(Plan(kept={"stem": 4}), Rung.SHORT, 0)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert np.isfinite(images.numpy()).all()


def test_evaluator_keeps_the_channels_of_the_plans_criterion_when_it_thins(tiny: nn.Module, folder: RunFolder) -> None:
    with torch.no_grad():
        tiny.block1.bn1.weight.copy_(torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4]))
        tiny.block1.conv1.weight[1::2] *= 10.0  # the norms say otherwise
    evaluate = evaluator(tiny, folder, latency_ms=3.0)
    evaluate.effort = Effort(0, 0, 0, 1)
    by_scale = tiny.block1.conv1.weight[::2]
    for number, criterion in enumerate((Criterion.BN_SCALE, Criterion.L2)):
        outcome = evaluate(Plan(kept={"block1.conv1": 4}, importance=criterion), Rung.FINAL, number)
        kept = load_file(folder.root / Path(outcome.onnx_path).with_name(STUDENT_FILE))["block1.conv1.weight"]
        assert torch.equal(kept, by_scale) is (criterion is Criterion.BN_SCALE)


class CountedItems(TensorDataset):
    """Counts the items that are read."""

    reads = 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return super().__getitem__(index)


def counted(evaluate: PlanEvaluator, folder: RunFolder) -> tuple[Pipeline, CountedItems]:
    """Return a new pipeline over the same model whose test split counts its reads, and that split."""
    old = evaluate.pipeline
    test = CountedItems(*old.data.test.tensors)  # type: ignore[attr-defined]
    data = replace(old.data, test=test)
    return Pipeline(old.intake, data, old.target, folder, PipelineSettings(0, reduce_range=False, scoring_threads=1)), test


def two_files(evaluate: PlanEvaluator) -> list[str]:
    """Return the baseline's file, a candidate's, and a copy of it."""
    outcome = evaluate(Plan(kept={"block2.conv1": 8}), Rung.SHORT, 1)
    root = evaluate.pipeline.folder.root
    copy = "trials/0002/model.onnx"
    (root / copy).parent.mkdir()
    shutil.copy(root / outcome.onnx_path, root / copy)
    return ["baseline.onnx", outcome.onnx_path, copy]


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1000], ids=["kept", "streamed"])
def test_test_accuracies_read_items_and_score_equal_bytes_once(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    files = two_files(evaluate)
    monkeypatch.setattr(batches, "MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(arrays_on_disk, "DISK_BYTES", 0)
    alone = [counted(evaluate, folder)[0].test_accuracy(path) for path in files]
    made, test = counted(evaluate, folder)
    opened, real = list[str](), accuracy.open_session
    monkeypatch.setattr(accuracy, "open_session", lambda path, *args, **options: opened.append(path.name) or real(path, *args, **options))
    found = made.test_accuracies([*files, "trials/0009/model.onnx"])
    assert [found[path] for path in files] == alone
    assert "must be readable" in str(found["trials/0009/model.onnx"])
    assert test.reads == 32
    assert opened == ["baseline.onnx", "model.onnx"]
    made.test_accuracies(files)
    assert (test.reads, len(opened)) == (32, 2)


def test_groups_hold_at_most_so_many_bytes_when_files_are_scored_together(tmp_path: Path) -> None:
    files = []
    for name, size in (("a", 3), ("b", 4), ("c", 5), ("d", 20), ("e", 1)):
        (tmp_path / name).write_bytes(bytes(size))
        files.append((name, tmp_path / name))
    names = [[name for name, _ in group] for group in pipeline._groups(files, 8)]
    assert names == [["a", "b"], ["c"], ["d"], ["e"]]
    assert len(pipeline._groups(files, 0)) == 5


def test_evaluate_scores_each_file_of_a_finalist_once_with_rounding(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate.effort = Effort(2, 4, 5, 1)
    scored, real = list[str](), pipeline.onnx_scorer
    monkeypatch.setattr(pipeline, "onnx_scorer", lambda path, *args, **options: scored.append(path.name) or real(path, *args, **options))
    monkeypatch.setattr(Pipeline, "float_accuracy", lambda self, module: 200.0)  # int8 costs much, whatever it scores
    final = evaluate(Plan(bits={"stem": 8}), Rung.FINAL, 1)
    assert scored == ["model.onnx", "rounded-model.onnx"]
    assert final.val_accuracy == real(folder.root / final.onnx_path, evaluate.pipeline._val, threads=1).score()


def test_latency_again_reads_no_file_when_it_was_read_before(tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    outcome = evaluate(Plan(), Rung.SHORT, 1)
    read, real = list[Path](), file_facts_module._read
    monkeypatch.setattr(file_facts_module, "_read", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(file_facts_module, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10))
    for _ in range(3):
        evaluate.latency_again(outcome)
    assert len(read) <= 1


def test_pipeline_reads_its_splits_again_when_an_earlier_one_read_them(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    made, test = counted(evaluate, folder)
    before = made.test_accuracy("baseline.onnx")
    with torch.no_grad():
        test.tensors[1].add_(1).remainder_(4)  # a user who mends labels in the session
    again = Pipeline(made.intake, made.data, made.target, folder, PipelineSettings(0, reduce_range=False, scoring_threads=1))
    assert again.test_accuracy("baseline.onnx") != before
    assert test.reads == 64


def test_evaluator_reads_judged_items_once_when_criteria_differ(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=6.0)
    stacked, real = list[int](), evaluator_module.stack
    monkeypatch.setattr(evaluator_module, "stack", lambda split, count, seed: stacked.append(count) or real(split, count, seed))
    for number, criterion in enumerate(Criterion):
        evaluate(Plan(kept={"block1.conv1": 4}, importance=criterion), Rung.COSTS, number)
    assert len(stacked) == 1


def test_evaluate_trains_as_far_as_the_time_goes_when_the_run_ends(
    tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate.effort = replace(evaluate.effort, final_steps=20)
    monkeypatch.setattr(finetune, "steps_in_time", lambda steps, took_s, deadline: min(steps, 8))
    evaluate.keep_within(lambda: 1e6)
    outcome = evaluate(Plan(kept={"stem": 4}), Rung.FINAL, 0)
    assert "trained for 8 of 20 steps, which was the time that the run had left" in outcome.notes
    assert (folder.root / outcome.onnx_path).is_file()


def test_evaluate_begins_no_recovery_when_too_little_of_it_would_fit(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate.effort = replace(evaluate.effort, final_steps=1_000)
    evaluate._step_s = 1.0  # what a step took lately
    evaluate.keep_within(lambda: 250.0)
    with pytest.raises(OutOfTimeError, match=r"30% of 1000 steps must fit .* but got 2\d\d\.\d s at 1\.000 s a step"):
        evaluate(Plan(kept={"stem": 4}), Rung.FINAL, 0)
    assert evaluate.recovery.steps == 0  # type: ignore[attr-defined]
    assert not folder.candidate(0, final=True).exists()


def test_evaluate_keeps_time_for_what_follows_the_training(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate._after_s = 80.0  # measuring and scoring the last candidate
    evaluate.keep_within(lambda: 99.0)
    with pytest.raises(OutOfTimeError):
        evaluate(Plan(kept={"stem": 4}), Rung.SHORT, 0)
    evaluate.keep_within(lambda: 1e6)
    evaluate(Plan(kept={"stem": 4}), Rung.SHORT, 0)
    assert 0.0 < evaluate._after_s < 80.0  # by what the last one took


def test_evaluate_shares_no_student_that_the_time_cut_off(tiny: nn.Module, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    evaluate._students = StudentCache()
    with monkeypatch.context() as short:
        short.setattr(finetune, "steps_in_time", lambda steps, took_s, deadline: 1)
        evaluate(Plan(), Rung.SHORT, 0)
    evaluate(Plan(bits={"stem": 8}), Rung.SHORT, 1)
    assert evaluate.recovery.steps == 4  # type: ignore[attr-defined]  # both were trained


def test_evaluate_scores_and_keeps_a_file_that_takes_smaller_images(tiny: nn.Module, folder: RunFolder) -> None:
    evaluate = evaluator(tiny, folder, latency_ms=4.0)
    plan = Plan(kept={"block2.conv1": 8}, bits={"stem": 8, "fc": 8}, resolution=0.75)
    costs, outcome = evaluate(plan, Rung.COSTS, 1), evaluate(plan, Rung.SHORT, 1)
    whole = evaluate(replace(plan, resolution=1.0), Rung.COSTS, 2)
    path = folder.root / outcome.onnx_path
    assert input_shapes(path) == [("input", (None, 3, 6, 6))]
    assert costs.macs == outcome.macs < 0.7 * whole.macs
    images = evaluate.pipeline.data.val.tensors[0]  # type: ignore[attr-defined]
    session = ort.InferenceSession(path)
    logits = session.run(None, {"input": resized(images.numpy(), 6, 6)})[0]
    right = (logits.argmax(1) == evaluate.pipeline.data.val.tensors[1].numpy()).mean()  # type: ignore[attr-defined]
    assert outcome.val_accuracy == pytest.approx(100.0 * right)
