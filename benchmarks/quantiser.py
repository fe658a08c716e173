"""Static quantisation as it is written into the graph, against ONNX Runtime's own quantiser, over the models that people have.

    python benchmarks/quantiser.py [--only TEXT] [--go-on]

Models of benchmarks/wild_list.json of at most thirty million parameters, each in a process of its own with two minutes: exported, then all
layers quantised by both with the same four items. With the ranges that ONNX Runtime's calibrator found the two files must be the same:
nodes, wiring, rounded weights and biases, scales to a last bit. Our own ranges come from an optimised graph, which adds sums in another
order: they are compared apart, as shares of their widths, and so are the outputs. The seconds are of processor time. Needs
benchmarks/wild_requirements.txt. An hour. Writes results/quantiser.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import load_tensors_data
from results_file import Headline, recorded_rows, write_result
from wild_models import answer_of, as_tensors, load

from paretopress.core.model_graph import LayerKind
from paretopress.core.model_inputs import feeds
from paretopress.intake.plain_model import plain_model
from paretopress.intake.trace import take_in
from paretopress.lower.export import CALL, export_onnx
from paretopress.lower.qdq import ACTIVATIONS, LAYER_OPS, Ranges, mark, measure_ranges, write_qdq
from paretopress.lower.quantise import FOLLOWERS, own_biases, with_followers

HERE = Path(__file__).resolve().parent
NAME, SECONDS, MOST_PARAMETERS = "quantiser", 120.0, 30_000_000
LAST_BIT = 2e-7  # of a scale
RANGES_AGREE = 1e-4  # of a range's width: sums in another order
Row = dict[str, Any]


class Batches(CalibrationDataReader):
    """The items, once."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def compared(spec: str) -> Row:
    """Return how the two files of a model differ, and what they took."""
    model, inputs = load(spec)
    if sum(part.numel() for part in model.parameters()) > MOST_PARAMETERS:
        return {"left_out": "more than thirty million parameters"}
    parts = as_tensors(inputs)
    example = parts[0] if len(parts) == 1 else parts
    intake = take_in(plain_model(model).module, example, tuple(inputs) if isinstance(inputs, dict) else None)
    if intake.graph.only_bits:
        return {"left_out": "an ONNX file that stays as it is"}
    names = tuple(spec.name for spec in intake.graph.inputs)
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder:
        path = Path(folder, "float.onnx")
        export_onnx(intake.module, example, path, names, tuple(spec.name for spec in intake.graph.outputs), checked=False)
        ours = onnx.load(path)
        own_biases(ours.graph)
        onnx.save(ours, path)
        layers = {layer.name for layer in intake.graph.layers if layer.kind is not LayerKind.RECURRENT}
        named = {node.name for node in ours.graph.node if node.op_type in LAYER_OPS and _layer_of(node.name) in layers}
        nodes, batches = with_followers(ours.graph, named), list(feeds(names, [example]))
        row: Row = {"layers": len(named), "nodes": len(nodes)}
        began = time.process_time()
        marks = mark(ours.graph, nodes)
        ranges = measure_ranges(ours, marks.measured(), batches)
        row["ranges_s"] = round(time.process_time() - began, 3)
        began = time.process_time()
        write_qdq(ours.graph, marks, ranges, reduce_range=False)
        row["written_s"] = round(time.process_time() - began, 3)
        began = time.process_time()
        theirs, their_ranges = by_onnx_runtime(path, nodes, batches, reduce_range=False)
        row["theirs_s"] = round(time.process_time() - began, 3)
        same_ranges = onnx.load(path)
        write_qdq(same_ranges.graph, mark(same_ranges.graph, nodes), their_ranges, reduce_range=False)
    row |= differences(same_ranges, theirs) | {"ranges": range_difference(ranges, their_ranges)}
    row["agrees"] = row["same_graph"] and row["unequal"] == 0 and row["scale"] <= LAST_BIT and row["ranges"] <= RANGES_AGREE
    return row | {"outputs": output_difference(ours, theirs, batches[0])}


def _layer_of(node: str) -> str:
    return node.split(CALL)[0]


