"""Each detector on a graph written by hand, with times that are made up: no clock runs here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paretopress.core.outcome import Latency
from paretopress.evaluators.cause import Cause, CauseKind
from paretopress.evaluators.explain import NO_LAYER, explain, find_causes
from paretopress.evaluators.optimised_graph import BLOCKED_DOMAIN, Facts, Node
from paretopress.evaluators.rates import Rates
from paretopress.evaluators.source_graph import EightBits, SourceLayer

RATES = Rates(dense_float=100.0, dense_int8=400.0, depthwise_float=20.0, depthwise_int8=10.0)
UNSIGNED, MIDDLE = EightBits("uint8", 0), EightBits("uint8", 128)
MACS = 40_000_000  # 0.4 ms in float, 0.1 ms in int8


def conv(name: str = "conv", outputs: int = 64, inputs: int = 64, *, groups: int = 1) -> SourceLayer:
    return SourceLayer(name, "Conv", (outputs, inputs // groups, 3, 3), outputs, groups)


def int8_conv(name: str = "conv", *, groups: int = 1) -> SourceLayer:
    return replace(conv(name, groups=groups), bits=8, reads=UNSIGNED, writes=UNSIGNED, activation="Relu")


def chain(*nodes: Node) -> tuple[Node, ...]:
    """Return the nodes with each reading the one before it; the first reads the model's input."""
    return tuple(replace(node, inputs=("x" if i == 0 else f"t{i - 1}",), outputs=(f"t{i}",)) for i, node in enumerate(nodes))


def node(op: str, latency_ms: float = 0.01, layer: SourceLayer | None = None, *, macs: int | None = None, dtype: str = "float") -> Node:
    if macs is None:
        macs = MACS if layer is not None else 0
    return Node(layer.name if layer else "", op, (), (), latency_ms=latency_ms, layer=layer, macs=macs, dtype=dtype)


def blocked(layer: SourceLayer, latency_ms: float = 0.4) -> Node:
    return replace(node("Conv", latency_ms, layer), domain=BLOCKED_DOMAIN)


def qlinear(name: str = "conv", latency_ms: float = 0.1) -> Node:
    return node("QLinearConv", latency_ms, int8_conv(name), dtype="uint8")


QUANTISE, DEQUANTISE = node("QuantizeLinear", 0.02, dtype="uint8"), node("DequantizeLinear", 0.03)


def facts(nodes: tuple[Node, ...], whole_ms: float | None = None) -> Facts:
    total_ms = sum(node.latency_ms for node in nodes)
    layers = tuple(node.layer for node in nodes if node.layer is not None)
    return Facts(nodes, layers, whole_ms or total_ms, total_ms, RATES, 0.001, channel_step=16)


def named(*nodes: Node, whole_ms: float | None = None) -> list[CauseKind]:
    return [cause.kind for cause in find_causes(facts(nodes, whole_ms))]


def only(*nodes: Node) -> Cause:
    (cause,) = find_causes(facts(nodes))
    return cause


def test_find_causes_names_none_when_a_float_model_is_blocked_throughout() -> None:
    assert named(*chain(blocked(conv("stem", 64, 3)), blocked(conv()), node("ReorderOutput"), node("GlobalAveragePool"))) == []


def test_find_causes_names_none_when_an_int8_model_fuses_throughout() -> None:
    head = (DEQUANTISE, node("Flatten"), node("Gemm", 0.01, SourceLayer("fc", "Gemm", (10, 64), 10), macs=640))
    assert (
        named(*chain(QUANTISE, node("Transpose", dtype="uint8"), qlinear("a"), qlinear("b"), node("Transpose", dtype="uint8"), *head)) == []
    )


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"writes": MIDDLE}, CauseKind.ZERO_POINT, "zero-point 128"),
        ({"reads": EightBits("int8", 0), "writes": EightBits("int8", 0)}, CauseKind.SIGNED_ACTIVATIONS, "int8"),
        ({"bits": 4}, CauseKind.INT4_ACTIVATIONS, "4-bit"),
        ({"writes": None}, CauseKind.UNFUSED_QDQ, "its output is not quantised"),
        ({}, CauseKind.UNFUSED_QDQ, "no integer kernel"),
    ],
)
def test_unfused_layers_gives_the_reason_for_a_layer_in_float(change: dict[str, object], kind: CauseKind, says: str) -> None:
    stuck = node("FusedConv", 0.5, replace(int8_conv(), **change))  # type: ignore[arg-type]
    cause = only(*chain(QUANTISE, DEQUANTISE, stuck, QUANTISE, DEQUANTISE))
    assert cause.kind is kind
    assert says in cause.what
    assert cause.where == ("conv",)
    # the layer, Q and DQ in front, Q behind: 0.5 + 0.02 + 0.03 + 0.02; 40 MMACs in int8 at 400 GMAC/s are 0.1 ms
    assert cause.latency_ms == pytest.approx(0.57)
    assert cause.predicted_saving_ms == pytest.approx(0.47)


