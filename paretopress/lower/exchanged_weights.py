"""Files of one structure differ in their weights and widths alone: a graph is exported once, and its weights are exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import fx, nn

from paretopress.core.layer_types import Conv
from paretopress.core.model_inputs import Inputs
from paretopress.errors import LoweringError, typed_line
from paretopress.intake.onnx_module import onnx_graph_in
from paretopress.lower.export import CALL, check_parity, export_onnx, exported, fused_copy
from paretopress.system.atomic_files import write_bytes
from paretopress.system.lru_cache import LruCache

# what is kept of exported graphs; and constants that a graph holds beside weights, which no width changes: at most so many values each
_KEPT_BYTES, _CONSTANT_VALUES = 128 << 20, 64
# modules whose settings `repr` shows, none of which is a width
_PLAIN = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LeakyReLU, nn.ELU,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, nn.PixelShuffle,
)  # fmt: skip
_WEIGHT_OPS = frozenset({"Conv", "Gemm", "MatMul"})
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class _Template:
    """An exported model, and for each initialiser of it the tensor of the module that it holds, transposed or not; None for a constant."""

    model: onnx.ModelProto
    sources: Mapping[str, tuple[str, bool] | None]

    def with_weights_of(self, module: fx.GraphModule) -> onnx.ModelProto | None:
        """Return the model with the weights of another module of its structure; None where one of them does not fit."""
        tensors = _tensors(module)
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        del made.graph.value_info[:]  # they name other widths
        for initialiser in made.graph.initializer:
            source = self.sources[initialiser.name]
            if source is None:
                continue
            path, transposed = source
            if path not in tensors or tensors[path].ndim != len(initialiser.dims):
                return None
            array = tensors[path].T if transposed else tensors[path]
            initialiser.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), initialiser.name))
        for node in made.graph.node:
            layer = _layer(module, node.name.split(CALL)[0]) if node.op_type == "Conv" else None
            for attribute in node.attribute if layer is not None else ():
                if attribute.name == "group":
                    attribute.i = layer.groups  # type: ignore[union-attr]  # of a convolution
        return made


class ExportedGraphs:
    """Exports modules, and keeps the graphs of those that it exported; see `export_onnx`."""

    def __init__(self) -> None:
        self._templates = LruCache[_Template](_KEPT_BYTES, lambda template: template.model.ByteSize())

    def export(
        self, module: nn.Module, example: Inputs, path: Path, names: Sequence[str], outputs: Sequence[str], *, checked: bool = True
    ) -> None:
        """Write a module as `export_onnx` does; arguments and errors are its own.

        Where what is made of another's graph differs from the module, the module is exported after all.
        """
        if onnx_graph_in(module) is not None:
            export_onnx(module, example, path, names, outputs)
            return
        try:
            plain, fused = fused_copy(module, example)
            structure = structure_of(fused)
            template = None if structure is None else self._templates.get(structure)
            model = None if template is None else template.with_weights_of(fused)
            exchanged = model is not None
            if model is None or not (checked or _fits(model)):
                model, exchanged = exported(fused, example, names, outputs), False
        except Exception as error:  # the exporter raises whatever its operators meet
            raise LoweringError(f"the model must export to ONNX, but got {typed_line(error)}") from error
        if structure is not None and not exchanged:
            sources = _sources(model, fused)
            if sources is not None:
                self._templates.put(structure, _Template(model, sources))
        write_bytes(path, model.SerializeToString())
        if not checked:
            return
        try:
            check_parity(plain, path, example)
        except Exception:  # it computes something else, or does not load: the runtime's errors share no base class
            if not exchanged:
                raise
            export_onnx(module, example, path, names, outputs)


def _fits(model: onnx.ModelProto) -> bool:
    """Return whether the shapes of a model fit together."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception:  # its error is a RuntimeError in one version and one of its own in another
        return False
    return True


def structure_of(module: fx.GraphModule) -> str | None:
    """Return a text that is the same for modules whose graphs differ in weights and widths alone; None for one with other layers."""
    lines = []
    for node in module.graph.nodes:
        told = f"{node.op} {node.target} {node.args} {node.kwargs}"
        if node.op == "call_module":
            settings = _settings(module.get_submodule(str(node.target)))
            if settings is None:
                return None
            told += f" {settings}"
        elif node.op == "get_attr":
            value = _tensors(module).get(str(node.target))
            told += "" if value is None else f" {value.ndim} {value.dtype}"
        lines.append(told)
    return "\n".join(lines)


def _settings(layer: nn.Module) -> str | None:
    """Return the settings of a layer that are no width, None of one that is not known."""
    if isinstance(layer, nn.Linear):
        return f"Linear {layer.bias is not None}"
    if isinstance(layer, Conv):
        grouping = "depthwise" if layer.groups == layer.in_channels > 1 else str(layer.groups)
        numbers = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.padding_mode)
        return f"{type(layer).__name__} {numbers} {grouping} {layer.bias is not None}"
    if isinstance(layer, nn.LayerNorm):
        return f"LayerNorm {len(layer.normalized_shape)} {layer.eps} {layer.weight is not None} {layer.bias is not None}"
    return repr(layer) if type(layer) in _PLAIN else None


def _sources(model: onnx.ModelProto, module: fx.GraphModule) -> dict[str, tuple[str, bool] | None] | None:
    """Return where each initialiser comes from; None where one is large and comes from nowhere, or weights have no layer of their own."""
    tensors = _tensors(module)
    transposed = {tensor.T.tobytes() + repr(tensor.T.shape).encode(): name for name, tensor in tensors.items() if tensor.ndim == 2}
    if len(transposed) < sum(tensor.ndim == 2 for tensor in tensors.values()):
        return None  # two matrices are the same: which is whose cannot be told
    vectors = {tensor.tobytes() for tensor in tensors.values() if tensor.ndim == 1}
    found: dict[str, tuple[str, bool] | None] = {}
    for initialiser in model.graph.initializer:
        value, name = numpy_helper.to_array(initialiser), initialiser.name
        if name in tensors and tensors[name].shape == value.shape and np.array_equal(tensors[name], value):
            found[name] = (name, False)
        elif value.ndim == 2 and (path := transposed.get(value.tobytes() + repr(value.shape).encode())) is not None:
            found[name] = (path, True)
        elif value.size <= _CONSTANT_VALUES and value.ndim < 2 and value.tobytes() not in vectors:
            found[name] = None
        else:
            return None
    readers = [node.input[1] for node in model.graph.node if node.op_type in _WEIGHT_OPS and len(node.input) > 1]
    weights = [name for name in readers if found.get(name) is not None]
    return found if len(weights) == len(set(weights)) else None


def _tensors(module: nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _layer(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path) if path else None
    except AttributeError:
        return None
