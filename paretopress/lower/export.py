"""ONNX export of a traced module with its normalisations folded, and the proof that the file computes the same."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.onnx.errors import UnsupportedOperatorError

from paretopress.core.layer_types import Weighted
from paretopress.core.model_graph import INPUT, OUTPUT
from paretopress.core.model_inputs import Inputs, feeds, outputs_of, tensors
from paretopress.errors import LoweringError, ParityError, typed_line
from paretopress.intake.onnx_module import OPSET, onnx_graph_in
from paretopress.lower.known_sizes import fold_known_sizes
from paretopress.lower.padding import fold_paddings
from paretopress.lower.sliding_windows import write_out_unfolds
from paretopress.lower.window_pooling import write_out_poolings
from paretopress.system.atomic_files import write_bytes

# stands between the name of a layer and the number of a further call of it
CALL = "#"
_LAYER_OPS = frozenset({"Conv", "Gemm", "MatMul"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PARITY_TOLERANCE = 1e-3
NEWEST_OPSET = 20  # that the TorchScript exporter writes; used where an operator needs it


def export_onnx(
    module: nn.Module,
    example: Inputs,
    path: Path,
    names: Sequence[str] = (INPUT,),
    outputs: Sequence[str] = (OUTPUT,),
    *,
    checked: bool = True,
) -> None:
    """Write `module` in eval mode as an ONNX file with a dynamic batch axis.

    Every Conv, Gemm and MatMul node is named by the module path of its layer, so that later stages find layers by name.

    Args:
        module: traceable; it is not changed. Batch normalisation is folded into the convolution before it. Of one that runs an ONNX
            file the file is written.
        example: a batch of inputs. names, outputs: of the inputs and outputs, in their order.
        checked: whether the file's outputs are compared with the module's.
    Raises:
        LoweringError: the exporter failed. ParityError: the file's outputs differ from the module's.
    """
    file = onnx_graph_in(module)
    if file is not None:
        write_bytes(path, file.bytes())
        return
    try:
        plain, fused = fused_copy(module, example)
        model = exported(fused, example, names, outputs)
    except Exception as error:  # the exporter raises whatever its operators meet
        raise LoweringError(f"the model must export to ONNX, but got {typed_line(error)}") from error
    write_bytes(path, model.SerializeToString())
    if checked:
        check_parity(plain, path, example)


def fused_copy(module: nn.Module, example: Inputs) -> tuple[nn.Module, fx.GraphModule]:
    """Return a copy of a module in eval mode, and one in the form that is exported: norms folded, windows and sizes written out."""
    plain = copy.deepcopy(module).eval().cpu().float().to(memory_format=torch.contiguous_format)
    fused = _fused(plain)
    write_out_poolings(fused, example)
    fold_known_sizes(fused, example)
    write_out_unfolds(fused, example)
    return plain, fused


def exported(fused: fx.GraphModule, example: Inputs, names: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX model of a module that `fused_copy` made."""
    with tempfile.TemporaryDirectory(prefix="paretopress-") as folder, warnings.catch_warnings(), _without_dump():
        scratch = Path(folder, "exported.onnx")
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its retirement; `dynamo=True` takes 15 times as long
        try:
            _to_onnx(fused, example, scratch, names, outputs, OPSET)
        except UnsupportedOperatorError:  # such as F.fold, which came with 18
            _to_onnx(fused, example, scratch, names, outputs, NEWEST_OPSET)
        model = onnx.load(scratch)
    _keep_inputs(model.graph, names, example)
    _inline_identities(model.graph)
    fold_paddings(model)
    _name_nodes(model.graph, fused)
    return model


def _to_onnx(module: nn.Module, example: Inputs, path: Path, names: Sequence[str], outputs: Sequence[str], opset: int) -> None:
    torch.onnx.export(
        module,
        tensors(example),
        str(path),
        input_names=list(names),
        output_names=list(outputs),
        dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)},
        opset_version=opset,
        dynamo=False,
    )


