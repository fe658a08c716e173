"""What each technique that the field names buys on this machine: accuracy, size, size of an archive, measured speed.

    python benchmarks/techniques.py [--steps 120]

CIFAR-10 (JPEG): the ResNet-20, and for equalisation and bias correction the MobileNetV2, whose depthwise layers they are made for;
SST-2: MiniLM, for formats of Linear layers (its packages: see sst2.py). Every technique that trains gets the same distillation, without
least squares before it but where a row says so, so that nothing but the technique differs. Accuracy is of the file in the runtime on the
first 2,000 validation items, never on test data; at the end all files are measured in random order, interleaved with the baseline. Writes
results/techniques.json, from which docs/techniques.md is made; a model that is not named keeps its rows. About 15 minutes on two
cores, with nothing else running.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import technique_methods as methods
from real_search import sessions_by_file
from recovery_methods import STAGE_READERS
from results_file import Headline, recorded_rows, write_result
from torch import fx, nn
from torch.utils.data import Subset

from paretopress.compress.apply import compress_module
from paretopress.compress.recover.finetune import Recovery
from paretopress.compress.recover.recipe import Optimizer, Sparsity
from paretopress.compress.sensitivity.channel_importance import rank_channels
from paretopress.config import RunConfig, read_config
from paretopress.core.model_inputs import feeds
from paretopress.core.plan import Criterion, Plan
from paretopress.errors import first_line
from paretopress.intake.datasets.data import Data, stack
from paretopress.intake.trace import Intake
from paretopress.lower.quantise import PLAIN, Formats
from paretopress.run.factory import load_and_trace
from paretopress.run.setup import scoring_threads
from paretopress.search.samplers.initial_plans import int8_bits
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import create_run_folder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

RUNS = Path(__file__).resolve().parent.parent / "runs"
VAL_ITEMS, SCORED_IMAGES, CORRECTED_IMAGES = 2_000, 512, 256
# the order in which a search on the ResNet-20 removes branches (runs/results/cifar10_resnet20_state.json)
BRANCHES = ("layer1.2.conv1", "layer2.2.conv1", "layer1.1.conv1", "layer2.1.conv1")
UNSTRUCTURED, N_OF_M = "unstructured pruning", "N:M pruning"
HALF, HALVED, PRUNED = 0.5, "low rank, half of the multiply-adds", "channel pruning, half inside each block"


@dataclass(slots=True)
class Bench:
    """One model: makes files, scores them, and measures them at the end."""

    name: str
    folder: Path
    steps: int
    config: RunConfig = field(init=False)
    intake: Intake = field(init=False)
    data: Data = field(init=False)
    space: SearchSpace = field(init=False)
    pipeline: Pipeline = field(init=False)
    recovery: Recovery = field(init=False)
    rows: list[dict[str, object]] = field(default_factory=list)
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = read_config(RUNS / f"{self.name}.toml")
        self.intake, whole = load_and_trace(self.config)
        self.data = replace(whole, val=Subset(whole.val, range(min(VAL_ITEMS, whole.sizes()["val"]))))
        capabilities, run = detect(environment()), create_run_folder(self.folder)
        self.space = SearchSpace(self.intake.graph, SpaceOptions(channel_step=capabilities.channel_step))
        self.pipeline = Pipeline(
            self.intake, self.data, LocalTarget(), run, PipelineSettings(0, capabilities.reduce_range, scoring_threads())
        )
        recipe = self.config.recovery.recipe(1e-4 if self.config.recovery.optimizer == Optimizer.ADAMW else 0.03)
        self.recovery = Recovery(self.intake.module, self.data.train, recipe, task=self.data.task)
        self.batches = list(
            feeds([spec.name for spec in self.intake.graph.inputs], [stack(self.data.train, 64, seed)[0] for seed in range(4)])
        )
        self.add("unchanged", "float", self.exported(self.intake.module))

    def add(self, technique: str, variant: str, path: Path, *, steps: int = 0) -> None:
        """Score a file and keep it for the measurement; a format that the runtime refuses is a row that says so."""
        row: dict[str, object] = {"model": self.name, "technique": technique, "variant": variant, "steps": steps}
        self.rows.append(row)
        try:
            row["val_accuracy"] = round(self.pipeline.file_accuracy(path), 2)
        except Exception as error:  # the runtime's own errors share no base class
            row["error"] = first_line(error)
            return
        row |= {"path": str(path), "size_bytes": path.stat().st_size, "zipped_bytes": zipped_bytes(path)}
        print(row, flush=True)

    def exported(self, module: nn.Module, bits: dict[str, int] | None = None, formats: Formats = PLAIN) -> Path:
        """Return a new file of a module."""
        path = self.folder / f"{len(self.rows)}.onnx"
        self.pipeline.formats = formats
        self.pipeline.lower(module, Plan(bits=bits or {}), path, StageTimer())
        return path

    def trained(self, student: nn.Module, **otherwise: object) -> nn.Module:
        """Return the student after the steps that all get, with the usual recipe but for what is given."""
        recipe, recovery = replace(self.recovery.recipe, **otherwise), self.recovery
        if recipe != recovery.recipe:
            recovery = Recovery(self.intake.module, self.data.train, recipe, task=self.data.task)
        recovery.run(student, temperature=4.0, alpha=0.9, steps=self.steps, seed=1)
        return student

    def distilled(self, plan: Plan, features: tuple[str, ...]) -> None:
        """Add what a plan comes to after least squares and training, with the outputs alone and with features to be held to."""
        for variant, held_to in (("the outputs alone", ()), (f"and what {len(features)} layers read", features)):
            compressed = compress_module(self.intake.module, self.intake.graph, plan)
            self.recovery.reconstruct(compressed, seed=1)
            student = self.trained(compressed.module, features=held_to)
            self.add("distillation", variant, self.exported(student), steps=self.steps)

    def converted(self, technique: str, variant: str, convert: Callable[[Path, Path], None], source: Path) -> None:
        """Add what a converter of files makes of one; an error is a row."""
        target = self.folder / f"{len(self.rows)}c.onnx"
        try:
            convert(source, target)
        except Exception as error:  # whatever the converters meet
            self.rows.append({"model": self.name, "technique": technique, "variant": variant, "steps": 0, "error": first_line(error)})
            return
        self.add(technique, variant, target)

    def measured(self) -> list[dict[str, object]]:
        """Return the rows with their speed: the median of sessions in random order, as a multiple of the unchanged model's."""
        there = [row for row in self.rows if "path" in row]
        paths = [Path(str(row["path"])) for row in there]
        for row, sessions in zip(there, sessions_by_file(paths, paths[0], self.pipeline.feed, baseline_ms=1.0), strict=True):
            row["speedup"] = round(1.0 / float(np.median([latency.ratio for latency in sessions])), 3)
            row["drop"] = round(float(there[0]["val_accuracy"]) - float(row["val_accuracy"]), 2)
            del row["path"]
        return self.rows


