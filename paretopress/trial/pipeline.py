"""The stages of a trial after compression: export, quantise, measure, score; and the same for the baseline."""

from __future__ import annotations

import io
import json
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from paretopress.compress.resolution import without_resize
from paretopress.core.arrays import Batch
from paretopress.core.model_inputs import Inputs, arrays, feeds, split, tensors
from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.core.resampling import fitted_feed
from paretopress.errors import RunError
from paretopress.evaluators.accuracy import module_accuracy, onnx_accuracies, onnx_accuracy, onnx_scorer
from paretopress.evaluators.macs import Macs, count_macs
from paretopress.evaluators.registry import further_figures
from paretopress.evaluators.size import file_facts, input_shapes
from paretopress.intake.datasets.batches import Batches, forget
from paretopress.intake.datasets.data import Data, stack
from paretopress.intake.onnx_module import timed_feed
from paretopress.intake.trace import Intake
from paretopress.lower.exchanged_weights import ExportedGraphs
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import PLAIN, Formats, quantise_onnx
from paretopress.search.candidates import Bounds
from paretopress.system.atomic_files import write_bytes, write_json
from paretopress.system.disk_cache import Cache
from paretopress.system.event_log import EventLog
from paretopress.system.lru_cache import LruCache
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.probe.probe_report import probe_fingerprint
from paretopress.targets.target import Target
from paretopress.tasks.base import Scorer
from paretopress.tasks.spread import item_scores, paired_error, score_error

_CALIBRATION_ITEMS, _CALIBRATION_BATCH = 256, 64
_EARLY_ITEMS, _REJECTED_ITEMS = 512, 64
_SAMPLES = 16
_EXPORTS_BYTES = 64 << 20
# files that are scored together where their data are read for each scoring: a session takes about twice its file
_TOGETHER_BYTES = 512 << 20
# the cache's folders of latencies, and their file
_LATENCY, _LATENCY_FILE = "latency", "latency.json"


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """How candidates are lowered and scored.

    Attributes:
        seed: of everything that is drawn. reduce_range: int8 weights use 7 bits, for CPUs whose int8 sums overflow.
        scoring_threads: of the sessions that score accuracy. score_on_target: score on the target, not on this host.
        formats: number formats of all candidates, beside their plans' bits. evaluators: names of what measures further figures.
    """

    seed: int
    reduce_range: bool
    scoring_threads: int
    score_on_target: bool = False
    formats: Formats = PLAIN
    evaluators: tuple[str, ...] = ()