@contextmanager
def _without_dump() -> Iterator[None]:
    """Keep the exporter from printing its whole graph at an error; its own switch for that is always on (torch 2.14)."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_parts: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _fused(module: nn.Module) -> fx.GraphModule:
    traced = _with_factors(module) if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    _unshare(traced)
    fused = fuse(traced, no_trace=True).eval()
    assert isinstance(fused, fx.GraphModule)
    return fused


def _with_factors(module: fx.GraphModule) -> fx.GraphModule:
    """Return a module with a call of each layer of an nn.Sequential, as a layer that was factorised is, in place of one of the whole."""
    graph = copy.deepcopy(module.graph)
    for node in list(graph.nodes):
        part = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(part, nn.Sequential):
            continue
        with graph.inserting_before(node):
            value = node.args[0]
            for name, _ in part.named_children():
                value = graph.call_module(f"{node.target}.{name}", (value,))
        node.replace_all_uses_with(value)
        graph.erase_node(node)
    return fx.GraphModule(module, graph)  # of what lies between only the layers that are called are shared


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


def _keep_inputs(graph: onnx.GraphProto, names: Sequence[str], example: Inputs) -> None:
    """The exporter drops an input that nothing reads, as a mask is when all attention was removed; the file's interface must not change."""
    present = {value.name: copy.deepcopy(value) for value in graph.input}
    del graph.input[:]
    for name, part in zip(names, tensors(example), strict=True):
        kind = onnx.helper.np_dtype_to_tensor_dtype(part.numpy().dtype)
        made = onnx.helper.make_tensor_value_info(name, kind, ["batch", *part.shape[1:]])
        graph.input.append(present.get(name, made))


def _inline_identities(graph: onnx.GraphProto) -> None:
    """The exporter shares equal initialisers through Identity nodes; the quantiser wants each bias to be an initialiser.

    Matrices stay shared: a layer that is called twelve times is in the file once.
    """
    initialisers = {tensor.name: tensor for tensor in graph.initializer}
    shared: dict[str, str] = {}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in initialisers]:
        source = initialisers[node.input[0]]
        if len(source.dims) > 1 and node.output[0] not in {value.name for value in graph.output}:
            shared[node.output[0]] = source.name
        else:
            twin = onnx.TensorProto()
            twin.CopyFrom(source)
            twin.name = node.output[0]
            graph.initializer.append(twin)
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = shared.get(name, name)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _name_nodes(graph: onnx.GraphProto, module: fx.GraphModule) -> None:
    """Name the nodes by their layers.

    The exporter renames the weights of a Linear on more than two axes, and shares those of layers that have the same: a node's layer is
    the next in the order of the calls whose weights are its own.
    """
    layers = _calls_by_weights(module)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    recurrent = _recurrent_calls(module)
    taken: set[str] = set()
    for node in graph.node:
        name = next(recurrent, "") if node.op_type in _RECURRENT else ""
        if node.op_type in _LAYER_OPS and len(node.input) > 1 and node.input[1] in weights:
            called = layers.get(_key(_as_in_the_layer(node, numpy_helper.to_array(weights[node.input[1]]))))
            name = called.popleft() if called else _before_weight(node.input[1])
        if name:
            node.name = name if name not in taken else f"{name}{CALL}{len(taken)}"  # a reused layer is called more than once
            taken.add(node.name)


def _calls_by_weights(module: fx.GraphModule) -> dict[object, deque[str]]:
    """Return weights -> the layers that hold them, in the order of their calls."""
    found: dict[object, deque[str]] = {}
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Weighted):
            found.setdefault(_key(layer.weight.detach().numpy()), deque()).append(str(node.target))
    return found


def _as_in_the_layer(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """Return a node's weights as a layer of PyTorch holds them: (outputs, inputs) of a Linear."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight if node.op_type == "Conv" or transposed else weight.swapaxes(-1, -2) if weight.ndim > 1 else weight


def _before_weight(name: str) -> str:
    return name.removesuffix(".weight") if name.endswith(".weight") else ""


def _recurrent_calls(module: fx.GraphModule) -> Iterator[str]:
    """Yield the name of a recurrent layer for each node that it becomes, in their order: one for each of its own layers."""
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.RNNBase):
            yield from [str(node.target)] * layer.num_layers


def _key(weight: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return weight.shape, hashlib.sha256(np.ascontiguousarray(weight).tobytes()).digest()


def check_parity(module: nn.Module, path: Path, example: Inputs) -> float:
    """Return the largest difference between torch and ONNX Runtime, relative to the largest value of the output.

    Raises: ParityError: it is above 0.1 %, or an output is NaN.
    """
    with torch.inference_mode():
        wanted = [output.numpy() for output in outputs_of(module(*tensors(example)))]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, next(feeds([node.name for node in session.get_inputs()], [example])))
    differences = [
        float(np.abs(expected - actual).max() / max(float(np.abs(expected).max()), 1e-6))
        for expected, actual in zip(wanted, found, strict=True)
    ]
    difference = float(np.max(differences))
    if not difference <= _PARITY_TOLERANCE:
        raise ParityError(f"ONNX and torch outputs must agree within {_PARITY_TOLERANCE:.1%}, but got a difference of {difference:.2%}")
    return difference
