"""ONNX export of a traced module with its normalisations folded, and the proof that the file computes the same."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from paretopress.atomic import write_bytes
from paretopress.errors import LoweringError, ParityError

INPUT, OUTPUT = "input", "output"
OPSET = 17
# stands between the name of a layer and the number of a further call of it
CALL = "#"
_PARITY_TOLERANCE = 1e-3


def export_onnx(module: nn.Module, example: Tensor, path: Path) -> None:
    """Write `module` in eval mode as an ONNX file with a dynamic batch axis.

    Every Conv, Gemm and MatMul node is named by the module path of its layer, so that later stages find layers by name.

    Args:
        module: traceable; it is not changed. Batch normalisation is folded into the convolution before it.
        example: (N, C, H, W) float32.
    Raises:
        LoweringError: the exporter failed. ParityError: the file's outputs differ from the module's.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, warnings.catch_warnings():
        scratch = Path(folder, "exported.onnx")
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its retirement; `dynamo=True` takes 15 times as long
        try:
            plain = copy.deepcopy(module).eval().cpu().float().to(memory_format=torch.contiguous_format)
            torch.onnx.export(
                _fused(plain),
                (example,),
                str(scratch),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
        except Exception as error:  # the exporter raises whatever its operators meet
            raise LoweringError(f"the model must export to ONNX, but got {type(error).__name__}: {str(error).splitlines()[0]}") from error
        model = onnx.load(scratch)
    _inline_identities(model.graph)
    _name_nodes(model.graph)
    write_bytes(path, model.SerializeToString())
    check_parity(plain, path, example)


def _fused(module: nn.Module) -> nn.Module:
    traced = fx.symbolic_trace(module)
    _unshare(traced)
    fused: nn.Module = fuse(traced, no_trace=True)
    return fused.eval()


def _unshare(module: fx.GraphModule) -> None:
    """Give each call of a layer that is called more than once, before a batch norm, weights of its own: folding would change the others."""
    calls: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    for name, nodes in calls.items():
        if len(nodes) > 1 and any(_is_norm(module, user) for node in nodes for user in node.users):
            for count, node in enumerate(nodes[1:], 1):
                node.target = f"{name}{CALL}{count}"
                module.add_submodule(node.target, copy.deepcopy(module.get_submodule(name)))
    module.recompile()


def _is_norm(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), nn.modules.batchnorm._BatchNorm)


def _inline_identities(graph: onnx.GraphProto) -> None:
    """The exporter shares equal initialisers through Identity nodes; the quantiser wants each bias to be an initialiser."""
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in initialisers]:
        twin = onnx.TensorProto()
        twin.CopyFrom(initialisers[node.input[0]])
        twin.name = node.output[0]
        graph.initializer.append(twin)
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1 and node.input[1].endswith(".weight"):
            name = node.input[1].removesuffix(".weight")
            node.name = name if name not in taken else f"{name}{CALL}{len(taken)}"  # a reused layer is called more than once
            taken.add(node.name)


def check_parity(module: nn.Module, path: Path, example: Tensor) -> float:
    """Return the largest difference between torch and ONNX Runtime, relative to the largest output.

    Raises: ParityError: it is above 0.1 %, or an output is NaN.
    """
    with torch.inference_mode():
        expected = module(example).numpy()
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (actual,) = session.run([OUTPUT], {INPUT: example.numpy()})
    difference = float(np.abs(expected - actual).max() / max(float(np.abs(expected).max()), 1e-6))
    if not difference <= _PARITY_TOLERANCE:
        raise ParityError(f"ONNX and torch outputs must agree within {_PARITY_TOLERANCE:.1%}, but got a difference of {difference:.2%}")
    return difference