def by_onnx_runtime(
    path: Path, nodes: list[str], batches: list[dict[str, Any]], *, reduce_range: bool
) -> tuple[onnx.ModelProto, dict[str, tuple[float, float]]]:
    """Return the file of ONNX Runtime's quantiser, with the same choice of nodes, and the ranges that its calibrator found."""
    target, found = path.with_name("theirs.onnx"), path.with_name("ranges.json")
    found.unlink(missing_ok=True)  # it would be taken for this model's
    quantize_static(
        path,
        target,
        Batches(batches),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=sorted(LAYER_OPS | ACTIVATIONS | FOLLOWERS),
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        calibration_cache_path=found,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    ranges = {name: (range_.lowest.item(), range_.highest.item()) for name, range_ in load_tensors_data(found).items()}
    return onnx.load(target), ranges


def wiring(model: onnx.ModelProto) -> set[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return what each node is, reads and puts out."""
    return {(node.op_type, tuple(node.input), tuple(node.output)) for node in model.graph.node}


def differences(ours: onnx.ModelProto, theirs: onnx.ModelProto) -> Row:
    """Return in what two files differ: nodes and wiring, rounded tensors, and the largest share by which a scale does."""
    mine, other = ({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} for model in (ours, theirs))
    unequal, scale = len(mine.keys() ^ other.keys()), 0.0
    for name in mine.keys() & other.keys():
        one, another = (array.ravel().astype(np.float64) for array in (mine[name], other[name]))
        if one.shape == another.shape and mine[name].dtype == np.float32:
            scale = max(scale, float((np.abs(one - another) / np.maximum(np.abs(another), 1e-30)).max(initial=0.0)))
        elif one.shape != another.shape or not np.array_equal(one, another):
            unequal += 1
    return {"same_graph": wiring(ours) == wiring(theirs), "unequal": unequal, "scale": scale}


def range_difference(ours: Ranges, theirs: Ranges) -> float:
    """Return the largest distance between the ends of a tensor's two ranges, as a share of its width."""
    return max(
        (max(abs(low - theirs[name][0]), abs(high - theirs[name][1])) / max(high - low, 1e-30) for name, (low, high) in ours.items()),
        default=0.0,
    )


def output_difference(ours: onnx.ModelProto, theirs: onnx.ModelProto, batch: dict[str, Any]) -> float:
    """Return the largest difference of the outputs of two files, as a share of the largest output."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    outputs = [ort.InferenceSession(model.SerializeToString(), options).run(None, batch) for model in (ours, theirs)]
    return round(max(float(np.abs(one - two).max() / max(float(np.abs(two).max()), 1e-9)) for one, two in zip(*outputs, strict=True)), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models whose spec holds this text")
    parser.add_argument("--go-on", action="store_true", help="models that the result has are not run again")
    parser.add_argument("--one")
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            print(json.dumps(compared(args.one)))
        except Exception as error:  # whatever it meets
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}))
        return
    rows = recorded_rows(NAME) if args.go_on else []
    done = {row["model"] for row in rows}
    for spec in json.loads((HERE / "wild_list.json").read_text()):
        if spec in done or args.only not in spec:
            continue
        rows.append({"model": spec} | answer_of([__file__, "--one", spec], threads=1, seconds=SECONDS))
        print(rows[-1], flush=True)
        write(rows)


def write(rows: list[Row]) -> None:
    both = [row for row in rows if "agrees" in row]
    agreeing = [row for row in both if row["agrees"]]
    failed = [row for row in rows if "error" in row and not row["error"].startswith("over ")]
    headlines = [
        Headline("models whose two files agree", len(agreeing), f"of {len(both)}", len(both), len(agreeing) == len(both)),
        Headline("models that ended in an error", len(failed), f"of {len(rows)}", 0, not failed),
    ]
    if both:
        quicker = [row["theirs_s"] / max(row["ranges_s"] + row["written_s"], 1e-3) for row in both]
        headlines += [
            Headline("ONNX Runtime's quantiser, seconds against ours, median", round(median(quicker), 1), "x"),
            Headline("seconds to write the graph beside the ranges, median", median(row["written_s"] for row in both), "s"),
            Headline("the same, the longest", max(row["written_s"] for row in both), "s"),
        ]
    write_result(NAME, headlines, rows)


if __name__ == "__main__":
    main()
