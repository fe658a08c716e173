"""Models that people have: what of each can be changed, whether a pruned and a quantised file agree with torch, and in what time.

    python benchmarks/wild.py [--list benchmarks/wild_list.json] [--only TEXT] [--name wild] [--go-on | --again] [--jobs 2]

Each model of the list runs in a process of its own. Two minutes and 8 GB are what one may need; one that needs more says how much, and
is stopped after a quarter of an hour. Its row is written when it ends, to results/NAME.json; --again runs those that were stopped once
more. Beside it, in processes of their own, torch-pruning alone prunes the same model at 50 %, and torch.export (non-strict, any batch
size) takes it. Needs benchmarks/wild_requirements.txt.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from results_file import Headline, recorded_rows, write_result
from wild_models import answer_of, as_tensors, load

from paretopress.compress.apply import compress_module
from paretopress.core.model_graph import LayerKind
from paretopress.core.model_inputs import Inputs, feeds, outputs_of
from paretopress.core.plan import Plan
from paretopress.errors import ParetopressError
from paretopress.evaluators.macs import count_macs
from paretopress.intake.plain_model import plain_model
from paretopress.intake.trace import Intake, take_in
from paretopress.lower.export import export_onnx
from paretopress.lower.quantise import quantise_onnx
from paretopress.spaces.space import SearchSpace, SpaceOptions

HERE = Path(__file__).resolve().parent
SECONDS, MEMORY_GB = 120.0, 8.0
STOPPED_AFTER = 900.0
AGREES = 1e-3
LEAST_DEVIATION = 1e-4  # an output that hardly moves is compared with this
OURS, THEIRS, EXPORT = "ours", "torch-pruning", "torch.export"
Row = dict[str, Any]


def taken_in(spec: str) -> Row:
    """Return what was found in a model, or the error that stopped it."""
    started = time.monotonic()
    row: Row = {"model": spec}
    try:
        model, inputs = load(spec)
        row["parameters"] = sum(part.numel() for part in model.parameters())
        names = tuple(inputs) if isinstance(inputs, dict) else None
        parts = as_tensors(inputs)
        example: Inputs = parts[0] if len(parts) == 1 else parts
        begun = time.monotonic()
        intake = take_in(plain_model(model).module, example, names)
        row |= {"taken_in": True, "intake_s": round(time.monotonic() - begun, 1)} | changeable(intake, example)
        with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
            if not intake.graph.only_bits:
                row |= half_pruned(intake, example, Path(folder, "half.onnx"))
            row |= one_in_int8(intake, example, Path(folder))
    except Exception as error:  # one of ours says what to do; any other is a defect, and the row says so
        row |= {"error": f"{type(error).__name__}: {error}"[:400], "ours": isinstance(error, ParetopressError)}
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row | {"duration_s": round(time.monotonic() - started, 1), "peak_gb": round(peak_gb, 2)}


def changeable(intake: Intake, example: Inputs) -> Row:
    """Return the share of the multiply-adds in layers that can be pruned or removed."""
    graph = intake.graph
    inside = {name for group in graph.channel_groups for name in (*group.layers, *group.feeds)}
    inside |= {name for branch in graph.branches for name in branch.layers}
    macs = sum(layer.macs for layer in graph.layers)
    whole = macs if graph.only_bits else count_macs(intake.module, example).macs
    return {
        "layers": len(graph.layers),
        "channel_groups": len(graph.channel_groups),
        "branches": len(graph.branches),
        "changeable": round(sum(layer.macs for layer in graph.layers if layer.name in inside) / max(whole, macs, 1), 4),
        "frozen": [f"{item.name}: {item.reason}"[:160] for item in graph.frozen[:12]],
    }


def half_pruned(intake: Intake, example: Inputs, path: Path) -> Row:
    """Return whether the file of the model with half of each width computes what the module does."""
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=4))
    kept = space.uniform_kept(0.5)
    if not kept:
        return {"half_groups": 0}
    module = compress_module(intake.module, intake.graph, Plan(kept=kept)).module
    before, after = (count_macs(part, example).macs for part in (intake.module, module))
    export_onnx(module, example, path, *_names(intake), checked=False)
    found = {"half_groups": len(kept), "half_macs": round(after / max(before, 1), 4), "half_difference": difference(module, path, example)}
    return found | ({"half_rounding": rounding(module, example)} if found["half_difference"] > AGREES else {})


def one_in_int8(intake: Intake, example: Inputs, folder: Path) -> Row:
    """Return how far the file with the largest layer in int8 is from the float module."""
    layers = [layer for layer in intake.graph.layers if layer.kind is not LayerKind.RECURRENT] or list(intake.graph.layers)
    largest = max(layers, key=lambda layer: layer.macs)
    source, path = folder / "float.onnx", folder / "int8.onnx"
    names, outputs = _names(intake)
    export_onnx(intake.module, example, source, names, outputs, checked=False)
    quantise_onnx(source, path, {largest.name: 8}, list(feeds(names, [example])), reduce_range=False)
    found = {"float_difference": difference(intake.module, source, example), "int8_difference": difference(intake.module, path, example)}
    return found | ({"float_rounding": rounding(intake.module, example)} if found["float_difference"] > AGREES else {})


def rounding(module: torch.nn.Module, example: Inputs) -> float:
    """Return how far float32 alone takes a module's outputs from those in float64, as `difference` measures it."""
    parts = example if isinstance(example, tuple) else (example,)
    wide = copy.deepcopy(module).double()
    with torch.inference_mode():
        found = outputs_of(module(*parts))
        wanted = outputs_of(wide(*(part.double() if part.is_floating_point() else part for part in parts)))
    pairs = zip(found, wanted, strict=True)
    return round(max(float((mine - exact).square().mean().sqrt() / exact.std().clamp_min(LEAST_DEVIATION)) for mine, exact in pairs), 6)


