"""Detectors of what keeps a quantised model from running in integers; each judges structure, and times only weigh its findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from paretopress.evaluators.cause import Cause, CauseKind, cause, counted, total_ms
from paretopress.evaluators.optimised_graph import DEQUANTISE, QUANTISE, REORDERS, Facts, Node
from paretopress.evaluators.source_graph import ACTIVATIONS, SourceLayer

JOINS = frozenset({"Add", "Sum", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"})
_DYNAMIC_OPS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "ConvInteger", "MatMulInteger"})

_CHANGES = {
    CauseKind.INT4_ACTIVATIONS: "Use 8-bit weights there, or keep the 4-bit weights and leave the activations float.",
    CauseKind.SIGNED_ACTIVATIONS: "Quantise activations as uint8 and weights as int8.",
    CauseKind.ZERO_POINT: "Quantise what follows a ReLU as uint8 with zero-point 0 (asymmetric, calibrated behind the ReLU).",
    CauseKind.UNFUSED_QDQ: "Put a Q/DQ pair on the layer's input and on its output, with nothing but a ReLU in between.",
}


def unfused_layers(facts: Facts) -> list[Cause]:
    """Layers that the file quantises and that run in float, by the reason that the runtime has for it."""
    by_reason: dict[tuple[CauseKind, str], list[Node]] = {}
    for node in facts.nodes:
        if facts.runs_in_float(node):
            assert node.layer is not None
            by_reason.setdefault(_obstacle(node.layer), []).append(node)
    causes = []
    for (kind, reason), stuck in by_reason.items():
        involved = [*stuck, *(near for node in stuck for near in _qdq_around(facts, node))]
        what = f"{counted(stuck, 'quantised layer runs', 'quantised layers run')} in float between Q and DQ: {reason}."
        causes.append(cause(kind, stuck, involved, sum(map(facts.expected_ms, stuck)), what, _CHANGES[kind]))
    return causes


def _obstacle(layer: SourceLayer) -> tuple[CauseKind, str]:
    assert layer.reads is not None
    if layer.bits < 8:
        return CauseKind.INT4_ACTIVATIONS, "no kernel multiplies 4-bit weights with 8-bit activations"
    if layer.reads.dtype == "int8":
        return (
            CauseKind.SIGNED_ACTIVATIONS,
            "its activations are int8, which this processor's kernels and the runtime's fusions do not take",
        )
    if layer.writes is None:
        return CauseKind.UNFUSED_QDQ, "its output is not quantised"
    if layer.activation and not layer.writes.lowest_is_zero:
        reason = f"zero-point {layer.writes.zero_point} keeps the {layer.activation} from vanishing into the quantisation"
        return CauseKind.ZERO_POINT, reason
    return CauseKind.UNFUSED_QDQ, "the runtime has no integer kernel for this combination"


def _qdq_around(facts: Facts, node: Node) -> Iterator[Node]:
    """Yield the Q and DQ that nothing but this float kernel needs."""
    for near in facts.back(node, lambda at: at.op in REORDERS | {DEQUANTISE} | ACTIVATIONS):
        if near.op == DEQUANTISE or (near.op == QUANTISE and _only_dequantised(facts, near)):
            yield near
    for near in facts.ahead(node, lambda at: at.op in REORDERS | ACTIVATIONS):
        if near.op == QUANTISE and _only_dequantised(facts, near):
            yield near


def _only_dequantised(facts: Facts, node: Node) -> bool:
    after = facts.after(node)
    return bool(after) and all(reader.op == DEQUANTISE for reader in after)


def stray_qdq(facts: Facts) -> list[Cause]:
    """Q whose codes are only dequantised again, and DQ whose floats are only quantised again: rounding that buys nothing."""
    strays: list[Node] = []
    for node in facts.nodes:
        if node.op == QUANTISE and _only_dequantised(facts, node) and not _beside_float_layer(facts, node):
            strays += [node, *facts.after(node)]
        elif node.op == DEQUANTISE and node.inputs and (after := facts.after(node)) and all(reader.op == QUANTISE for reader in after):
            strays += [node, *after]
    if not strays:
        return []
    what = f"{counted(strays, 'Q or DQ stands', 'Q and DQ stand')} back to back with no integer kernel in between."
    change = "Remove the pair, or quantise what reads it as well: on a skip, both inputs and the output of the add."
    return [cause(CauseKind.STRAY_QDQ, strays, strays, 0.0, what, change)]


def _beside_float_layer(facts: Facts, quantise: Node) -> bool:
    """Return whether a layer that failed to fuse explains the pair."""
    around = [*facts.back(quantise, lambda at: at.op in REORDERS | ACTIVATIONS)]
    around += facts.ahead(quantise, lambda at: at.op in REORDERS | {DEQUANTISE})
    return any(map(facts.runs_in_float, around))


def float_islands(facts: Facts) -> list[Cause]:
    """Float operators between two integer regions: each pays a DQ in front and a Q behind.

    A float region with most of the multiply-adds is no island, but the model.
    """
    whole_macs = sum(node.macs for node in facts.nodes)
    islands = [
        island
        for island in _regions(facts, lambda node: node.is_float)
        if _is_enclosed(facts, island, DEQUANTISE, QUANTISE)
        and 2 * sum(node.macs for node in island) <= whole_macs
        and not any(map(facts.runs_in_float, island))
        and not _joins_alone(island)
    ]
    if not islands:
        return []
    inner = [node for island in islands for node in island]
    coast = [near for node in inner for near in _border(facts, node)]
    shown = [node for node in inner if node.op not in REORDERS]
    what = (
        f"{counted(shown, 'operator stays', 'operators stay')} float between integer layers, "
        f"with {total_ms(coast):.3f} ms of Q, DQ and reorders around."
    )
    change = "Quantise these too, replace an operator that has no integer kernel (a ReLU for a Swish), or leave the whole stage float."
    expected_ms = sum(facts.predicted_ms(node.layer, node.macs, int8=True) for node in inner if node.layer is not None)
    return [cause(CauseKind.FLOAT_ISLAND, shown, [*inner, *coast], expected_ms, what, change)]


def int8_islands(facts: Facts) -> list[Cause]:
    """Integer layers between two float regions whose Q and DQ cost more than int8 is predicted to save."""
    inner: list[Node] = []
    coast: list[Node] = []
    for island in _regions(facts, lambda node: node.is_int8):
        if not _is_enclosed(facts, island, QUANTISE, DEQUANTISE):
            continue
        ends = [near for node in island for near in (*facts.before(node), *facts.after(node)) if near is not None and not near.is_int8]
        ends += [near for end in ends for near in (*facts.before(end), *facts.after(end)) if near is not None and near.op in REORDERS]
        if total_ms(ends) > _predicted_gain_ms(facts, island):
            inner += island
            coast += ends
    if not inner:
        return []
    shown = [node for node in inner if node.layer is not None] or inner
    gain_ms = _predicted_gain_ms(facts, inner)
    what = (
        f"{counted(shown, 'node runs', 'nodes run')} in int8 between float ones: {total_ms(coast):.3f} ms of Q, DQ and reorders around, "
        f"where int8 is predicted to save {gain_ms:.3f} ms."
    )
    change = "Leave them float, or quantise what lies around."
    return [cause(CauseKind.INT8_ISLAND, shown, [*inner, *coast], total_ms(inner) + gain_ms, what, change)]


def _predicted_gain_ms(facts: Facts, nodes: Iterable[Node]) -> float:
    """Return what int8 saves at the rates of large layers; nothing where float is faster, as for depthwise ones."""
    layers = [(node.layer, node.macs) for node in nodes if node.layer is not None]
    return max(sum(facts.predicted_ms(layer, macs, int8=False) - facts.predicted_ms(layer, macs, int8=True) for layer, macs in layers), 0.0)


def _regions(facts: Facts, belongs: Callable[[Node], bool]) -> Iterator[list[Node]]:
    """Yield the connected regions of nodes of one kind."""
    seen: set[int] = set()
    for start in facts.nodes:
        if not belongs(start) or id(start) in seen:
            continue
        region = [start]
        seen.add(id(start))
        for node in region:  # grows while it is walked
            for near in (*facts.before(node), *facts.after(node)):
                if near is not None and belongs(near) and id(near) not in seen:
                    seen.add(id(near))
                    region.append(near)
        yield region


def _is_enclosed(facts: Facts, region: list[Node], entry: str, exit_: str) -> bool:
    """Return whether a region is fed through one operator alone and read through another alone, and holds no end of the model."""
    inside = {id(node) for node in region}
    fed = [near for node in region for near in facts.before(node) if near is None or id(near) not in inside]
    read = [near for node in region for near in facts.after(node) if id(near) not in inside]
    open_ended = any(not facts.after(node) for node in [*region, *read]) or any(near is None or None in facts.before(near) for near in fed)
    return bool(fed and read) and not open_ended and {near.op for near in fed if near} == {entry} and {near.op for near in read} == {exit_}


def _joins_alone(region: list[Node]) -> bool:
    """Return whether `float_joins` tells of the region: a join, with what fused to nothing around it."""
    rest = {node.op for node in region} - ACTIVATIONS - REORDERS
    return bool(rest) and rest <= JOINS


def _border(facts: Facts, node: Node) -> list[Node]:
    """Return the Q, DQ and reorders through which a float operator meets integer ones."""
    back = facts.back(node, lambda at: at.op in REORDERS or at.op == DEQUANTISE)
    ahead = facts.ahead(node, lambda at: at.op in REORDERS | ACTIVATIONS or at.op == QUANTISE)
    kept_back = [near for near in back if near.op in REORDERS or near.op == DEQUANTISE]
    return kept_back + [near for near in ahead if near.op in REORDERS or near.op == QUANTISE]


def float_joins(facts: Facts) -> list[Cause]:
    """Adds, concatenations and pools that dequantise what they read and quantise what they write."""
    joins: list[Node] = []
    involved: list[Node] = []
    for node in facts.nodes:
        if node.op not in JOINS or not node.is_float:
            continue
        border = _border(facts, node)
        codes_are_read = any(near.op == QUANTISE and not _only_dequantised(facts, near) for near in border)
        if codes_are_read and any(near.op == DEQUANTISE for near in border):
            joins.append(node)
            involved += [node, *border]
    if not joins:
        return []
    what = f"{counted(joins, 'add, concatenation or pool runs', 'adds, concatenations or pools run')} in float between integer layers."
    change = "Put a Q/DQ pair on every input and on the output; where the runtime has no integer kernel, quantise only one side of it."
    return [cause(CauseKind.FLOAT_JOIN, joins, involved, sum(node.latency_ms for node in joins) / 2, what, change)]


def dynamic_quantisation(facts: Facts) -> list[Cause]:
    """Scales that are computed anew in every run."""
    dynamic = [node for node in facts.nodes if node.op in _DYNAMIC_OPS]
    if not dynamic:
        return []
    what = f"{counted(dynamic, 'node quantises', 'nodes quantise')} activations with ranges found anew in every run."
    change = "Quantise statically with calibration data; dynamic ranges pay for large MatMuls alone."
    return [cause(CauseKind.DYNAMIC, dynamic, dynamic, sum(map(facts.expected_ms, dynamic)), what, change)]


def depthwise_int8(facts: Facts) -> list[Cause]:
    """Depthwise layers in int8 where this host's int8 depthwise kernel is slower than its float one."""
    if facts.rates.depthwise_int8 >= facts.rates.depthwise_float:
        return []
    found = [node for node in facts.nodes if node.layer is not None and node.layer.depthwise and node.is_int8]
    if not found:
        return []
    ratio = facts.rates.depthwise_float / facts.rates.depthwise_int8
    what = (
        f"{counted(found, 'depthwise layer runs', 'depthwise layers run')} in int8, whose kernel was measured "
        f"{ratio:.1f} times as slow here as the float one."
    )
    change = "Leave depthwise layers float if the Q/DQ around them costs less, or replace them by dense ones of fewer channels."
    expected_ms = sum(facts.predicted_ms(node.layer, node.macs, int8=False) for node in found if node.layer is not None)
    return [cause(CauseKind.DEPTHWISE_INT8, found, found, expected_ms, what, change)]
