"""The techniques that techniques.py measures and that the product does not offer: equalisation, bias correction, Tucker-2, other formats.

Each works on a traced module or on an exported file, and knows nothing of a search.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse


def weighted(module: nn.Module) -> dict[str, nn.Module]:
    """Return the ungrouped convolutions and Linears by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)}


def tucker_2(module: fx.GraphModule, share: float) -> fx.GraphModule:
    """Return a copy in which each 3x3 convolution is 1x1, 3x3, 1x1 with about `share` of its multiply-adds.

    The ranks are equal shares of both widths; factors by the higher-order singular value decomposition (Kim et al. 2016, "Compression of
    deep convolutional neural networks", section 3).
    """
    student = copy.deepcopy(module)
    for name, layer in weighted(student).items():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.in_channels > 3:
            student.set_submodule(name, _tucker_2(layer, share))
    return student


def _tucker_2(layer: nn.Conv2d, share: float) -> nn.Sequential:
    out, inputs = layer.weight.shape[:2]
    stride = layer.stride[0] * layer.stride[1]

    def cost(part: float) -> float:
        a, b = max(1, round(inputs * part)), max(1, round(out * part))
        return (stride * inputs * a + 9 * a * b + b * out) / (9 * inputs * out)

    part = max((p / 100.0 for p in range(1, 101) if cost(p / 100.0) <= share), default=0.01)
    a, b = max(1, round(inputs * part)), max(1, round(out * part))
    weight = layer.weight.detach().double()
    left = torch.linalg.svd(weight.flatten(1), full_matrices=False)[0][:, :b]
    right = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False)[0][:, :a]
    core = torch.einsum("oihw,ob,ia->bahw", weight, left, right)
    first, last = nn.Conv2d(inputs, a, 1, bias=False), nn.Conv2d(b, out, 1, bias=layer.bias is not None)
    middle = nn.Conv2d(a, b, 3, layer.stride, layer.padding, bias=False)
    with torch.no_grad():
        first.weight.copy_(right.T[:, :, None, None])
        middle.weight.copy_(core)
        last.weight.copy_(left[:, :, None, None])
        if layer.bias is not None and last.bias is not None:
            last.bias.copy_(layer.bias)
    return nn.Sequential(first, middle, last)


def folded(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy with batch norms folded into convolutions, and ReLU in place of ReLU6."""
    student = fuse(copy.deepcopy(module).eval())
    for name, part in list(student.named_modules()):
        if isinstance(part, nn.ReLU6):
            student.set_submodule(name, nn.ReLU())
    return student


def equalised(module: fx.GraphModule, rounds: int = 10) -> fx.GraphModule:
    """Return a copy of a folded module whose chains of convolutions with ReLU between have equal ranges of weights per channel.

    Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
    """
    student = copy.deepcopy(module)
    pairs = _pairs(student)
    with torch.no_grad():
        for _ in range(rounds):
            for first, second in pairs:
                rows = first.weight.flatten(1).abs().amax(1)
                columns = (second.weight if second.groups > 1 else second.weight.transpose(0, 1)).flatten(1).abs().amax(1)
                scale = (rows * columns).sqrt().clamp_min(1e-8) / columns.clamp_min(1e-8)
                first.weight.div_(scale.view(-1, 1, 1, 1))
                if first.bias is not None:
                    first.bias.div_(scale)
                second.weight.mul_(scale.view(-1, 1, 1, 1) if second.groups > 1 else scale.view(1, -1, 1, 1))
    return student


def _pairs(student: fx.GraphModule) -> list[tuple[nn.Conv2d, nn.Conv2d]]:
    """Return the convolutions that one ReLU alone lies between, in order; the second depthwise or ungrouped."""
    found, parts = [], dict(student.named_modules())
    for node in student.graph.nodes:
        part = parts.get(str(node.target)) if node.op == "call_module" else None
        if not (isinstance(part, nn.ReLU) or node.target in (torch.relu, nn.functional.relu, "relu")) or len(node.users) != 1:
            continue
        before, after = node.args[0], next(iter(node.users))
        layers = [parts.get(str(n.target)) if n.op == "call_module" else None for n in (before, after)]
        if len(before.users) == 1 and all(isinstance(layer, nn.Conv2d) for layer in layers):
            found.append((layers[0], layers[1]))
    return found


def corrected(module: fx.GraphModule, images: Tensor, levels: int = 127) -> fx.GraphModule:
    """Return a copy of a folded module whose biases make up for the mean that rounded weights add to each layer's output.

    Weights are rounded per layer; inputs are those of the unchanged module on `images` (Nagel et al. 2019, section 4.2, with data).
    """
    student, parts = copy.deepcopy(module), dict(module.named_modules())
    inputs: dict[str, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, args[0]))
        for name, part in parts.items()
        if isinstance(part, nn.Conv2d)
    ]
    with torch.inference_mode():
        module(images)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for name, x in inputs.items():
            layer = student.get_submodule(name)
            step = layer.weight.abs().amax() / levels
            off = (layer.weight / step).round() * step - layer.weight
            mean = nn.functional.conv2d(x, off, None, layer.stride, layer.padding, layer.dilation, layer.groups).mean((0, 2, 3))
            layer.bias.sub_(mean)
    return student


class CalibrationBatches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands batches to the runtime's quantiser, one after another."""

    def __init__(self, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def static_per_tensor(source: Path, target: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write the file with one scale per layer, by the runtime's quantiser as it comes."""
    quantize_static(
        source,
        target,
        CalibrationBatches(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def dynamic(source: Path, target: Path) -> None:
    """Write the file with weights in 8 bits and activations rounded at every call."""
    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)  # ConvInteger takes unsigned weights alone


def float16(source: Path, target: Path) -> None:
    """Write the file in 16-bit floats, inputs and outputs as they were."""
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