def test_stray_qdq_names_the_pair_when_it_stands_on_a_skip() -> None:
    stem, inner = (
        replace(blocked(conv("stem")), outputs=("s",), inputs=("x",)),
        replace(blocked(conv("inner")), inputs=("s",), outputs=("i",)),
    )
    q, dq = replace(QUANTISE, inputs=("s",), outputs=("q",)), replace(DEQUANTISE, inputs=("q",), outputs=("d",))
    cause = only(stem, inner, q, dq, replace(node("Add"), inputs=("i", "d"), outputs=("y",)))
    assert cause.kind is CauseKind.STRAY_QDQ
    assert cause.predicted_saving_ms == cause.latency_ms == pytest.approx(0.05)


def test_stray_qdq_names_the_pair_when_integers_are_only_scaled_anew() -> None:
    assert named(*chain(QUANTISE, qlinear("a"), DEQUANTISE, QUANTISE, qlinear("b"))) == [CauseKind.STRAY_QDQ]


def test_float_islands_names_the_operator_between_integer_layers() -> None:
    cause = only(*chain(QUANTISE, qlinear("a"), DEQUANTISE, node("HardSwish", 0.05), QUANTISE, qlinear("b")))
    assert (cause.kind, cause.where) == (CauseKind.FLOAT_ISLAND, ("HardSwish",))
    assert cause.latency_ms == pytest.approx(0.03 + 0.05 + 0.02)


def test_float_islands_predicts_the_layer_in_int8_when_one_was_left_float() -> None:
    cause = only(*chain(QUANTISE, qlinear("a"), DEQUANTISE, blocked(conv("left")), QUANTISE, qlinear("b")))
    assert (cause.kind, cause.where) == (CauseKind.FLOAT_ISLAND, ("left",))
    assert cause.predicted_saving_ms == pytest.approx(0.03 + 0.4 + 0.02 - 0.1)


@pytest.mark.parametrize("ends", ["input", "output"])
def test_float_islands_names_none_when_the_float_part_is_an_end(ends: str) -> None:
    float_part, int8_part = (blocked(conv("left")),), (QUANTISE, qlinear("a"), DEQUANTISE)
    assert named(*chain(*(float_part + int8_part if ends == "input" else int8_part + float_part))) == []


def test_float_islands_names_none_when_an_output_needs_the_float() -> None:
    nodes = chain(QUANTISE, qlinear("a"), DEQUANTISE, node("HardSwish", 0.05), QUANTISE, qlinear("b"))
    assert named(*nodes, replace(node("Tanh"), inputs=nodes[3].outputs, outputs=("y",))) == []


def test_float_islands_names_none_when_the_float_part_is_most_of_the_model() -> None:
    most = [blocked(conv(f"c{i}")) for i in range(3)]
    assert CauseKind.FLOAT_ISLAND not in named(*chain(QUANTISE, qlinear("a"), DEQUANTISE, *most, QUANTISE, qlinear("b")))


def test_int8_islands_names_the_layer_whose_borders_cost_more() -> None:
    quantise, dequantise = replace(QUANTISE, latency_ms=0.15), replace(DEQUANTISE, latency_ms=0.25)
    inside = chain(blocked(conv("before")), quantise, qlinear("inside"), dequantise, blocked(conv("after")))
    cause = only(*inside)
    assert (cause.kind, cause.where) == (CauseKind.INT8_ISLAND, ("inside",))
    assert cause.latency_ms == pytest.approx(0.15 + 0.1 + 0.25)
    # 40 MMACs take 0.4 ms in float and 0.1 ms in int8
    assert cause.predicted_saving_ms == pytest.approx(0.15 + 0.25 - (0.4 - 0.1))
    assert named(*chain(blocked(conv("before")), QUANTISE, qlinear("inside"), DEQUANTISE, blocked(conv("after")))) == []  # it pays


