"""Detectors of slowdowns in any number format: layout, widths, sizes, zeros, missed fusions."""

from __future__ import annotations

import math

from paretopress.evaluators.cause import Cause, CauseKind, cause, counted
from paretopress.evaluators.optimised_graph import BLOCKED_DOMAIN, DEQUANTISE, QUANTISE, REORDERS, Facts, Node
from paretopress.evaluators.source_graph import ACTIVATIONS, SourceLayer

TINY_MACS = 500_000
# a layer counts as tiny if arithmetic is predicted to take less than this share of its time
TINY_ARITHMETIC = 0.25
TINY_WHOLE = 0.1
NARROW_CHANNELS, NARROW_ARITHMETIC = 32, 0.5
# weights beyond a core's second-level cache are read from memory in every run of batch 1
MEMORY_BOUND_BYTES, MEMORY_BOUND_ROWS = 1 << 20, 4
FLOAT_BYTES = 4
ZERO_SHARE, ZERO_CHANNELS = 0.3, 0.1


def layout_reorders(facts: Facts) -> list[Cause]:
    """Copies between layouts in the middle of the network; the ones at its ends are needed.

    Those beside a Q or DQ belong to a border between formats, and are counted by the cause of that.
    """
    found = [node for node in facts.nodes if node.op in REORDERS and _between_convolutions(facts, node) and not _at_border(facts, node)]
    if not found:
        return []
    what = f"{counted(found, 'node copies', 'nodes copy')} activations between layouts in the middle of the network."
    change = "Keep float and int8 layers in few long runs, and channels in multiples of the step, so that one layout lasts."
    return [cause(CauseKind.REORDERS, found, found, 0.0, what, change)]


def _between_convolutions(facts: Facts, node: Node) -> bool:
    return all(any("Conv" in near.op for near in walk(node, lambda _: True)) for walk in (facts.back, facts.ahead))


def _at_border(facts: Facts, node: Node) -> bool:
    return any(near is not None and near.op in (QUANTISE, DEQUANTISE) for near in (*facts.before(node), *facts.after(node)))


def odd_channels(facts: Facts) -> list[Cause]:
    """Float convolutions whose widths are no multiple of the block: they lose the blocked layout, or compute padding."""
    step = facts.channel_step
    found = [node for node in facts.nodes if node.layer is not None and node.layer.is_conv and node.is_float and _odd(node.layer, step)]
    found = [node for node in found if not facts.runs_in_float(node)]
    if not found:
        return []
    plain = [node for node in found if node.domain != BLOCKED_DOMAIN]
    padded = [node for node in found if node.domain == BLOCKED_DOMAIN]
    expected_ms = sum(map(facts.expected_ms, plain)) + sum(node.latency_ms * _useful(node.layer, step) for node in padded if node.layer)
    widths = sorted(
        {width for node in found if node.layer is not None for width in (node.layer.in_channels, node.layer.out_channels) if width % step}
    )
    lost = f"{counted(plain, 'convolution loses', 'convolutions lose')} the blocked layout" if plain else ""
    wasted = f"{counted(padded, 'convolution computes', 'convolutions compute')} padding up to the next block" if padded else ""
    what = f"{' and '.join(filter(None, (lost, wasted)))}: widths {', '.join(map(str, widths))} are no multiples of {step} channels."
    change = (
        f"Keep {' or '.join(str(width) for width in _multiples(widths[-1], step))} channels instead of {widths[-1]}: multiples of {step}."
    )
    return [cause(CauseKind.ODD_CHANNELS, found, found, expected_ms, what, change)]


def _odd(layer: SourceLayer, step: int) -> bool:
    # fewer input channels than a block are read as they lie: that is every stem
    return layer.out_channels % step > 0 or (layer.in_channels > step and layer.in_channels % step > 0)


def _useful(layer: SourceLayer | None, step: int) -> float:
    """Return the share of a blocked kernel's multiply-adds that the layer asks for."""
    assert layer is not None
    useful = layer.out_channels / (math.ceil(layer.out_channels / step) * step)
    if not layer.depthwise and layer.in_channels > step:
        useful *= layer.in_channels / (math.ceil(layer.in_channels / step) * step)
    return useful


