"""One trial: from a plan to the measured ONNX file. Cheapest first: a plan over the budget is rejected before any training."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from paretopress.atomic import write_bytes
from paretopress.compress.apply import Compressed, compress_module
from paretopress.compress.recover import Recovery
from paretopress.errors import RunError
from paretopress.evaluators.accuracy import onnx_accuracy
from paretopress.evaluators.macs import count_macs
from paretopress.evaluators.size import file_facts
from paretopress.intake.data import Data, Split, batch, stack
from paretopress.intake.trace import Intake
from paretopress.lower.export import INPUT, export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.measurement import Latency, Outcome, Rung
from paretopress.plan import Plan
from paretopress.run_folder import MODEL_FILE, RunFolder
from paretopress.search.candidates import Bounds
from paretopress.targets.target import Target

STUDENT_FILE = "student.safetensors"
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 256, 64
_EARLY_IMAGES = 512
_SAMPLES = 16
_EVALUATION_BATCH = 128
_CACHE_BYTES = 1 << 30

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Effort:
    """Training steps by rung, and threads for scoring accuracy."""

    short_steps: int
    final_steps: int
    scoring_threads: int

    def steps(self, rung: Rung) -> int:
        """Return the training steps of a rung."""
        return self.final_steps if rung is Rung.FINAL else self.short_steps


class Batches:
    """The batches of a split as arrays, kept in memory where they are less than 1 GiB."""

    def __init__(self, split: Split, size: int) -> None:
        self._split, self._size = split, size
        self._kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            return iter(self._kept)
        first = next(self._read())
        if first[0].nbytes / len(first[0]) * self._size > _CACHE_BYTES:
            return self._read()
        self._kept = list(self._read())
        return iter(self._kept)

    def _read(self) -> Iterator[Batch]:
        for start in range(0, self._size, _EVALUATION_BATCH):
            x, y = batch(self._split, range(start, min(start + _EVALUATION_BATCH, self._size)))
            yield x.numpy(), y.numpy()


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Pipeline:
    """Carries out plans on one model, and measures what comes out; implements the search's `Evaluate`."""

    def __init__(
        self,
        intake: Intake,
        data: Data,
        target: Target,
        folder: RunFolder,
        *,
        reduce_range: bool,
        scoring_threads: int,
        seed: int,
        score_on_target: bool = False,
    ):
        self.intake, self.data = intake, data
        self.folder, self.seed, self.target = folder, seed, target
        self._reduce_range, self._threads = reduce_range, scoring_threads
        self._scored_on = target if score_on_target else None
        images, _ = stack(data.train, _CALIBRATION_IMAGES, seed)
        self._calibration = [part.numpy() for part in torch.split(images, _CALIBRATION_BATCH)]
        self._example, _ = stack(data.val, 4, seed)
        self.feed = {INPUT: self._example[:1].numpy()}
        self._val = Batches(data.val, data.sizes()["val"])
        early_x, early_y = stack(data.val, _EARLY_IMAGES, seed)
        self._early: list[Batch] = [(early_x.numpy(), early_y.numpy())]

    def measure_baseline(self) -> Outcome:
        """Export, measure and score the unchanged model; writes baseline.onnx and samples.npy."""
        watch = Stopwatch()
        path = self.folder.baseline
        samples = io.BytesIO()
        np.save(samples, self._early[0][0][:_SAMPLES])
        write_bytes(self.folder.samples, samples.getvalue())
        with watch.stage("export"):
            export_onnx(self.intake.module, self._example, path)
        with watch.stage("latency"):
            latency = self.target.measure_baseline(path, feed=self.feed, rng=np.random.default_rng(self.seed))
        return self._outcome(self.intake.module, path, path.name, Rung.FINAL, latency, self._val, watch)

    def test_accuracy(self, onnx_path: str) -> float:
        """Return the accuracy of a file of this run on the test split, in percent."""
        return self._accuracy(self.folder.root / onnx_path, Batches(self.data.test, self.data.sizes()["test"]))

    def val_accuracy(self, onnx_path: str) -> float:
        """Return the accuracy of a file of this run on the validation split, in percent."""
        return self._accuracy(self.folder.root / onnx_path, self._val)

    def _accuracy(self, path: Path, images: Iterable[Batch]) -> float:
        return onnx_accuracy(path, images, threads=self._threads, target=self._scored_on)

    def evaluator(self, recovery: Recovery, effort: Effort, bounds: Bounds) -> Evaluator:
        """Return the search's `evaluate`."""
        return Evaluator(self, recovery, effort, bounds)

    def lower(self, module: nn.Module, plan: Plan, path: Path, watch: Stopwatch, *, calibration_batches: int | None = None) -> None:
        """Write the ONNX file of a module under a plan's bits."""
        with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
            bits = self._bits_by_layer(module, plan)
            exported = Path(temporary, "float.onnx") if bits else path
            with watch.stage("export"):
                export_onnx(module, self._example, exported)
            if bits:
                with watch.stage("quantise"):
                    batches = self._calibration[:calibration_batches]
                    quantise_onnx(exported, path, bits, batches, reduce_range=self._reduce_range)

    def latency(self, path: Path, bounds: Bounds, number: int, watch: Stopwatch) -> Latency:
        """Return the latency of a file beside the baseline."""
        with watch.stage("latency"):
            return self.target.measure(
                path,
                self.folder.baseline,
                baseline_ms=bounds.baseline_ms,
                limit_ms=bounds.limit_ms,
                feed=self.feed,
                rng=np.random.default_rng((self.seed, number)),
            )

    def _bits_by_layer(self, module: nn.Module, plan: Plan) -> dict[str, int]:
        present = {name for name, _ in module.named_modules()}
        groups = {group.name: group.layers for group in self.intake.graph.bit_groups}
        return {layer: bits for name, bits in plan.bits.items() for layer in groups[name] if layer in present}

    def _outcome(
        self, module: nn.Module, path: Path, stored: str, rung: Rung, latency: Latency, images: Iterable[Batch], watch: Stopwatch
    ) -> Outcome:
        with watch.stage("macs"):
            macs = count_macs(module, self.intake.graph.input_shape)
        with watch.stage("accuracy"):
            accuracy = self._accuracy(path, images)
        size_bytes, sha256 = file_facts(path)
        return Outcome(
            rung=rung,
            val_accuracy=accuracy,
            macs=macs.macs,
            params=macs.params,
            latency=latency,
            size_bytes=size_bytes,
            onnx_path=stored,
            onnx_sha256=sha256,
            stages_s=dict(watch.seconds),
            uncounted=macs.uncounted,
        )

    def measured(self, module: nn.Module, path: Path, stored: str, rung: Rung, latency: Latency, watch: Stopwatch) -> Outcome:
        """Return the outcome of a recovered candidate, scored on all validation images."""
        return self._outcome(module, path, stored, rung, latency, self._val, watch)

    def rejected(self, module: nn.Module, path: Path, latency: Latency, watch: Stopwatch) -> Outcome:
        """Return the outcome of an untrained candidate, scored on the first validation images; its file is not kept."""
        return self._outcome(module, path, "", Rung.COSTS, latency, self._early, watch)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """`evaluate(plan, rung, number)` of one search."""

    pipeline: Pipeline
    recovery: Recovery
    effort: Effort
    bounds: Bounds

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the measured candidate of a plan.

        A trial's candidate starts from the original weights; a finalist goes on from its trial's. On failure nothing is left behind.
        Raises: RunError: a stage failed, with its reason.
        """
        final = rung is Rung.FINAL
        place = self.pipeline.folder.candidate(number, final=final)
        work = self.pipeline.folder.part(place)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        try:
            work.mkdir(parents=True)
            outcome = self._evaluate(plan, rung, number, work)
            if not outcome.rejected:
                work.rename(place)
            return outcome
        except OSError as error:
            raise RunError(f"the run folder must be writable, but got {error.strerror or error} at {place}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def latency_again(self, outcome: Outcome) -> Latency:
        """Return the latency of a candidate's file, measured once more."""
        occasion = time.monotonic_ns() % 2**32
        return self.pipeline.latency(self.pipeline.folder.root / outcome.onnx_path, self.bounds, occasion, Stopwatch())

    def _evaluate(self, plan: Plan, rung: Rung, number: int, work: Path) -> Outcome:
        watch, path = Stopwatch(), work / MODEL_FILE
        with watch.stage("compress"):
            compressed = compress_module(self.pipeline.intake.module, self.pipeline.intake.graph, plan)
        module = compressed.module
        if rung is Rung.FINAL:
            self._load(module, number)
        else:
            rejected = self._reject_by_costs(compressed, plan, number, path, watch)
            if rejected is not None:
                return rejected
            with watch.stage("reconstruct"):
                self.recovery.reconstruct(compressed, self.pipeline.seed)
        steps = self.effort.steps(rung)
        with watch.stage("recover"):
            if steps:
                seed = self.pipeline.seed + int(rung)  # the same batches for every candidate of a rung
                self.recovery.run(module, temperature=plan.temperature, alpha=plan.alpha, steps=steps, seed=seed)
        self.pipeline.lower(module, plan, path, watch)
        latency = self.pipeline.latency(path, self.bounds, number, watch)
        with watch.stage("save"):
            save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, work / STUDENT_FILE)
        stored = self.pipeline.folder.candidate(number, final=rung is Rung.FINAL) / MODEL_FILE
        outcome = self.pipeline.measured(module, path, str(stored.relative_to(self.pipeline.folder.root)), rung, latency, watch)
        return _with_notes(outcome, compressed)

    def _reject_by_costs(self, compressed: Compressed, plan: Plan, number: int, path: Path, watch: Stopwatch) -> Outcome | None:
        """Return the outcome of a plan that is over the budget, or None. Latency and size do not depend on the weights' values."""
        self.pipeline.lower(compressed.module, plan, path, watch, calibration_batches=1)
        latency = self.pipeline.latency(path, self.bounds, number, watch)
        size_bytes, _ = file_facts(path)
        limit, size_limit = self.bounds.limit_ms, self.bounds.budget.size_bytes
        if latency.latency_ci_ms[1] > limit:
            reason = f"over the latency budget, {latency.latency_ms:.3f} ms (up to {latency.latency_ci_ms[1]:.3f}) > {limit:.3f} ms"
        elif size_limit is not None and size_bytes > size_limit:
            reason = f"over the size budget, {size_bytes} > {size_limit} bytes"
        else:
            return None
        return _with_notes(self.pipeline.rejected(compressed.module, path, latency, watch), compressed, reason)

    def _load(self, module: fx.GraphModule, number: int) -> None:
        source = self.pipeline.folder.candidate(number, final=False) / STUDENT_FILE
        state: dict[str, Tensor] = load_file(source)
        with torch.no_grad():
            module.load_state_dict(state)


def _with_notes(outcome: Outcome, compressed: Compressed, rejected: str = "") -> Outcome:
    fields = outcome.to_json() | {"notes": compressed.notes, "rejected": rejected}
    return Outcome.from_json(fields)