def test_narrow_int8_names_a_layer_of_few_channels_and_a_low_rate() -> None:
    narrow = replace(int8_conv("narrow"), weight_shape=(16, 16, 3, 3), out_channels=16)
    cause = only(*chain(QUANTISE, node("QLinearConv", 0.25, narrow, dtype="uint8"), DEQUANTISE))
    assert (cause.kind, cause.predicted_saving_ms) == (CauseKind.NARROW_INT8, pytest.approx(0.15))
    assert "160 GMAC/s, where wide ones reach 400" in cause.what
    assert named(*chain(QUANTISE, node("QLinearConv", 0.15, narrow, dtype="uint8"), DEQUANTISE)) == []


@pytest.mark.parametrize("op", ["Concat", "MaxPool"])
def test_float_joins_names_the_operator_when_it_dequantises_and_quantises(op: str) -> None:
    cause = only(*chain(QUANTISE, qlinear("a"), DEQUANTISE, node(op, 0.04), QUANTISE, qlinear("b")))
    assert (cause.kind, cause.where) == (CauseKind.FLOAT_JOIN, (op,))


def test_float_joins_names_the_add_when_its_relu_did_not_vanish() -> None:
    assert named(*chain(QUANTISE, qlinear("a"), DEQUANTISE, node("Add", 0.04), node("Relu", 0.01), QUANTISE, qlinear("b"))) == [
        CauseKind.FLOAT_JOIN
    ]


def test_dynamic_quantisation_names_its_nodes_when_ranges_are_dynamic() -> None:
    layer = SourceLayer("fc", "MatMulInteger", (512, 512), 512, bits=8)
    assert named(*chain(node("DynamicQuantizeMatMul", 0.1, layer, macs=2_000_000))) == [CauseKind.DYNAMIC]


def test_depthwise_int8_names_the_layer_when_float_is_faster() -> None:
    layer = int8_conv("dw", groups=64)
    dw = node("QLinearConv", 0.3, layer, macs=2_000_000)  # 0.1 ms at 20 GMAC/s
    cause = only(*chain(QUANTISE, dw, DEQUANTISE))
    assert (cause.kind, cause.where) == (CauseKind.DEPTHWISE_INT8, ("dw",))
    assert cause.predicted_saving_ms == pytest.approx(0.2)
    faster = replace(facts(chain(QUANTISE, dw, DEQUANTISE)), rates=replace(RATES, depthwise_int8=30.0))
    assert find_causes(faster) == ()


def test_tiny_layers_names_them_when_arithmetic_is_a_small_part() -> None:
    layers = [node("QLinearConv", 0.02, int8_conv(f"c{i}"), macs=100_000) for i in range(3)]
    cause = only(*chain(QUANTISE, *layers, DEQUANTISE))
    assert (cause.kind, cause.where) == (CauseKind.TINY_LAYERS, ("c0", "c1", "c2"))
    assert named(*chain(*layers), whole_ms=10.0) == []  # 0.6 % of the model


def test_memory_bound_linear_names_the_layer_when_its_weights_are_large() -> None:
    layer = SourceLayer("fc", "Gemm", (1024, 4096), 1024)
    cause = only(*chain(node("Gemm", 1.0, layer, macs=layer.params)))
    assert (cause.kind, cause.where) == (CauseKind.MEMORY_BOUND, ("fc",))
    assert "16.8 MB" in cause.what  # 4 bytes * 1024 * 4096
    assert "16.8 GB/s" in cause.what  # in one millisecond
    assert named(*chain(node("Gemm", 1.0, layer, macs=64 * layer.params))) == []


