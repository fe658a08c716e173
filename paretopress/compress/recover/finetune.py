"""Fine-tune a compressed module: least squares, batch-norm recalibration, then knowledge distillation from the original."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, fx, nn
from torch.utils.data import Dataset

from paretopress.compress.apply import Compressed
from paretopress.compress.recover.batch_statistics import norms_with_averages, recompute_batch_statistics
from paretopress.compress.recover.depthwise_precision import in_float32, slow_in_bf16
from paretopress.compress.recover.distillation_batches import KEPT_BYTES, DistillationBatches
from paretopress.compress.recover.features import OutputsAndFeatures, feature_loss, outputs_and_features
from paretopress.compress.recover.memory_format import placed
from paretopress.compress.recover.recipe import Optimizer, Recipe, Schedule
from paretopress.compress.recover.reconstruct import Reconstruction
from paretopress.compress.recover.sparsity import held, sparsity_masks
from paretopress.compress.resolution import resized_like, resolution_of
from paretopress.core.model_inputs import Inputs, joined, like, outputs_in_pieces, size_of, taken, tensors, values_of_an_item
from paretopress.errors import RecoveryError
from paretopress.system.batch_loading import Item
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.seeding import seeded
from paretopress.system.thread_pace import ThreadPace, threads_as_before
from paretopress.tasks.base import Task
from paretopress.tasks.classification import Classification

# steps that the seconds of the next ones are told from, and what batch-norm recalibration and the end take, in steps
_RECENT_STEPS, _ENDING_STEPS = 8, 2.0
# images that layers are re-solved on: 512 small ones, fewer large ones
_RECONSTRUCTION_ITEMS, _RECONSTRUCTION_VALUES = (32, 512), 2_000_000
# batch-norm statistics are taken from images of so many values together, 32 at least: 66 photos of 224x224
_RECALIBRATION_FEWEST, _RECALIBRATION_VALUES = 32, 10_000_000
# the distillation of what is trained before the first trial, to time steps and to compare rates
TRIED_TEMPERATURE, TRIED_ALPHA = 4.0, 0.9
_TOP_1 = Classification()
DistillationBatch = tuple[Inputs, Tensor, tuple[Tensor, ...]]


def usual_optimizer(module: nn.Module) -> Optimizer:
    """Return what such networks are trained with as a rule: AdamW where there are layer norms or recurrent layers, else SGD."""
    adaptive = any(isinstance(part, nn.LayerNorm | nn.RNNBase) for part in module.modules())
    return Optimizer.ADAMW if adaptive else Optimizer.SGD


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a recovery did: steps, mean loss over its first and last tenth, seconds; and the median seconds of its last steps."""

    steps: int
    first_loss: float
    last_loss: float
    duration_s: float
    step_s: float = 0.0