class Pipeline:
    """Carries out plans on one model, and measures what comes out; the stages that the plan evaluator puts together."""

    def __init__(
        self,
        intake: Intake,
        data: Data,
        target: Target,
        folder: RunFolder,
        settings: PipelineSettings,
        *,
        cache: Cache | None = None,
        identity: Mapping[str, Any] = MappingProxyType({}),
    ):
        """Take the parts; `identity` names what they were made from, see `run.compatibility`."""
        self.identity = identity
        self.intake, self.data = intake, data
        self.folder, self.target, self.cache = folder, target, cache
        self.seed = seed = settings.seed
        self.reduce_range, self.formats, self._threads = settings.reduce_range, settings.formats, settings.scoring_threads
        self._evaluators = settings.evaluators
        self._scored_on = target if settings.score_on_target else None
        self._names, self._outputs = ([spec.name for spec in specs] for specs in (intake.graph.inputs, intake.graph.outputs))
        calibration, _ = stack(data.train, _CALIBRATION_ITEMS, seed)
        self._calibration = list(feeds(self._names, split(calibration, _CALIBRATION_BATCH)))
        self.example, _ = stack(data.val, 4, seed)
        self.feed = timed_feed(self._names, self.example, intake.module)
        for scored in (data.val, data.test):  # what was read of them lives as long as this pipeline: they may change before the next
            forget(scored)
            weakref.finalize(self, forget, scored).atexit = False
        self._val, self._test = (Batches(data.splits()[name], data.sizes()[name], folder.root) for name in ("val", "test"))
        # by sha256 of the file
        self._test_scores: dict[str, float] = {}
        self._val_scores: dict[str, tuple[float, float | None]] = {}
        early_x, early_y = stack(data.val, _EARLY_ITEMS, seed)
        self._early: list[Batch] = [(arrays(early_x), early_y.numpy())]
        self._exports, self._graphs = LruCache[bytes](_EXPORTS_BYTES, len), ExportedGraphs()
        self._fingerprint: dict[str, Any] | None = None
        self._baseline_sha256: str | None = None
        self._baseline_scores: npt.NDArray[np.float64] | None = None

    def measure_baseline(self) -> Outcome:
        """Export, measure and score the unchanged model; writes baseline.onnx and samples.npz."""
        watch = StageTimer()
        path = self.folder.baseline
        samples = io.BytesIO()
        kept: dict[str, Any] = {name: part[:_SAMPLES] for name, part in zip(self._names, self._early[0][0], strict=True)}
        np.savez(samples, **kept)
        write_bytes(self.folder.samples, samples.getvalue())
        with watch.stage("export"):
            export_onnx(self.intake.module, self.example, path, self._names, self._outputs)
        with watch.stage("latency"):
            latency = self.target.measure_baseline(path, feed=self.feed, rng=np.random.default_rng(self.seed))
        with watch.stage("macs"):
            macs = count_macs(self.intake.module, self.example)
        with watch.stage("accuracy"):
            scorer = self._scorer(path)
        scores = item_scores(scorer)
        kept_scores = io.BytesIO()
        np.save(kept_scores, np.zeros(0) if scores is None else scores)
        write_bytes(self.folder.baseline_scores, kept_scores.getvalue())
        outcome = _outcome(path, path.name, Rung.FINAL, scorer.score(), macs, latency, watch)
        return replace(outcome, val_error=score_error(scorer), figures=further_figures(self._evaluators, path, self.feed))

    def test_accuracy(self, onnx_path: str) -> float:
        """Return the accuracy of a file of this run on the test split, in percent."""
        return self._test_accuracy(self.folder.model_file(onnx_path))

    def test_accuracies(self, onnx_paths: Sequence[str]) -> dict[str, float | RunError]:
        """Return the accuracy of each file of this run on the test split, in percent, or why it has none.

        Where the split is too large to be kept, it is read once for as many files as fit into memory together.
        Raises: DataError: the split cannot be scored. TargetLostError: the target that scores is out of reach.
        """
        found: dict[str, float | RunError] = {}
        by_sha256: dict[str, list[str]] = {}
        for path in onnx_paths:
            try:
                by_sha256.setdefault(_sha256(self.folder.model_file(path)), []).append(path)
            except RunError as error:
                found[path] = error
        unknown = [(sha256, self.folder.model_file(paths[0])) for sha256, paths in by_sha256.items() if sha256 not in self._test_scores]
        for group in _groups(unknown, 0 if self._test.kept() else _TOGETHER_BYTES):
            paths = [path for _, path in group]
            scores = onnx_accuracies(paths, self._test, threads=self._threads, target=self._scored_on, task=self.data.task)
            for (sha256, _), score in zip(group, scores, strict=True):
                if isinstance(score, RunError):
                    found |= dict.fromkeys(by_sha256[sha256], score)
                else:
                    self._test_scores[sha256] = score
        known = {path: self._test_scores.get(sha256) for sha256, paths in by_sha256.items() for path in paths}
        return found | {path: score for path, score in known.items() if score is not None}

    def demand_measured(self, outcome: Outcome) -> None:
        """Raise RunError unless the file of a candidate of this run is there, and the one that was measured."""
        path = self.folder.model_file(outcome.onnx_path)
        if _sha256(path) != outcome.onnx_sha256:
            raise RunError(f"a candidate's file must be the one that was measured, but got another hash at {path}")

    def val_accuracy(self, onnx_path: str) -> float:
        """Return the accuracy of a file of this run on the validation split, in percent."""
        return self.file_accuracy(self.folder.model_file(onnx_path))

    def file_accuracy(self, path: Path) -> float:
        """Return the accuracy of any file on the validation split, in percent."""
        return self._val_score(path)[0]

    def float_accuracy(self, module: nn.Module) -> float:
        """Return the score of a candidate on the validation split before it was quantised."""
        return module_accuracy(module, self._val, self.data.task)

    def early_accuracy(self, module: nn.Module, items: int = _EARLY_ITEMS) -> float:
        """Return the score of a module on the first validation items, at most 512."""
        taken = [(tuple(part[:items] for part in inputs), labels[:items]) for inputs, labels in self._early]
        return module_accuracy(module, taken, self.data.task)

    def _test_accuracy(self, path: Path) -> float:
        """Return the accuracy of a file on the test split; one whose bytes were scored already is not scored again."""
        key = _sha256(path)
        if key not in self._test_scores:
            score = onnx_accuracy(path, self._test, threads=self._threads, target=self._scored_on, task=self.data.task)
            self._test_scores[key] = score
        return self._test_scores[key]

    def _val_score(self, path: Path) -> tuple[float, float | None]:
        """Return the accuracy of a file on the validation split, and the standard error of its drop where single items are scored.

        A file whose bytes were scored already is not scored again.
        """
        key = _sha256(path)
        if key not in self._val_scores:
            scorer = self._scorer(path)
            self._val_scores[key] = scorer.score(), self._drop_error(scorer)
        return self._val_scores[key]

    def _scorer(self, path: Path) -> Scorer:
        return onnx_scorer(path, self._val, threads=self._threads, target=self._scored_on, task=self.data.task)

    def _drop_error(self, scorer: Scorer) -> float | None:
        """Return the standard error of the drop that a scorer shows; None where no single items are scored, the baseline's or its."""
        if self._baseline_scores is None:
            kept = self.folder.baseline_scores
            self._baseline_scores = np.load(kept, allow_pickle=False) if kept.is_file() else np.zeros(0)
        return paired_error(item_scores(scorer), self._baseline_scores)

    def lower(self, module: nn.Module, plan: Plan, path: Path, watch: StageTimer, *, only_timed: bool = False) -> None:
        """Write the ONNX file of a module under a plan's bits.

        One that is `only_timed` must be what the plan makes of the original, without any training. Its ranges are made up, it is not
        compared with the module, and it is exported once for all plans that differ in their bits.
        """
        bare, example = without_resize(module, self.example)
        with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
            bits = self.bits_by_layer(module, plan)
            stored_otherwise = bool(bits) or self.formats.float16
            exported = Path(temporary, "float.onnx") if stored_otherwise else path
            with watch.stage("export"):
                if only_timed:
                    self._export_to_time(bare, example, plan.widths(), exported)
                else:
                    self._graphs.export(bare, example, exported, self._names, self._outputs)
            if stored_otherwise:
                with watch.stage("quantise"):
                    shapes = list(zip(self._names, (part.shape for part in tensors(example)), strict=True))
                    items = [] if only_timed else [fitted_feed(feed, shapes) for feed in self._calibration]
                    quantise_onnx(exported, path, bits, items, reduce_range=self.reduce_range, formats=self.formats)

    def _export_to_time(self, module: nn.Module, example: Inputs, widths: Plan, path: Path) -> None:
        known = self._exports.get(widths)
        if known is not None:
            write_bytes(path, known)
            return
        self._graphs.export(module, example, path, self._names, self._outputs, checked=False)
        self._exports.put(widths, path.read_bytes())

    def fingerprint(self) -> dict[str, Any]:
        """Return what a latency on this run's target depends on beside the files; it is asked for once."""
        if self._fingerprint is None:
            self._fingerprint = probe_fingerprint(self.target.name, self.target.environment())
        return self._fingerprint

    def whole_identity(self) -> dict[str, Any]:
        """Return what names all that a run rests on, its target included."""
        return {**self.identity, "target": self.fingerprint()}

    def latency(self, path: Path, bounds: Bounds, number: int, watch: StageTimer, *, again: bool = False) -> Latency:
        """Return the latency of a file beside the baseline; `again` measures also what an earlier run measured."""
        sha256 = file_facts(path)[1]
        with watch.stage("latency"):
            latency = None if again else self._measured_before(sha256, bounds)
            if latency is None:
                latency = self.target.measure(
                    path,
                    self.folder.baseline,
                    baseline_ms=bounds.baseline_ms,
                    limit_ms=bounds.limit_ms,
                    feed=self.feed,
                    rng=np.random.default_rng((self.seed, number)),
                )
                self._keep_latency(sha256, latency)
        EventLog(self.folder.latencies)("latency", {"onnx_sha256": sha256, "latency": latency.to_json()})
        return bounds.on_scale(latency)

    def _measured_before(self, sha256: str, bounds: Bounds) -> Latency | None:
        """Return the latency that an earlier run measured of the same bytes beside the same baseline, on this run's scale."""
        if self.cache is None:
            return None
        latency = self.cache.read(_LATENCY, self._latency_parts(sha256), _read_latency)
        if latency is None:
            return None
        (low, high), ms = latency.ratio_ci, bounds.baseline_ms
        return replace(latency, latency_ms=latency.ratio * ms, latency_ci_ms=(low * ms, high * ms), duration_s=0.0, foreign_cores=None)

    def _keep_latency(self, sha256: str, latency: Latency) -> None:
        if self.cache is not None:
            self.cache.put(_LATENCY, self._latency_parts(sha256), lambda place: write_json(place / _LATENCY_FILE, latency.to_json()))

    def _latency_parts(self, sha256: str) -> dict[str, Any]:
        if self._baseline_sha256 is None:
            self._baseline_sha256 = file_facts(self.folder.baseline)[1]  # once: it does not change, and can be large
        return {"onnx_sha256": sha256, "baseline_sha256": self._baseline_sha256, "target": self.fingerprint()}

    def bits_by_layer(self, module: nn.Module, plan: Plan) -> dict[str, int]:
        """Return layer -> bits of the layers that a plan quantises and the module still has."""
        graph = self.intake.graph
        present = (layer.name for layer in graph.layers) if graph.only_bits else (name for name, _ in module.named_modules())
        return graph.bits_by_layer(plan.bits, set(present))

    def measured(self, path: Path, stored: str, rung: Rung, macs: Macs, latency: Latency, watch: StageTimer) -> Outcome:
        """Return the outcome of a recovered candidate: its file, kept at `stored`, is scored on all validation items."""
        with watch.stage("accuracy"):
            score, error = self._val_score(path)
        with watch.stage("evaluators"):
            feed = fitted_feed(self.feed, input_shapes(path)) if self._evaluators else self.feed
            figures = further_figures(self._evaluators, path, feed)
        return replace(_outcome(path, stored, rung, score, macs, latency, watch), val_error=error, figures=figures)

    def untrained(self, module: nn.Module, path: Path, macs: Macs, latency: Latency, watch: StageTimer, *, rejected: bool) -> Outcome:
        """Return the outcome of an untrained candidate: the module is scored on the first validation images, its file is not kept.

        One that was rejected for its costs is scored on few of them: nothing depends on it.
        """
        with watch.stage("accuracy"):
            accuracy = self.early_accuracy(module, _REJECTED_ITEMS if rejected else _EARLY_ITEMS)
        return _outcome(path, "", Rung.COSTS, accuracy, macs, latency, watch)


def _sha256(path: Path) -> str:
    """Return the hash of a file that is to be scored; raises RunError if it cannot be read."""
    try:
        return file_facts(path)[1]
    except OSError as error:
        raise RunError(f"a file that is scored must be readable, but got {error.strerror} at {path.name}") from error


def _groups(files: Sequence[tuple[str, Path]], most_bytes: int) -> list[list[tuple[str, Path]]]:
    """Return (sha256, file) in groups of at most so many bytes, each of one file at least."""
    groups: list[list[tuple[str, Path]]] = []
    left_bytes = 0
    for sha256, path in files:
        size_bytes = path.stat().st_size
        if size_bytes > left_bytes or not groups:
            groups.append([])
            left_bytes = most_bytes
        groups[-1].append((sha256, path))
        left_bytes -= size_bytes
    return groups


def _outcome(path: Path, stored: str, rung: Rung, accuracy: float, macs: Macs, latency: Latency, watch: StageTimer) -> Outcome:
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


def _read_latency(place: Path) -> Latency:
    return Latency.from_json(json.loads((place / _LATENCY_FILE).read_text()))