def test_odd_channels_names_the_layer_when_the_blocked_layout_is_lost() -> None:
    cause = only(*chain(blocked(conv("stem", 64, 3)), node("FusedConv", 0.9, conv("odd", 63, 63))))
    assert (cause.kind, cause.where) == (CauseKind.ODD_CHANNELS, ("odd",))  # three input channels are read as they lie
    assert "48 or 64 channels instead of 63" in cause.change
    assert cause.predicted_saving_ms == pytest.approx(0.5)


def test_odd_channels_counts_the_padding_when_the_kernel_is_blocked() -> None:
    cause = only(*chain(blocked(conv("padded", 24, 64))))
    assert "padding" in cause.what
    assert cause.predicted_saving_ms == pytest.approx(0.4 * (1 - 24 / 32))


def test_layout_reorders_names_those_between_convolutions_alone() -> None:
    inside = node("ReorderOutput"), node("Softmax"), node("ReorderInput")
    cause = only(*chain(node("ReorderInput"), blocked(conv("a")), *inside, blocked(conv("b")), node("ReorderOutput")))
    assert (cause.kind, cause.where) == (CauseKind.REORDERS, ("ReorderOutput", "ReorderInput"))


@pytest.mark.parametrize(("channels", "kind"), [(32, CauseKind.MASKED_CHANNELS), (0, CauseKind.SPARSE_WEIGHTS)])
def test_zeros_in_weights_tells_channels_from_single_zeros(channels: int, kind: CauseKind) -> None:
    cause = only(*chain(blocked(replace(conv(), zero_share=0.5, zero_channels=channels))))
    assert (cause.kind, cause.predicted_saving_ms) == (kind, pytest.approx(0.2))


@pytest.mark.parametrize("op", ["BatchNormalization", "LeakyRelu"])
def test_unfused_ops_names_the_node_when_it_follows_a_convolution(op: str) -> None:
    assert named(*chain(blocked(conv()), node(op, 0.05))) == [CauseKind.UNFUSED_OPS]


def test_find_causes_orders_by_predicted_saving_and_drops_trifles() -> None:
    masked = blocked(replace(conv("masked"), zero_share=0.5, zero_channels=32))  # 0.2 ms
    nodes = chain(masked, node("BatchNormalization", 0.3), node("FusedConv", 0.401, conv("odd", 63)))  # 0.3 ms and 0.001 ms
    assert named(*nodes) == [CauseKind.UNFUSED_OPS, CauseKind.MASKED_CHANNELS]


def test_explain_compares_by_layer_when_there_is_a_baseline() -> None:
    before = facts(chain(blocked(conv("stem")), blocked(conv("gone")), blocked(conv("fc")), node("GlobalAveragePool", 0.05)))
    halves = [node("Conv", 0.15, conv(f"fc.{i}"), macs=MACS // 4) for i in (0, 1)]
    after = facts(chain(QUANTISE, qlinear("stem"), DEQUANTISE, *halves))
    measured = Latency(0.3, (0.29, 0.31), 0.5, (0.48, 0.52), 0.3, 0.3, 0.6, 16, 100, 1.0)
    explanation = explain("m.onnx", after, baseline=before, measured=measured)
    lines = {line.name: (line.format, line.baseline_ms, line.latency_ms, line.macs) for line in explanation.lines}
    assert lines == {
        "stem": ("int8", 0.4, 0.1, MACS),
        "gone": ("removed", 0.4, 0.0, 0),
        "fc": ("float", 0.4, pytest.approx(0.3), MACS // 2),
        NO_LAYER: ("", 0.05, pytest.approx(0.05), 0),
    }
    # 0.1 ms in int8 and twice 0.1 in float, of three times 0.4
    assert explanation.predicted_ratio == pytest.approx(0.3 / 1.2)
    assert (explanation.measured_ratio, explanation.measured_ratio_ci) == (0.5, (0.48, 0.52))


def test_explain_has_no_ratio_when_there_is_no_baseline() -> None:
    value = explain("m.onnx", facts(chain(blocked(conv())), whole_ms=0.5)).to_json()
    assert (value["measured_ratio"], value["predicted_ratio"]) == (None, None)
    assert (value["whole_ms"], value["predicted_ms"], value["nodes_ms"]) == (0.5, pytest.approx(0.4), 0.4)
    assert value["lines"][0]["name"] == "conv"
