"""What the export of one candidate costs: torch's TorchScript exporter, its newer one, and one graph into which other weights are put.

    pip install onnxscript torchvision
    python benchmarks/exporters.py

A candidate differs from the original in its widths, its layers (factors) and its branches. Where only widths differ, the original's
graph could be exported once, and a candidate's weights be put in place of its own: "swapped" is what that takes, and whether the file
then puts out what the candidate does. Seconds are medians of five, on one thread. Writes results/exporters.json.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cifar10
import numpy as np
import onnx
import onnxruntime as ort
import torch
import torchvision
from onnx import numpy_helper
from results_file import Headline, write_result
from torch import Tensor, fx, nn

from paretopress.compress.apply import compress_module
from paretopress.core.plan import Plan
from paretopress.intake.trace import take_in
from paretopress.lower.export import _fused, export_onnx
from paretopress.spaces.space import SearchSpace, SpaceOptions

REPEATS = 5
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cifar10_resnet20": (cifar10.resnet20, (4, 3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (4, 3, 96, 96)),
    "vit_tiny": (
        lambda: torchvision.models.VisionTransformer(96, 16, 6, 3, 192, 768, num_classes=10),
        (4, 3, 96, 96),
    ),
}


def seconds(call: Callable[[], object]) -> float:
    """Return the median of five calls, after one that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(median(times), 3)


def newer(module: nn.Module, example: Tensor, path: Path) -> None:
    """Export by torch.export."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(module, (example,), str(path), dynamic_shapes=({0: batch},), dynamo=True, optimize=True, verbose=False)


def with_weights(made: onnx.ModelProto, module: nn.Module, path: Path) -> None:
    """Write a graph with the weights of another module, by their names."""
    swapped = onnx.ModelProto()
    swapped.CopyFrom(made)
    weights = dict(module.state_dict())
    for tensor in swapped.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    del swapped.graph.value_info[:]
    onnx.save(swapped, path)


def difference(module: nn.Module, example: Tensor, path: Path) -> float | None:
    """Return the largest difference of the file's outputs from the module's, as a share of the largest; None where it does not run."""
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    except Exception:  # the runtime's errors share no base class
        return None
    with torch.inference_mode():
        wanted = module(example).numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def row_of(name: str) -> dict[str, object]:
    """Return the figures of one model."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    example, model = torch.randn(shape), make().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any() and weight.dim() > 1:  # a head that begins at zero would agree with anything
                nn.init.normal_(weight, std=0.02)
    intake = take_in(model, example)
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=4))
    candidate = compress_module(intake.module, intake.graph, Plan(kept=space.uniform_kept(0.5))).module
    whole, fused = (_fused(module) if isinstance(module, fx.GraphModule) else module for module in (intake.module, candidate))
    with tempfile.TemporaryDirectory() as folder:
        old, new, other = (Path(folder, f"{kind}.onnx") for kind in ("old", "new", "swapped"))
        row: dict[str, object] = {"model": name}
        row["torchscript_s"] = seconds(lambda: export_onnx(candidate, example, old, checked=False))
        row["newer_s"] = seconds(lambda: newer(fused, example, new))
        row["newer_difference"] = difference(candidate, example, new)
        newer(whole, example, new)
        made = onnx.load(new)
        row["swapped_s"] = seconds(lambda: with_weights(made, fused, other))
        row["swapped_difference"] = difference(candidate, example, other)
    return row


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name in MODELS:
        rows.append(row_of(name))
        print(rows[-1], flush=True)
    slower = max(float(str(row["newer_s"])) / float(str(row["torchscript_s"])) for row in rows)
    agree = sum(row["swapped_difference"] is not None and float(str(row["swapped_difference"])) < 1e-3 for row in rows)
    headlines = [
        Headline("the newer exporter's time over the TorchScript one's, the worst", round(slower, 1), "x", 2.0, slower <= 2.0),
        Headline(
            "models for which a pruned candidate's weights fit the original's graph",
            agree,
            f"of {len(rows)}",
            len(rows),
            agree == len(rows),
        ),
    ]
    write_result("exporters", headlines, rows)


if __name__ == "__main__":
    main()
