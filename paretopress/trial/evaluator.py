"""Evaluate a plan at a rung: costs, short, longer or full fine-tuning. No plan over the budget is trained."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import fx, nn

from paretopress.compress.apply import Compressed, compress_module
from paretopress.compress.recover.finetune import Recovery, weights_of
from paretopress.compress.recover.qat import fake_quantised
from paretopress.compress.recover.recipe import DENSE
from paretopress.compress.recover.student_cache import StudentCache, fits
from paretopress.compress.resolution import without_resize
from paretopress.compress.sensitivity.branch_ranking import judged_items
from paretopress.compress.sensitivity.channel_importance import Ranking, rank_channels
from paretopress.core.model_inputs import Inputs
from paretopress.core.outcome import Latency, Outcome, Rung, decimals_for
from paretopress.core.plan import INT8_BITS, Criterion, Plan
from paretopress.errors import OutOfTimeError, RunError, typed_line
from paretopress.evaluators.macs import Macs, count_macs
from paretopress.intake.datasets.data import stack
from paretopress.search.candidates import Bounds
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.run_folder import MODEL_FILE
from paretopress.system.stage_timer import StageTimer
from paretopress.trial.effort import Effort
from paretopress.trial.pipeline import Pipeline

# a recovery that has less than this share of its steps tells too little to be worth its time
LEAST_SHARE = 0.3
# what follows the training of a candidate is expected to take so many times as long as it did the last time
_AFTER_FACTOR = 1.25
STUDENT_FILE = "student.safetensors"
# a finalist whose int8 file is behind its float module by more than noise trains on with rounding: for a share of its steps, at a share of
# the learning rate, on batches of their own
_ROUNDED_SHARE, _ROUNDED_RATE, _ROUNDED_SEED = 0.2, 0.3, 100


@dataclass(slots=True)
class _CurrentCandidate:
    """The candidate of the trial that is under way; `as_compressed` until its layers are re-solved or its weights are read back.

    `latency` is that of a file of the same operators, and `early_score` that of the module as it is, where this process knows them.
    """

    number: int
    rung: Rung
    compressed: Compressed
    macs: Macs
    as_compressed: bool
    latency: Latency | None = None
    early_score: float | None = None

    @property
    def module(self) -> fx.GraphModule:
        """The candidate as it is now."""
        return self.compressed.module


class PlanEvaluator:
    """`evaluate(plan, rung, number)` of one search. `students` are shared by plans that differ in their bits alone; None trains each.

    `left_s` returns the seconds until the run has to close: training ends so early that what follows it still fits. `after_s` is what that
    takes, as long as none was timed; `step_s` the seconds of a training step at the start.
    """

    left_s: Callable[[], float]

    def __init__(
        self,
        pipeline: Pipeline,
        recovery: Recovery,
        effort: Effort,
        bounds: Bounds,
        *,
        students: StudentCache | None = None,
        after_s: float = 0.0,
        step_s: float = 0.0,
    ) -> None:
        self.pipeline, self.recovery, self.effort, self.bounds = pipeline, recovery, effort, bounds
        self.left_s = lambda: math.inf
        self._students, self._after_s, self._step_s = students, after_s, step_s
        self._train_until = NO_DEADLINE
        self._in_hand: _CurrentCandidate | None = None
        self._macs: dict[Plan, Macs] = {}  # they do not depend on the bits
        self._rankings: dict[Criterion, Ranking] = {Criterion.L2: {}}  # what pruning goes by unless told otherwise
        self._judged: Inputs | None = None
        self._excess: float | None = None

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the measured candidate of a plan at a rung.

        Each rung goes on from the weights of the trial's last one; the first starts from the original weights. On failure the rung
        leaves nothing behind. Below the last rung the latency is that of the first: other weights take the same time.
        Raises: RunError: a stage failed, with its reason. OutOfTimeError: there is no time to train it for long enough.
        """
        self._train_until = Deadline.after(self.left_s()).sooner(_AFTER_FACTOR * self._after_s)
        folder = self.pipeline.folder
        place = folder.candidate(number, final=rung is Rung.FINAL)
        work = folder.part(place)
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            if rung is Rung.COSTS:
                return self._costs(plan, number, work / MODEL_FILE)
            outcome = self._recovered(plan, rung, number, work, str((place / MODEL_FILE).relative_to(folder.root)))
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
            return outcome
        except OSError as error:
            raise RunError(f"the run folder must be writable, but got {error.strerror or error} at {place}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def recover_in_part(self, plan: Plan, number: int, share: float) -> Outcome:
        """Return the outcome of a full recovery with `share` times its planned steps, below or above 1."""
        whole = self.effort
        self.effort = replace(whole, final_steps=max(1, round(share * whole.final_steps)))
        try:
            return self(plan, Rung.FINAL, number)
        finally:
            self.effort = whole

    def latency_again(self, outcome: Outcome) -> Latency:
        """Return the latency of a candidate's file, measured once more."""
        occasion = time.monotonic_ns() % 2**32
        return self.pipeline.latency(self.pipeline.folder.model_file(outcome.onnx_path), self.bounds, occasion, StageTimer(), again=True)

    def keep_within(self, left_s: Callable[[], float]) -> None:
        """Set the function that returns the seconds until the run has to close."""
        self.left_s = left_s

    def _costs(self, plan: Plan, number: int, path: Path) -> Outcome:
        """Measure what does not depend on the weights' values, and score the candidate untrained, its layers re-solved.

        The score is that of the first validation items, less what the original scores there above its score of all. One that is over a
        bound is not re-solved, and scored on few items.
        """
        watch = StageTimer()
        held = self._candidate(plan, Rung.COSTS, number, watch)
        self.pipeline.lower(held.module, plan, path, watch, only_timed=True)
        latency = self.pipeline.latency(path, self.bounds, number, watch)
        held.latency = replace(latency, alike=True, duration_s=0.0)
        rejected = self._over_budget(latency, path)
        if not rejected:
            self._reconstruct(held, watch)
        excess = 0.0 if rejected else self._early_excess(watch)
        outcome = self.pipeline.untrained(held.module, path, held.macs, latency, watch, rejected=bool(rejected))
        held.early_score = None if rejected else outcome.val_accuracy
        return replace(outcome, val_accuracy=outcome.val_accuracy - excess, notes=held.compressed.notes, rejected=rejected)

    def _early_excess(self, watch: StageTimer) -> float:
        """Return by how much the original's score on the first validation items is above that on all of them; asked for once."""
        if self._excess is None:
            with watch.stage("accuracy"):
                excess = self.pipeline.early_accuracy(self.pipeline.intake.module) - self.bounds.baseline_accuracy
            self._excess = excess if math.isfinite(excess) else 0.0
        return self._excess

    def _recovered(self, plan: Plan, rung: Rung, number: int, work: Path, stored: str) -> Outcome:
        watch, path = StageTimer(), work / MODEL_FILE
        self._demand_time(rung)
        held = self._candidate(plan, rung, number, watch)
        self._reconstruct(held, watch)
        learnt = self._recover(held, plan, rung, watch)
        held.rung, trained_s = rung, watch.elapsed_s
        self.pipeline.lower(held.module, plan, path, watch)
        rounded = self._quantisation_aware(held.module, plan, path, watch) if rung is Rung.FINAL else ()
        known = None if rung is Rung.FINAL else held.latency
        latency = known or self.pipeline.latency(path, self.bounds, number, watch)
        with watch.stage("save"):
            whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in held.module.state_dict().items()}
            save_file(whole, work / STUDENT_FILE)  # copies, because the format refuses weights that two layers share
        outcome = self.pipeline.measured(path, stored, rung, held.macs, latency, watch)
        self._after_s = watch.elapsed_s - trained_s
        return replace(outcome, notes=(*held.compressed.notes, *learnt, *rounded))

    def _demand_time(self, rung: Rung) -> None:
        """Raise OutOfTimeError where less than a share of the steps of a rung would fit, at what steps take now."""
        steps, left_s = self.effort.steps(rung), self._train_until.left_s
        if left_s < LEAST_SHARE * steps * self._step_s or left_s <= 0.0:
            raise OutOfTimeError(
                f"{LEAST_SHARE:.0%} of {steps} steps must fit into the rest of the run, but got {max(left_s, 0.0):.1f} s "
                f"at {self._step_s:.3f} s a step"
            )

    def _quantisation_aware(self, module: fx.GraphModule, plan: Plan, path: Path, watch: StageTimer) -> tuple[str, ...]:
        """Train a finalist on with rounding where int8 costs accuracy; keep what is better on validation data, and say what it brought."""
        layers = [name for name, bits in self.pipeline.bits_by_layer(module, plan).items() if bits == INT8_BITS]
        steps = round(_ROUNDED_SHARE * self.effort.final_steps)
        if not layers or steps == 0 or self._train_until.left_s < LEAST_SHARE * steps * self._step_s:
            return ()
        with watch.stage("accuracy"):
            lost = self.pipeline.float_accuracy(module) - self.pipeline.file_accuracy(path)
        if lost < self.bounds.floor:
            return ()
        before = weights_of(module)
        again = path.with_name(f"rounded-{path.name}")
        with watch.stage("recover"), fake_quantised(module, layers, reduce_range=self.pipeline.reduce_range):
            gently = self.recovery.at(_ROUNDED_RATE * self.recovery.recipe.learning_rate)
            seed, until = self.pipeline.seed + _ROUNDED_SEED, self._train_until
            steps = gently.run(module, temperature=plan.temperature, alpha=plan.alpha, steps=steps, seed=seed, deadline=until).steps
        self.pipeline.lower(module, plan, again, watch)
        with watch.stage("accuracy"):
            gained = self.pipeline.file_accuracy(again) - self.pipeline.file_accuracy(path)
        if gained > 0.0:
            again.replace(path)
        else:
            again.unlink()
            module.load_state_dict(before)
        metric, like = self.bounds.metric, self.bounds.baseline_accuracy
        cost, gain = metric.difference(lost, like), f"{max(gained, 0.0):.{decimals_for(like)}f}"
        return (f"int8 cost {cost} of validation {metric.name}; {steps} steps with rounding brought back {gain}",)

    def _recover(self, held: _CurrentCandidate, plan: Plan, rung: Rung, watch: StageTimer) -> tuple[str, ...]:
        """Train a candidate as its rung does; return notes if the time was too short for all steps, or training did harm."""
        notes, module = tuple[str, ...](), held.module
        shared = self._students if rung is not Rung.FINAL else None
        if shared is not None and shared.load(module, plan, rung):
            held.early_score = None
            return notes
        steps = self.effort.steps(rung)
        if steps or self.recovery.recipe.zeros != DENSE:
            was = self._early_score(module, watch) if held.early_score is None else held.early_score
            before = weights_of(module)
            seed = self.pipeline.seed + int(rung)  # the same batches for every candidate of a rung
            until = self._train_until
            with watch.stage("recover"):
                report = self.recovery.run(module, temperature=plan.temperature, alpha=plan.alpha, steps=steps, seed=seed, deadline=until)
            self._step_s = report.step_s or self._step_s
            if report.steps < LEAST_SHARE * steps:
                raise OutOfTimeError(f"{LEAST_SHARE:.0%} of {steps} steps must fit into the rest of the run, but got {report.steps}")
            held.early_score = self._early_score(module, watch)
            harm = was - held.early_score
            if harm > self.bounds.floor and self.recovery.recipe.zeros == DENSE:
                module.load_state_dict(before)
                held.early_score, metric = was, self.bounds.metric
                lost = metric.difference(harm, self.bounds.baseline_accuracy)
                notes = (f"{report.steps} steps of training cost {lost} of validation {metric.name}, and are taken back",)
            if report.steps < steps:  # what it learnt is not what the plan's recovery ends with: it is not shared
                return (*notes, f"trained for {report.steps} of {steps} steps, which was the time that the run had left")
        if shared is not None:
            shared.keep(module, plan, rung)
        return notes

    def _early_score(self, module: fx.GraphModule, watch: StageTimer) -> float:
        with watch.stage("accuracy"):
            return self.pipeline.early_accuracy(module)

    def _reconstruct(self, held: _CurrentCandidate, watch: StageTimer) -> None:
        if held.as_compressed:
            with watch.stage("reconstruct"):
                notes = self.recovery.reconstruct(held.compressed, self.pipeline.seed)
            held.compressed = replace(held.compressed, notes=(*held.compressed.notes, *notes))
            held.as_compressed = False

    def _candidate(self, plan: Plan, rung: Rung, number: int, watch: StageTimer) -> _CurrentCandidate:
        """Return the trial's module as the rung below left it; after a restart it is read back, or made again."""
        held = self._in_hand
        if held is not None and held.number == number and held.rung < rung < Rung.FINAL:
            return held
        with watch.stage("compress"):
            compressed = compress_module(self.pipeline.intake.module, self.pipeline.intake.graph, plan, self._ranking(plan.importance))
            trained = self.pipeline.folder.candidate(number, final=False) / STUDENT_FILE
            goes_on = rung > Rung.SHORT and trained.is_file()
            if goes_on:
                unreadable = _read_back(compressed.module, trained)
                if unreadable:
                    goes_on, compressed = False, replace(compressed, notes=(*compressed.notes, unreadable))
        widths = plan.widths()
        with watch.stage("macs"):
            if widths not in self._macs:
                self._macs[widths] = count_macs(*without_resize(compressed.module, self.pipeline.example))
        self._in_hand = _CurrentCandidate(number, rung, compressed, self._macs[widths], as_compressed=not goes_on)
        return self._in_hand

    def _ranking(self, criterion: Criterion) -> Ranking:
        """Return the original's channels by importance; found at the first plan that asks for it."""
        if criterion not in self._rankings:
            intake, data = self.pipeline.intake, self.pipeline.data
            if self._judged is None:  # the same for every criterion
                self._judged, _ = stack(data.train, judged_items(intake.graph), self.pipeline.seed)
            ranking = rank_channels(intake.module, intake.graph, self._judged, criterion, task=data.task, seed=self.pipeline.seed)
            self._rankings[criterion] = ranking
        return self._rankings[criterion]

    def _over_budget(self, latency: Latency, path: Path) -> str:
        """Return why the plan is over the budget, or "". Latency and size do not depend on the weights' values."""
        size_bytes = path.stat().st_size
        limit, size_limit = self.bounds.limit_ms, self.bounds.budget.size_bytes
        if latency.latency_ci_ms[1] > limit:
            return f"over the latency budget, {latency.latency_ms:.3f} ms (up to {latency.latency_ci_ms[1]:.3f}) > {limit:.3f} ms"
        if size_limit is not None and size_bytes > size_limit:
            return f"over the size budget, {size_bytes} > {size_limit} bytes"
        return ""


def _read_back(module: nn.Module, path: Path) -> str:
    """Give a module the weights of a file; where that cannot be, leave the module as it is and return why, else ""."""
    try:
        state = load_file(path)
    except Exception as error:  # SafetensorError is none of the built-in kinds
        return f"the weights of the trial could not be read, and it starts from the original ones: {typed_line(error)}"
    if not fits(module, state):
        return "the weights of the trial are of another structure, and it starts from the original ones"
    with torch.no_grad():
        module.load_state_dict(state)
    return ""