def computes_something_else(found: Row) -> bool:
    """Return whether a file is farther from its module than 0.1 %, and than three times what float32 alone makes of the module."""
    return any(
        (found.get(f"{part}_difference") or 0.0) > max(AGREES, 3.0 * found.get(f"{part}_rounding", 0.0)) for part in ("half", "float")
    )


def _names(intake: Intake) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(spec.name for spec in intake.graph.inputs), tuple(spec.name for spec in intake.graph.outputs)


def difference(module: torch.nn.Module, path: Path, example: Inputs) -> float:
    """Return the largest root mean square difference of an output of a file from the module's, as a share of that output's deviation."""
    with torch.inference_mode():
        wanted = [output.numpy() for output in outputs_of(module(*(example if isinstance(example, tuple) else (example,))))]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, next(feeds([node.name for node in session.get_inputs()], [example])))
    shares = [
        float(np.sqrt(np.mean(np.square(mine.astype(np.float64) - theirs))) / max(float(np.std(theirs)), LEAST_DEVIATION))
        for mine, theirs in zip(found, wanted, strict=True)
    ]
    return round(max(shares), 6)


def by_torch_pruning(spec: str) -> Row:
    """Return whether torch-pruning's own pruner halves the model: it runs, and the outputs keep their shape."""
    import torch_pruning as tp

    started = time.monotonic()
    try:
        model, inputs = load(spec)
        parts = as_tensors(inputs)
        example = inputs if isinstance(inputs, dict) else parts[0] if len(parts) == 1 else parts
        shapes = [tuple(output.shape) for output in _outputs(model, inputs)]
        heads = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 10]
        pruner = tp.pruner.MagnitudePruner(
            model, example, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=heads, global_pruning=False
        )
        before, _ = tp.utils.count_ops_and_params(model, example)
        pruner.step()
        after, _ = tp.utils.count_ops_and_params(model, example)
        same = [tuple(output.shape) for output in _outputs(model, inputs)] == shapes
        row: Row = {"runs": True, "same_shapes": same, "macs": round(after / max(before, 1), 4)}
    except Exception as error:  # whatever it meets
        row = {"runs": False, "same_shapes": False, "error": f"{type(error).__name__}: {error}"[:200]}
    return row | {"duration_s": round(time.monotonic() - started, 1)}


def by_torch_export(spec: str) -> Row:
    """Return whether torch.export takes a model for any batch size: its program puts out for another batch what the model does."""
    started = time.monotonic()
    try:
        model, inputs = load(spec)
        named = inputs if isinstance(inputs, dict) else {}
        parts = () if named else as_tensors(inputs)
        any_batch = {0: torch.export.Dim.DYNAMIC}
        shapes = dict.fromkeys(named, any_batch) if named else tuple(any_batch for _ in parts)
        program = torch.export.export(model, parts, named, dynamic_shapes=shapes, strict=False).module()
        row: Row = {"runs": True, "export_s": round(time.monotonic() - started, 1)}
        fewer = {name: part[:3] for name, part in named.items()} if named else tuple(part[:3] for part in parts)
        pairs = zip(_outputs(model, fewer), _outputs(program, fewer), strict=True)
        row["any_batch"] = all(torch.allclose(wanted, found, rtol=1e-3, atol=1e-4) for wanted, found in pairs)
    except Exception as error:  # whatever it meets
        row = {"runs": False, "any_batch": False, "error": f"{type(error).__name__}: {error}"[:200]}
    return row | {"duration_s": round(time.monotonic() - started, 1)}