def best_device() -> torch.device:
    """Return CUDA or MPS where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return what tells a device from others of its type, too: "cpu", "cuda NVIDIA H100 PCIe"."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def trains_faster_in_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 autocast pays: emulated on a CPU without the instructions it halves the speed (390 -> 197 images/s)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


class Recovery:
    """Recovers candidates of one model: holds the teacher, the training data and the recipe.

    `around_step` is entered for every step: a step can be made to wait there while another process measures. `kept_bytes` of training
    batches stay in memory, and a quarter of that of the teacher's outputs, further batches on the disk of `folder`. `task` is what students
    learn. `pace` sets the threads.
    """

    def __init__(
        self,
        teacher: nn.Module,
        train: Dataset[Item],
        recipe: Recipe,
        around_step: Callable[[], AbstractContextManager[None]] = nullcontext,
        kept_bytes: int = KEPT_BYTES,
        task: Task = _TOP_1,
        pace: ThreadPace | None = None,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self._around_step, self._task = recipe, around_step, task
        self.device = best_device()
        self.pace = pace or ThreadPace(1)
        self._bf16 = trains_faster_in_bf16(self.device)
        self._teacher = placed(copy.deepcopy(teacher), self.device).eval().requires_grad_(False)
        taught = OutputsAndFeatures(self._teacher, recipe.features)
        self._batches = DistillationBatches(
            taught, train, recipe.batch_size, self.device, bf16=self._bf16, kept_bytes=kept_bytes, folder=folder
        )
        self._reconstructions: dict[tuple[int, float], Reconstruction] = {}

    def at(self, learning_rate: float) -> Recovery:
        """Return this recovery at another learning rate; both share the teacher, the batches and what was computed of them."""
        other = copy.copy(self)
        other.recipe = replace(self.recipe, learning_rate=learning_rate)
        return other

    def run(
        self, student: nn.Module, *, temperature: float, alpha: float, steps: int, seed: int, deadline: Deadline = NO_DEADLINE
    ) -> RecoveryReport:
        """Train `student` in place for `steps` batches and leave it in eval mode on the CPU.

        The same seed gives the same batches to every student; the process's random state is left as it was. Where the time until the
        deadline is too short for the steps at what they take now, the schedule is shortened with them, and training ends in time.
        Raises: RecoveryError: the loss is not finite, or the data set fails.
        """
        started = time.monotonic()
        losses: list[float] = []
        took_s: list[float] = []
        self.pace.student()
        with seeded(seed):
            placed(student, self.device).train()
            optimizer = self._optimizer(student)
            slow = slow_in_bf16(student) if self._bf16 and self.device.type == "cpu" else []
            reading = self._batches.reading(seed, self.recipe.calibration_batches, steps, self._around_step)
            with held(sparsity_masks(self.recipe.zeros, student)), in_float32(slow, self.device), reading as batches:
                while len(losses) < (whole := steps_in_time(steps, took_s, deadline)):
                    for group in optimizer.param_groups:
                        group["lr"] = self.recipe.learning_rate * rate_factor(len(losses), whole, self.recipe)
                    began = time.monotonic()
                    batches.wait()  # not within a step: who reads would wait for a measurement that waits for this step
                    with self._around_step(), self.pace.step():
                        losses.append(self._step(student, optimizer, batches.taught(), temperature, alpha))
                    took_s.append(time.monotonic() - began)
            # after the last step: training normalises by its own batches, and running averages lag behind a short one
            self._recalibrate_if_nearer(student, seed)
        student.eval().cpu()
        tenth = max(1, len(losses) // 10)
        first, last = (sum(part) / len(part) if part else 0.0 for part in (losses[:tenth], losses[-tenth:]))
        lately_s = median(took_s[1:][-_RECENT_STEPS:] or took_s or [0.0])  # the first step loads kernels
        return RecoveryReport(len(losses), first, last, time.monotonic() - started, lately_s)

    def reconstruct(self, compressed: Compressed, seed: int) -> tuple[str, ...]:
        """Re-solve the layers behind what was compressed, in place, before any training; see `Reconstruction`.

        Where a further batch shows the outputs farther from the teacher's than before, the weights stay as they were, and a note says so:
        what a hundred photos say of the layers of a large network is worth less than what it has learnt. Deterministic for a seed; draws
        nothing from the process's random state. Without calibration batches nothing is done.
        Raises: RecoveryError: the teacher is not a traced model, or the data set fails.
        """
        if self.recipe.calibration_batches == 0:
            return ()
        student = compressed.module
        with self._around_step():
            key = seed, resolution_of(student)
            if key not in self._reconstructions:
                if not isinstance(self._teacher, fx.GraphModule):
                    raise RecoveryError(f"reconstruction needs a traced teacher, but got {type(self._teacher).__name__}")
                teacher = resized_like(self._teacher, student).cpu()  # maps of one size can be compared
                self._reconstructions[key] = Reconstruction(teacher, self._calibration_inputs(seed), seed)
            before, was = weights_of(student), self._divergence(student, seed)
            self._reconstructions[key].apply(compressed)
            if self._divergence(student, seed) <= was:
                return ()
            student.load_state_dict(before)
            return ("its layers were not re-solved: on other items that was farther from the original",)

    def _calibration_inputs(self, seed: int) -> Inputs:
        """Return up to 512 items, fewer where they are large."""
        batches = itertools.islice(self._batches.inputs(seed), self.recipe.calibration_batches)
        whole = joined([_moved(batch, torch.device("cpu")) for batch in batches])
        fewest, most = _RECONSTRUCTION_ITEMS
        return taken(whole, min(max(_RECONSTRUCTION_VALUES // values_of_an_item(whole), fewest), most))

    def _recalibrate(self, student: nn.Module, seed: int) -> None:
        """Replace the batch-norm statistics by those of a few training batches."""
        if self.recipe.calibration_batches > 0:
            recompute_batch_statistics(student, self._recalibration_inputs(seed))

    def _recalibration_inputs(self, seed: int) -> Iterator[Inputs]:
        """Yield the batches of calibration, or as much of them as holds images enough."""
        seen = 0
        for batch in itertools.islice(self._batches.inputs(seed), self.recipe.calibration_batches):
            enough = max(_RECALIBRATION_VALUES // values_of_an_item(batch), _RECALIBRATION_FEWEST)
            yield taken(batch, enough - seen)
            seen += size_of(batch)
            if seen >= enough:
                return

    def _recalibrate_if_nearer(self, student: nn.Module, seed: int) -> None:
        """Recalibrate, unless a further batch shows the student nearer to the teacher with its running averages.

        Those come from all the data that a model was ever trained on: a hundred photos of a thousand classes tell less.
        """
        averages = [(buffer, buffer.clone()) for norm in norms_with_averages(student) for buffer in norm.buffers()]
        if self.recipe.calibration_batches == 0 or not averages:
            return
        was = self._divergence(student, seed)
        self._recalibrate(student, seed)
        if self._divergence(student, seed) > was:
            with torch.no_grad():
                for buffer, average in averages:
                    buffer.copy_(average)

    def _divergence(self, student: nn.Module, seed: int) -> float:
        """Return how far a student is from the teacher on the batch behind those of calibration; leaves it in eval mode."""
        judged, _, taught = next(self._batches.taught_batches(seed, self.recipe.calibration_batches))
        place = next((part.device for part in student.parameters()), self.device)
        found = outputs_in_pieces(student.eval(), _moved(judged, place))
        return float(self._task.divergence(found, [part.to(place) for part in taught[: len(found)]]))

    def recalibrated(self, student: nn.Module, seed: int) -> None:
        """Recalibrate batch norm alone, without a step of training; leaves `student` in eval mode on the CPU."""
        self._recalibrate(placed(student, self.device), seed)
        student.eval().cpu()

    def seconds_per_step(self, student: nn.Module, steps: int = 4, deadline: Deadline = NO_DEADLINE) -> float:
        """Return the measured seconds of one step, warm-up and calibration left out; `student` is not changed.

        On batches that another candidate was trained on: their images are read and their teacher was asked once for all. Where the
        deadline passes meanwhile, it is what the steps until then took; one is made in any case.
        """
        first_s = self._timed(student, 1 + steps, deadline)
        return self._timed(student, 1 + steps, deadline) or first_s or max(self._timed(student, 1, NO_DEADLINE), 1e-4)

    def quickest_threads(self, student: nn.Module, counts: Sequence[int], deadline: Deadline = NO_DEADLINE) -> dict[int, float]:
        """Return number of threads -> seconds of a step, for one count after another until one is slower or the time is up.

        Torch is left with the number of threads that it had.
        """
        found: dict[int, float] = {}
        with threads_as_before():
            for count in counts:
                if found and (deadline.passed or found[min(found, key=found.__getitem__)] < list(found.values())[-1]):
                    break
                torch.set_num_threads(count)
                found[count] = self.seconds_per_step(student, steps=2, deadline=deadline)
        return found

    def _timed(self, student: nn.Module, steps: int, deadline: Deadline) -> float:
        if deadline.passed:
            return 0.0
        bare = copy.copy(self)
        bare.recipe, bare.pace = replace(self.recipe, calibration_batches=0), ThreadPace(1)
        return bare.run(
            copy.deepcopy(student), temperature=TRIED_TEMPERATURE, alpha=TRIED_ALPHA, steps=steps, seed=0, deadline=deadline
        ).step_s

    def _optimizer(self, student: nn.Module) -> torch.optim.Optimizer:
        # decay pulls scales of normalisation and biases to zero for nothing: weights of two or more axes alone are decayed
        decayed = [p for p in student.parameters() if p.ndim > 1]
        plain = [p for p in student.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        if self.recipe.optimizer is Optimizer.ADAMW:
            return torch.optim.AdamW(groups, lr=self.recipe.learning_rate)
        return torch.optim.SGD(groups, lr=self.recipe.learning_rate, momentum=self.recipe.momentum, nesterov=True)

    def _loss(self, student: nn.Module, batch: DistillationBatch, temperature: float, alpha: float) -> Tensor:
        x, y, teacher = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            found, read = outputs_and_features(student, self.recipe.features, tensors(x))
        wanted, features = teacher[: len(found)], dict(zip(self.recipe.features, teacher[len(found) :], strict=True))
        return self._task.loss(found, wanted, y, temperature=temperature, alpha=alpha) + feature_loss(read, features)

    def held_out_loss(self, batch: tuple[Inputs, Tensor], temperature: float, alpha: float) -> Callable[[nn.Module], float]:
        """Return what tells of a student in eval mode, on items that it was not trained on, the loss that training lowers.

        That of features is left out. The teacher is run once.
        """
        x, y = batch
        wanted = [part.cpu() for part in outputs_in_pieces(self._teacher, _moved(x, self.device))]  # students are there after a recovery

        def loss(student: nn.Module) -> float:
            with torch.inference_mode():
                return float(self._task.loss(outputs_in_pieces(student, x), wanted, y, temperature=temperature, alpha=alpha))

        return loss

    def _step(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, batch: DistillationBatch, temperature: float, alpha: float
    ) -> float:
        loss = self._loss(student, batch, temperature, alpha)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RecoveryError(
                f"the training loss must be finite, but got {value}", "Lower recipe.learning_rate, or look for NaN in the data."
            )
        return value


def _moved(x: Inputs, device: torch.device) -> Inputs:
    return like(x, (part.to(device) for part in tensors(x)))


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights and buffers."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def steps_in_time(steps: int, took_s: Sequence[float], deadline: Deadline) -> int:
    """Return how many steps a recovery has, of which some took so many seconds: all, or as many as are done by the deadline."""
    if not deadline.finite:
        return steps
    if not took_s:
        return steps if not deadline.passed else 0
    lately_s = median(took_s[-_RECENT_STEPS:])
    return min(steps, len(took_s) + max(int(deadline.left_s / max(lately_s, 1e-6) - _ENDING_STEPS), 0))


def rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate at `step` of `steps`: linear warm-up, then the recipe's schedule.

    Source: Loshchilov and Hutter 2017, "SGDR", section 3, for the cosine.
    """
    rising = max(1, round(steps * recipe.warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    if recipe.schedule is Schedule.COSINE:
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if recipe.schedule is Schedule.LINEAR else 1.0