def zipped_bytes(path: Path) -> int:
    """Return the size of the file in a zip archive (deflate, level 9)."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.write(path, path.name)
        return file.tell()


def on_resnet20(bench: Bench) -> None:
    """Add everything that concerns ordinary convolutions."""
    base, graph, space = bench.intake.module, bench.intake.graph, bench.space
    source, int8 = Path(str(bench.rows[0]["path"])), int8_bits(space, 1)
    bench.add("nothing but training", "the same steps", bench.exported(bench.trained(copy.deepcopy(base))), steps=bench.steps)
    bench.add("float16", "weights (offered)", bench.exported(base, formats=Formats(float16=True)))
    bench.converted("float16", "weights and activations", methods.float16, source)
    bench.converted("int8, dynamic", "weights per layer", methods.dynamic, source)
    bench.add("int8, static", "weights per channel (searched)", bench.exported(base, int8))
    for zeros in (0.5, 0.8, 0.9, "2:4"):
        student = bench.trained(copy.deepcopy(base), zeros=Sparsity.parse(zeros))
        technique, variant = (N_OF_M, f"{zeros} weights") if isinstance(zeros, str) else (UNSTRUCTURED, f"{zeros:.0%} of the weights zero")
        bench.add(technique, f"{variant} (offered)", bench.exported(student), steps=bench.steps)
        bench.add(technique, f"{variant}, int8 (offered)", bench.exported(student, int8), steps=bench.steps)
    gone = dict.fromkeys(BRANCHES[:2], 0)
    bench.add(
        "removed blocks",
        "2 (searched)",
        bench.exported(bench.trained(compress_module(base, graph, Plan(kept=gone)).module)),
        steps=bench.steps,
    )
    images, _ = stack(bench.data.train, SCORED_IMAGES, 0)
    for criterion in Criterion:
        ranking = rank_channels(base, graph, images, criterion, task=bench.data.task)
        compressed = compress_module(base, graph, Plan(kept=inner_half(space)), ranking)
        bench.add(PRUNED, f"{criterion}, untrained", bench.exported(copy.deepcopy(compressed.module)))
        bench.add(PRUNED, criterion, bench.exported(bench.trained(copy.deepcopy(compressed.module))), steps=bench.steps)
        bench.recovery.reconstruct(compressed, seed=1)
        bench.add(PRUNED, f"{criterion}, least squares", bench.exported(copy.deepcopy(compressed.module)))
        bench.add(PRUNED, f"{criterion}, least squares and training", bench.exported(bench.trained(compressed.module)), steps=bench.steps)
    bench.distilled(Plan(kept=inner_half(space) | gone), STAGE_READERS)
    ranks = half_ranks(space)
    student = compress_module(base, graph, Plan(rank=ranks)).module
    bench.add(
        HALVED,
        "channel or spatial SVD (searched)",
        bench.exported(bench.trained(student)),
        steps=bench.steps,
    )
    student = methods.tucker_2(base, HALF)
    bench.add(HALVED, "Tucker-2", bench.exported(bench.trained(student)), steps=bench.steps)


def on_mobilenet(bench: Bench) -> None:
    """Add equalisation and bias correction, with one scale per layer and per channel."""
    base, int8 = bench.intake.module, int8_bits(bench.space, 1)
    bench.add("int8, static", "weights per channel (searched)", bench.exported(base, int8))
    plain = methods.folded(base)
    images = stack(bench.data.train, CORRECTED_IMAGES, 1)[0]
    equal = methods.equalised(plain)
    made: dict[str, fx.GraphModule] = {
        "nothing": base,
        "ReLU for ReLU6": plain,
        "equalisation": equal,
        "bias correction": methods.corrected(plain, images),
        "equalisation and bias correction": methods.corrected(equal, images),
    }
    for name, module in made.items():
        source = bench.exported(module)
        bench.add("before int8", f"{name}, float", source)
        bench.converted("int8, static, one scale per layer", name, lambda a, b: methods.static_per_tensor(a, b, bench.batches), source)
        if module is not base:
            bench.add("int8, static, one scale per channel", name, bench.exported(module, int8))


def on_minilm(bench: Bench) -> None:
    """Add the formats of Linear layers."""
    source, offered = Path(str(bench.rows[0]["path"])), bench.space
    base, int8 = bench.intake.module, int8_bits(offered, 1)
    bench.add("float16", "weights (offered)", bench.exported(base, formats=Formats(float16=True)))
    bench.converted("float16", "weights and activations", methods.float16, source)
    bench.converted("int8, dynamic", "weights per layer, the embedding's too", methods.dynamic, source)
    bench.add("int8, dynamic", "weights per channel (offered)", bench.exported(base, int8, Formats(dynamic=True)))
    bench.add("int8, dynamic", "and float16 for the embedding (offered)", bench.exported(base, int8, Formats(dynamic=True, float16=True)))
    bench.add("int8, static", "weights per channel (searched)", bench.exported(base, int8))
    bench.add("int8, static", "and float16 for the embedding (offered)", bench.exported(base, int8, Formats(float16=True)))
    int4 = {group.name: 4 for group in bench.intake.graph.bit_groups if offered.offers(group, 4)}
    bench.add("int4", "weights in blocks of 32 (searched)", bench.exported(base, int4))
    student = bench.trained(copy.deepcopy(base), zeros=Sparsity.parse(HALF))
    bench.add(UNSTRUCTURED, "50% of the weights zero (offered)", bench.exported(student), steps=bench.steps)
    queries = tuple(layer.name for layer in bench.intake.graph.layers if "query" in layer.name)  # they read what the block before puts out
    bench.distilled(Plan(kept=offered.uniform_kept(HALF)), queries)


def inner_half(space: SearchSpace) -> dict[str, int]:
    """Return about half of the channels of each group that lies inside a block: what a residual sum reads stays whole."""
    inner = {group.name for group in space.graph.channel_groups if len(group.layers) == 1 and len(group.feeds) == 1}
    return {name: keep for name, keep in space.uniform_kept(HALF).items() if name in inner}


def half_ranks(space: SearchSpace) -> dict[str, int]:
    """Return for each layer that can be factorised the rank of the space with about half of its multiply-adds."""
    ranks = {}
    for layer in space.graph.layers:
        offered = next((v.values for v in space.variables if v.name == f"rank/{layer.name}"), ())
        taps = layer.in_channels * int(np.prod(layer.kernel))
        wanted = HALF * layer.out_channels * taps / (layer.out_channels + taps)
        if found := [rank for rank in offered if rank is not None]:
            ranks[layer.name] = min(found, key=lambda rank: abs(rank - wanted))
    return ranks


MODELS: dict[str, Callable[[Bench], None]] = {
    "cifar10_resnet20": on_resnet20,
    "cifar10_mobilenet_v2_050": on_mobilenet,
    "sst2_minilm": on_minilm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help="these alone (default: all)")
    parser.add_argument("--steps", type=int, default=120, help="of training, for what trains (default: %(default)s)")
    options = parser.parse_args()
    if unknown := sorted(set(options.model) - set(MODELS)):
        parser.error(f"the models are {', '.join(MODELS)}, but got {', '.join(unknown)}")
    keep_freed_memory()
    names = options.model or list(MODELS)
    rows = [row for row in recorded_rows("techniques") if row["model"] not in names]
    with tempfile.TemporaryDirectory(prefix="paretopress-") as root:
        for name in names:
            bench = Bench(name, Path(root, name), options.steps)
            MODELS[name](bench)
            rows += bench.measured()
            write_result("techniques", headlines(rows), rows, steps=options.steps, val_items=VAL_ITEMS)


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    """Return how many there are, and what zeros alone buy."""
    zeros = [row for row in rows if row["technique"] in (UNSTRUCTURED, N_OF_M) and "int8" not in str(row["variant"])]
    fastest = max((row["speedup"] for row in zeros if "speedup" in row), default=None)
    return [Headline("rows", len(rows), ""), Headline("fastest model with zeros alone", fastest, "x fp32")]


if __name__ == "__main__":
    main()
