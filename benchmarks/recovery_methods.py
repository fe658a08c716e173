"""Ways to win accuracy back after compression: what benchmarks/recovery.py compares at equal time.

A method is a row of `METHODS`: how a student comes about, and with which recipe it is trained. One time step is one training batch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn
from torch.utils.data import Dataset

from paretopress.compress.apply import Compressed, compress_module
from paretopress.compress.prune.channels import KeptChannels
from paretopress.compress.recover.finetune import Recovery, RecoveryReport
from paretopress.compress.recover.recipe import Recipe, Schedule
from paretopress.compress.recover.reconstruct import Reconstruction
from paretopress.core.plan import Plan
from paretopress.intake.trace import Intake

SEED = 0
CALIBRATION_IMAGES = 512
# the layers that read what a stage of the ResNet-20 puts out
STAGE_READERS = ("layer2.0.conv1", "layer3.0.conv1", "fc")


def recipe(batch_size: int = 128, **more: object) -> Recipe:
    """Return the default recipe but for what is given, calibrated on the same number of images at every batch size."""
    return replace(Recipe(batch_size=batch_size, calibration_batches=CALIBRATION_IMAGES // batch_size), **more)


Kind = Callable[[nn.Module, Dataset[tuple[Tensor, int]], Recipe], Recovery]


class EarlyRecovery(Recovery):
    """Recalibrates batch norm before the first step instead of after the last."""

    _trains = False

    def run(self, student: nn.Module, *, temperature: float, alpha: float, steps: int, seed: int) -> RecoveryReport:
        self.recalibrated(student, seed)
        self._trains = True
        try:
            return super().run(student, temperature=temperature, alpha=alpha, steps=steps, seed=seed)
        finally:
            self._trains = False

    def _recalibrate(self, student: nn.Module, seed: int) -> None:
        if not self._trains:
            super()._recalibrate(student, seed)


@dataclass(frozen=True, slots=True)
class Bench:
    """The model and a recovery per recipe and kind, which share nothing but the data."""

    intake: Intake
    train: Dataset[tuple[Tensor, int]]
    images: Tensor
    recoveries: dict[tuple[Recipe, Kind], Recovery] = field(default_factory=dict)

    def recovery(self, method: Method) -> Recovery:
        """Return the recovery of a method; methods with the same batches share them."""
        key = (method.recipe, method.kind)
        if key not in self.recoveries:
            made = method.kind(self.intake.module, self.train, method.recipe)
            for (other, _), recovery in self.recoveries.items():
                if (other.batch_size, other.features) == (method.recipe.batch_size, method.recipe.features):
                    made._batches, made._reconstructions = recovery._batches, recovery._reconstructions
            self.recoveries[key] = made
        return self.recoveries[key]

    def warm(self, method: Method, batches: int) -> None:
        """Draw the batches, compute what the teacher says to them, and what reconstruction needs of the teacher: a run's, not a trial's."""
        recovery = self.recovery(method)
        for _ in itertools.islice(recovery._batches.taught_batches(SEED, 0), batches):
            pass
        recovery.reconstruct(compress_module(self.intake.module, self.intake.graph, Plan()), SEED)

    def compressed(self, plan: Plan) -> Compressed:
        """Return the compressed, not recovered model of a plan."""
        return compress_module(self.intake.module, self.intake.graph, plan)


Make = Callable[["Bench", "Method", Plan, int], nn.Module]


@dataclass(frozen=True, slots=True)
class Method:
    """`make(bench, method, plan, steps)` returns the recovered student."""

    name: str
    make: Make
    recipe: Recipe = field(default_factory=recipe)
    kind: Kind = Recovery


def train(bench: Bench, method: Method, student: nn.Module, steps: int) -> nn.Module:
    """Train for so many steps and recalibrate batch norm."""
    bench.recovery(method).run(student, temperature=4.0, alpha=0.9, steps=steps, seed=SEED)
    return student


def plain(bench: Bench, method: Method, plan: Plan, steps: int) -> nn.Module:
    """Compress, then train."""
    return train(bench, method, bench.compressed(plan).module, steps)


def reconstructed(bench: Bench, method: Method, plan: Plan, steps: int) -> nn.Module:
    """Compress, re-solve the layers behind, then train."""
    compressed = bench.compressed(plan)
    bench.recovery(method).reconstruct(compressed, SEED)
    return train(bench, method, compressed.module, steps) if steps else compressed.module


def progressive(parts: int) -> Make:
    """Return a method that carries out the plan in parts, re-solves after each against the model before it, and trains in between."""

    def make(bench: Bench, method: Method, plan: Plan, steps: int) -> nn.Module:
        module: fx.GraphModule = bench.intake.module
        each = [steps // parts] * (parts - 1) + [steps - steps // parts * (parts - 1)]
        for part, share in zip(plan_parts(plan, parts), each, strict=True):
            compressed = compress_module(module, bench.intake.graph, part)
            if module is bench.intake.module:
                bench.recovery(method).reconstruct(compressed, SEED)
            else:
                Reconstruction(module, bench.images, SEED).apply(compressed)
            train(bench, method, compressed.module, share)
            module = compressed.module
        return module

    return make


def plan_parts(plan: Plan, parts: int) -> list[Plan]:
    """Return plans that make up the plan when carried out one after another; the ranks come last."""
    kept = list(plan.kept.items())
    pieces = [dict(kept[i::parts]) for i in range(parts)]
    return [Plan(kept=piece, rank=plan.rank if i == parts - 1 else {}) for i, piece in enumerate(pieces)]


@dataclass(frozen=True, slots=True)
class Donor:
    """A trained neighbour: its student, and the channels it kept."""

    module: fx.GraphModule
    kept: KeptChannels


def inherited(donor: Donor, *, solve: bool) -> Make:
    """Return a method that starts from a neighbour's trained values wherever both students hold the same channel of the original."""

    def make(bench: Bench, method: Method, plan: Plan, steps: int) -> nn.Module:
        compressed = bench.compressed(plan)
        overlay(compressed, donor, bench.intake.module)
        if solve:
            bench.recovery(method).reconstruct(compressed, SEED)
        return train(bench, method, compressed.module, steps)

    return make


