"""Small ONNX models, each slow for one planted reason, and three that are slow for none; for `latency_explain`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from paretopress.evaluators.cause import CauseKind

OPSET, IR_VERSION = 21, 10
SIZE, CHANNELS, DEPTH = 28, 64, 6
SCALE, UNSIGNED = np.float32(0.05), np.uint8(0)


class Network:
    """Grows a graph node by node; tensors are (1, C, H, W) float32, and `cast` puts a Q and DQ on one."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def constant(self, value: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def cast(self, x: str, zero_point: np.generic = UNSIGNED, scale: np.float32 = SCALE) -> str:
        constants = (self.constant(scale), self.constant(zero_point))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *constants), *constants)

    def weights(self, shape: tuple[int, ...], bits: int) -> str:
        """Return float weights, or integers behind a DQ."""
        spread = 1.0 / np.sqrt(np.prod(shape[1:]))
        values = self.rng.standard_normal(shape).astype(np.float32)
        if bits == 32:
            return self.constant(values * np.float32(spread))
        scale = self.constant(np.float32(spread * 3 / (2 ** (bits - 1) - 1)))
        whole = np.clip(np.round(values * (2 ** (bits - 1) - 1) / 3), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if bits == 8:
            return self.op("DequantizeLinear", self.constant(whole.astype(np.int8)), scale, self.constant(np.int8(0)))
        name = f"k{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, TensorProto.INT4, shape, whole.astype(np.int8).ravel()))
        return self.op("DequantizeLinear", name, scale)

    def conv(self, x: str, inputs: int, outputs: int, *, groups: int = 1, bits: int = 32, kernel: int = 3) -> str:
        weights = self.weights((outputs, inputs // groups, kernel, kernel), bits)
        count = sum(node.op_type == "Conv" for node in self.nodes)
        return self.op("Conv", x, weights, name=f"conv{count}", pads=[kernel // 2] * 4, group=groups)

    def model(self, y: str, shape: tuple[int, ...] = (1, CHANNELS, SIZE, SIZE)) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "planted", [x], [output], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def float_chain(channels: int = CHANNELS, change: Callable[[np.ndarray], None] | None = None) -> onnx.ModelProto:
    """Return convolutions with ReLU; `change` alters each one's weights in place."""
    net, x = Network(), "x"
    for _ in range(DEPTH):
        x = net.op("Relu", net.conv(x, channels, channels))
    if change is not None:
        for tensor in net.constants:
            values = numpy_helper.to_array(tensor).copy()
            change(values)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return net.model(x, (1, channels, SIZE, SIZE))


def int8_chain(
    *,
    channels: int = CHANNELS,
    size: int = SIZE,
    depth: int = DEPTH,
    groups: int = 1,
    bits: int = 8,
    signed: bool = False,
    after_relu: np.generic = UNSIGNED,
) -> onnx.ModelProto:
    """Return quantised convolutions with ReLU."""
    net = Network()
    x = net.cast("x", np.int8(0) if signed else np.uint8(128))
    for _ in range(depth):
        x = net.cast(net.op("Relu", net.conv(x, channels, channels, groups=groups, bits=bits)), after_relu)
    return net.model(x, (1, channels, size, size))


def residual_int8(*, between: Callable[[Network, str], str] | None = None) -> onnx.ModelProto:
    """Return quantised residual blocks that fuse throughout; `between` puts something behind each one's first convolution."""
    net = Network()
    x = net.cast(net.op("Relu", net.conv(net.cast("x", np.uint8(128)), CHANNELS, CHANNELS, bits=8)))
    for _ in range(DEPTH // 2):
        inner = net.conv(x, CHANNELS, CHANNELS, bits=8)
        inner = net.cast(net.op("Relu", inner)) if between is None else between(net, inner)
        inner = net.cast(net.conv(inner, CHANNELS, CHANNELS, bits=8), np.uint8(128))
        x = net.cast(net.op("Relu", net.op("Add", x, inner)))
    return net.model(x)


def float_island() -> onnx.ModelProto:
    def swish(net: Network, x: str) -> str:
        x = net.cast(x, np.uint8(128))
        return net.cast(net.op("HardSwish", x), np.uint8(8))

    return residual_int8(between=swish)


def float_pool() -> onnx.ModelProto:
    def pool(net: Network, x: str) -> str:
        x = net.cast(net.op("Relu", x))
        pooled = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        return net.cast(pooled, scale=np.float32(0.07))  # another scale than its input's: the runtime keeps it float

    return residual_int8(between=pool)


def stray_on_skip() -> onnx.ModelProto:
    net, x = Network(), "x"
    for _ in range(DEPTH // 2):
        inner = net.op("Relu", net.conv(x, CHANNELS, CHANNELS, kernel=1))
        inner = net.conv(inner, CHANNELS, CHANNELS, kernel=1)
        x = net.op("Relu", net.op("Add", inner, net.cast(x, np.uint8(128))))
    return net.model(x)


def shuffles() -> onnx.ModelProto:
    net, x = Network(), "x"
    to, back = ([1, 2, CHANNELS // 2, SIZE, SIZE], [1, CHANNELS, SIZE, SIZE])
    for _ in range(DEPTH):
        x = net.op("Relu", net.conv(x, CHANNELS, CHANNELS, kernel=1))
        x = net.op("Reshape", x, net.constant(np.array(to, np.int64)))
        x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
        x = net.op("Reshape", x, net.constant(np.array(back, np.int64)))
    return net.model(net.op("Relu", net.conv(x, CHANNELS, CHANNELS, kernel=1)))


def shared_outputs() -> onnx.ModelProto:
    net, x = Network(), "x"
    for _ in range(DEPTH):
        before = net.conv(x, CHANNELS, CHANNELS, kernel=1)
        x = net.op("Mul", net.op("LeakyRelu", before, alpha=0.1), before)
    return net.model(x)


def linear_layers() -> onnx.ModelProto:
    net, x = Network(), "x"
    for i, (inputs, outputs) in enumerate(((1024, 4096), (4096, 1024))):
        x = net.op("Relu", net.op("Gemm", x, net.weights((outputs, inputs), 32), name=f"fc{i}", transB=1))
    return net.model(x, (1, 1024))


def matmuls(rows: int = 1, width: int = 256) -> onnx.ModelProto:
    net, x = Network(), "x"
    for i in range(DEPTH):
        x = net.op("Relu", net.op("MatMul", x, net.weights((width, width), 32), name=f"fc{i}"))
    return net.model(x, (rows, width))


def dynamic(path: Path) -> None:
    source = path.with_suffix(".float.onnx")
    onnx.save(matmuls(), source)
    quantize_dynamic(source, path, weight_type=QuantType.QInt8)


def masked(values: np.ndarray) -> None:
    values[::2] = 0.0


def sparse(values: np.ndarray) -> None:
    values[np.random.default_rng(1).random(values.shape) < 0.8] = 0.0


def saved(make: Callable[[], onnx.ModelProto]) -> Callable[[Path], None]:
    return lambda path: onnx.save(make(), path)


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the kinds that name its planted cause; none for a clean one."""

    name: str
    kinds: tuple[CauseKind, ...]
    write: Callable[[Path], None]


CASES = (
    Case("63 channels in float", (CauseKind.ODD_CHANNELS,), saved(lambda: float_chain(63))),
    Case("36 channels in float", (CauseKind.ODD_CHANNELS,), saved(lambda: float_chain(36))),
    Case("zero-point 128 after ReLU", (CauseKind.ZERO_POINT,), saved(lambda: int8_chain(after_relu=np.uint8(128)))),
    Case(
        "int8 activations and int8 weights", (CauseKind.SIGNED_ACTIVATIONS,), saved(lambda: int8_chain(signed=True, after_relu=np.int8(0)))
    ),
    Case("4-bit weights with 8-bit activations", (CauseKind.INT4_ACTIVATIONS,), saved(lambda: int8_chain(bits=4))),
    Case("depthwise layers in int8", (CauseKind.DEPTHWISE_INT8,), saved(lambda: int8_chain(channels=128, groups=128))),
    Case("HardSwish between int8 layers", (CauseKind.FLOAT_ISLAND,), saved(float_island)),
    Case("max-pool with another scale than its input's", (CauseKind.FLOAT_JOIN,), saved(float_pool)),
    Case("Q/DQ on the skips of a float model", (CauseKind.STRAY_QDQ,), saved(stray_on_skip)),
    Case("tiny int8 layers", (CauseKind.TINY_LAYERS,), saved(lambda: int8_chain(channels=8, size=8, depth=16))),
    Case("large Linear layers at batch 1", (CauseKind.MEMORY_BOUND,), saved(linear_layers)),
    Case("dynamic quantisation of small MatMuls", (CauseKind.DYNAMIC,), dynamic),
    Case("half the channels masked with zeros", (CauseKind.MASKED_CHANNELS,), saved(lambda: float_chain(change=masked))),
    Case("80 % of the weights zero", (CauseKind.SPARSE_WEIGHTS,), saved(lambda: float_chain(change=sparse))),
    Case("channel shuffles between blocked convolutions", (CauseKind.REORDERS,), saved(shuffles)),
    Case("activations that cannot fuse", (CauseKind.UNFUSED_OPS,), saved(shared_outputs)),
    Case("clean float model", (), saved(float_chain)),
    Case("clean int8 model with skips", (), saved(residual_int8)),
    Case("clean int8 model", (), saved(int8_chain)),
)