def _outputs(model: torch.nn.Module, inputs: Any) -> list[torch.Tensor]:
    from paretopress.core.model_outputs import named_tensors

    with torch.no_grad():
        value = model(**inputs) if isinstance(inputs, dict) else model(*as_tensors(inputs))
    return list(named_tensors(value).values())


BY: dict[str, Callable[[str], Row]] = {OURS: taken_in, THEIRS: by_torch_pruning, EXPORT: by_torch_export}


def of_a_model(spec: str, threads: int, known: Row | None = None) -> Row:
    """Return the rows of one model, ours and theirs; theirs as they are known, if they are."""
    asked = [by for by in BY if known is None or by == OURS]
    answers = {by: answer_of([__file__, "--one", spec, "--by", by], threads=threads, seconds=STOPPED_AFTER) for by in asked}
    return {"model": spec, **(known or {}), **answers}


def headlines(rows: list[Row]) -> list[Headline]:
    """Return the figures that the bars are about."""
    count = max(len(rows), 1)
    inside = [row for row in rows if row[OURS].get("taken_in")]
    half = [row for row in inside if row[OURS].get("changeable", 0.0) >= 0.5]
    traced = [row for row in rows if "error" in row[OURS] and not row[OURS].get("ours")]
    wrong = [row for row in inside if computes_something_else(row[OURS])]
    ours = [row for row in inside if row[OURS].get("half_macs", 1.0) < 1.0 and row not in wrong]
    exported = [row for row in rows if row[EXPORT].get("any_batch")]
    slow = [row for row in rows if row[OURS].get("duration_s", SECONDS + 1.0) > SECONDS]
    large = [row for row in rows if row[OURS].get("peak_gb", 0.0) > MEMORY_GB]
    theirs = [row for row in rows if row[THEIRS].get("same_shapes") and row[THEIRS].get("macs", 1.0) < 1.0]
    return [
        Headline("models taken in", round(100.0 * len(inside) / count, 1), "%", 95.0, len(inside) / count >= 0.95),
        Headline("models with half of their MACs changeable", round(100.0 * len(half) / count, 1), "%", 80.0, len(half) / count >= 0.8),
        Headline("models that ended in an error that is not ours, or were stopped", len(traced), f"of {count}", 0, not traced),
        Headline("models whose file computes something else", len(wrong), f"of {count}", 0, not wrong),
        Headline("models that can be pruned to half of their widths", len(ours), f"of {count}", len(theirs), len(ours) > len(theirs)),
        Headline("the same by torch-pruning alone", len(theirs), f"of {count}"),
        Headline("models that torch.export takes for any batch size", len(exported), f"of {count}"),
        Headline("models that needed more than two minutes", len(slow), f"of {count}"),
        Headline("models that needed more than 8 GB", len(large), f"of {count}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", type=Path, default=HERE / "wild_list.json")
    parser.add_argument("--only", help="models whose spec holds this text")
    parser.add_argument("--name", default="wild")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--go-on", action="store_true", help="models that the result has are not run again")
    parser.add_argument("--again", action="store_true", help="models that were stopped are run again, by paretopress alone")
    parser.add_argument("--one")
    parser.add_argument("--by", choices=list(BY), default=OURS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        print(json.dumps(BY[args.by](args.one)))
        return
    rows = recorded_rows(args.name) if args.go_on or args.again else []
    stopped = {row["model"]: row for row in rows if row[OURS].get("error", "").startswith("over ")} if args.again else {}
    done = {row["model"] for row in rows} - stopped.keys()
    listed = [spec for spec in json.loads(args.list.read_text()) if spec not in done and (args.only or "") in spec]
    rows = [row for row in rows if row["model"] not in listed]
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    with ThreadPoolExecutor(args.jobs) as jobs:
        for job in as_completed([jobs.submit(of_a_model, spec, threads, stopped.get(spec)) for spec in listed]):
            row = job.result()
            found = row[OURS]
            shown = (found.get(key) for key in ("changeable", "half_difference", "int8_difference", "error"))
            print(row["model"], *shown, flush=True)
            rows.append(row)
            write(args.name, rows, threads)
    if not listed:  # all rows are there: what they say is written anew
        write(args.name, rows, threads)


def write(name: str, rows: list[Row], threads: int) -> None:
    write_result(name, headlines(rows), sorted(rows, key=lambda row: row["model"]), seconds=SECONDS, memory_gb=MEMORY_GB, threads=threads)


if __name__ == "__main__":
    main()