def overlay(compressed: Compressed, donor: Donor, original: fx.GraphModule) -> None:
    """Put a donor's values into a compressed module: by channels of the original, or whole where only the shapes agree (factors)."""
    given, base, state = donor.module.state_dict(), original.state_dict(), compressed.module.state_dict()
    for key, value in state.items():
        theirs = given.get(key)
        if theirs is None or key not in base:
            if theirs is not None and theirs.shape == value.shape:
                value.copy_(theirs)
            continue
        whole = base[key].clone()
        whole[channels(donor.kept, key, whole)] = theirs
        value.copy_(whole[channels(compressed.kept, key, whole)])


def channels(kept: KeptChannels, key: str, tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the index of what is left of a tensor of the original, broadcastable over its first two axes."""
    if tensor.ndim == 0:
        return ()
    name = key.rpartition(".")[0]
    rows = torch.tensor(kept.outputs.get(name, range(len(tensor))))
    if tensor.ndim == 1:
        return (rows,)
    return rows[:, None], torch.tensor(kept.inputs.get(name, range(tensor.shape[1])))


BN_ALONE, SOLVED_ALONE = Method("BN recalibration alone", plain), Method("reconstruction alone", reconstructed)
KD, SOLVED_KD = Method("KD", plain), Method("reconstruction + KD", reconstructed)
# each differs from "reconstruction + KD" in what its name says
VARIANTS = (
    Method("learning rate 0.01", reconstructed, recipe(learning_rate=0.01)),
    Method("learning rate 0.1", reconstructed, recipe(learning_rate=0.1)),
    Method("batch size 64", reconstructed, recipe(64)),
    Method("batch size 256", reconstructed, recipe(256)),
    Method("constant rate", reconstructed, recipe(schedule=Schedule.CONSTANT)),
    Method("linear decay", reconstructed, recipe(schedule=Schedule.LINEAR)),
    Method("no warm-up", reconstructed, recipe(warmup=0.0)),
    Method("feature matching", reconstructed, recipe(features=STAGE_READERS)),
    Method("progressive, 2 parts", progressive(2)),
    Method("BN recalibration before training", reconstructed, kind=EarlyRecovery),
)


def timed(bench: Bench, method: Method, plan: Plan, steps: int) -> tuple[nn.Module, float]:
    """Return the student of a method and the processor seconds that everything took."""
    started = time.process_time()
    return method.make(bench, method, plan, steps), time.process_time() - started