def _multiples(width: int, step: int) -> list[int]:
    return [multiple for multiple in (width // step * step, math.ceil(width / step) * step) if multiple]


def tiny_layers(facts: Facts) -> list[Cause]:
    """Layers whose time is the node's own cost rather than arithmetic."""
    found = [
        node
        for node in facts.nodes
        if node.layer is not None
        and not facts.runs_in_float(node)
        and 0 < node.macs < TINY_MACS
        and facts.expected_ms(node) < TINY_ARITHMETIC * node.latency_ms
    ]
    expected_ms = sum(map(facts.expected_ms, found))
    if sum(node.latency_ms for node in found) - expected_ms < TINY_WHOLE * facts.whole_ms:
        return []
    int8 = sum(node.is_int8 for node in found)
    what = (
        f"{counted(found, 'layer', 'layers')} of less than {TINY_MACS / 1e6:g} MMACs, {int8} of them in int8, cost what calling a "
        f"kernel costs: arithmetic is predicted to take {expected_ms:.3f} ms."
    )
    change = "Remove or merge such layers rather than prune them, and leave them float: at few channels int8 gains nothing."
    return [cause(CauseKind.TINY_LAYERS, found, found, expected_ms, what, change)]


def narrow_int8(facts: Facts) -> list[Cause]:
    """Integer convolutions with too few channels to fill the kernel that makes int8 fast."""
    found = [
        node
        for node in facts.nodes
        if node.layer is not None
        and node.layer.is_conv
        and not node.layer.depthwise
        and node.is_int8
        and node.macs >= TINY_MACS
        and min(node.layer.in_channels, node.layer.out_channels) < NARROW_CHANNELS
        and facts.expected_ms(node) < NARROW_ARITHMETIC * node.latency_ms
    ]
    if not found:
        return []
    gmacs = sum(node.macs for node in found) / sum(node.latency_ms for node in found) / 1e6
    what = (
        f"{counted(found, 'int8 convolution', 'int8 convolutions')} with less than {NARROW_CHANNELS} channels on one side: "
        f"{gmacs:.0f} GMAC/s, where wide ones reach {facts.rates.dense_int8:.0f}."
    )
    change = "Remove such layers rather than narrow them, or spend their multiply-adds in fewer, wider ones."
    return [cause(CauseKind.NARROW_INT8, found, found, sum(map(facts.expected_ms, found)), what, change)]


def memory_bound_linear(facts: Facts) -> list[Cause]:
    """Large float Linear layers at batch 1: their time is that of reading the weights."""
    found = []
    for node in facts.nodes:
        layer = node.layer
        if layer is None or layer.is_conv or not node.is_float or layer.bits < 32 or not layer.params:
            continue
        large = layer.params * FLOAT_BYTES >= MEMORY_BOUND_BYTES and node.macs <= MEMORY_BOUND_ROWS * layer.params
        if large and facts.expected_ms(node) < 0.5 * node.latency_ms:
            found.append(node)
    if not found:
        return []
    size_bytes = sum(node.layer.params * FLOAT_BYTES for node in found if node.layer is not None)
    latency_ms = sum(node.latency_ms for node in found)
    what = (
        f"{counted(found, 'Linear reads', 'Linear layers read')} {size_bytes / 1e6:.1f} MB of weights for one row of inputs, "
        f"{size_bytes / latency_ms / 1e6:.1f} GB/s: memory is the bound, not arithmetic."
    )
    change = "Shrink the weights: int8 has a quarter of the bytes, 4-bit weight-only an eighth, a low rank fewer; or run larger batches."
    return [cause(CauseKind.MEMORY_BOUND, found, found, latency_ms / 4, what, change)]


def zeros_in_weights(facts: Facts) -> list[Cause]:
    """Pruned weights that are still there: zeros do not shrink a shape, and no kernel here skips them."""
    causes = []
    by_kind: dict[CauseKind, list[Node]] = {}
    for node in facts.nodes:
        layer = node.layer
        if layer is None or layer.zero_share < ZERO_SHARE:
            continue
        whole = layer.zero_channels >= ZERO_CHANNELS * layer.out_channels
        by_kind.setdefault(CauseKind.MASKED_CHANNELS if whole else CauseKind.SPARSE_WEIGHTS, []).append(node)
    for kind, found in by_kind.items():
        layers = [node.layer for node in found if node.layer is not None]
        share = sum(layer.zero_share * layer.params for layer in layers) / sum(layer.params for layer in layers)
        channels = sum(layer.zero_channels for layer in layers)
        what = f"{share:.0%} of the weights of {counted(found, 'layer', 'layers')} are zero, but the shapes are those of the full layers."
        change = "Prune whole channels or low ranks instead: single zeros cost as much as any weight."
        if kind is CauseKind.MASKED_CHANNELS:
            what = f"{channels} output channels in {counted(found, 'layer', 'layers')} are all zero, but they are still computed."
            change = "Remove the masked channels from the shapes, here and in the layers that read them."
        kept_ms = sum(node.latency_ms * (1.0 - layer.zero_share) for node, layer in zip(found, layers, strict=True))
        causes.append(cause(kind, found, found, kept_ms, what, change))
    return causes


def unfused_ops(facts: Facts) -> list[Cause]:
    """Normalisations that were not folded, and activations that did not fuse into the convolution before them."""
    found = [node for node in facts.nodes if node.is_float and (node.op == "BatchNormalization" or _follows_convolution(facts, node))]
    if not found:
        return []
    what = f"{counted(found, 'normalisation or activation runs', 'normalisations or activations run')} as a pass of its own over memory."
    change = "Export in eval mode so that normalisations fold; let nothing but the activation read the layer's output."
    return [cause(CauseKind.UNFUSED_OPS, found, found, 0.0, what, change)]


def _follows_convolution(facts: Facts, node: Node) -> bool:
    return node.op in ACTIVATIONS and any(
        near.layer is not None and near.is_float for near in facts.back(node, lambda at: at.op in REORDERS)
    )
