"""Explain why a file is not faster: predicted and measured time per layer, and the causes of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paretopress.core.outcome import Latency
from paretopress.evaluators.cause import Cause, Detector
from paretopress.evaluators.causes_float import (
    layout_reorders,
    memory_bound_linear,
    narrow_int8,
    odd_channels,
    tiny_layers,
    unfused_ops,
    zeros_in_weights,
)
from paretopress.evaluators.causes_quantised import (
    depthwise_int8,
    dynamic_quantisation,
    float_islands,
    float_joins,
    int8_islands,
    stray_qdq,
    unfused_layers,
)
from paretopress.evaluators.optimised_graph import Facts
from paretopress.evaluators.profile import layer_by_module_path

EXPLANATION_SCHEMA = 1
DETECTORS: tuple[Detector, ...] = (
    unfused_layers,
    stray_qdq,
    float_islands,
    int8_islands,
    float_joins,
    dynamic_quantisation,
    depthwise_int8,
    tiny_layers,
    narrow_int8,
    memory_bound_linear,
    odd_channels,
    layout_reorders,
    zeros_in_weights,
    unfused_ops,
)
# a cause that is predicted to save less of the whole model is not worth a line
MIN_SAVING = 0.01
NO_LAYER = "(no layer)"


@dataclass(frozen=True, slots=True)
class LayerLine:
    """One layer, or all that belongs to none.

    Attributes:
        format: what the file asks for, e.g. "int8". runs_as: the operators that carry it out.
        latency_ms: measured. predicted_ms: its multiply-adds at the rate of a large layer of its kind.
        baseline_macs, baseline_ms: of the same layer in the baseline; None where there is none to compare with.
    """

    name: str
    format: str
    runs_as: tuple[str, ...] = ()
    macs: int = 0
    latency_ms: float = 0.0
    predicted_ms: float = 0.0
    baseline_macs: int | None = None
    baseline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `paretopress explain` shows.

    Attributes:
        whole_ms: p50 of the model, measured without the profiler. nodes_ms, raw_nodes_ms: the sum of its nodes, without and with
            what the profiler adds.
        predicted_ms: of all layers' multiply-adds at the rates of large layers; what lies between layers is predicted as nothing.
        measured_ratio, measured_ratio_ci, predicted_ratio: file / baseline; None without a baseline.
        causes: the largest predicted saving first.
    """

    file: str
    whole_ms: float
    nodes_ms: float
    raw_nodes_ms: float
    predicted_ms: float
    lines: tuple[LayerLine, ...]
    causes: tuple[Cause, ...]
    measured_ratio: float | None = None
    measured_ratio_ci: tuple[float, float] | None = None
    predicted_ratio: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            "schema": EXPLANATION_SCHEMA,
            **fields,
            "lines": [asdict(line) for line in self.lines],
            "causes": [found.to_json() for found in self.causes],
        }


def find_causes(facts: Facts, detectors: Sequence[Detector] = DETECTORS) -> tuple[Cause, ...]:
    """Return the causes that are predicted to save at least 1 % of the model, the largest predicted saving first."""
    found = [one for detector in detectors for one in detector(facts)]
    worth = [one for one in found if one.predicted_saving_ms >= MIN_SAVING * facts.whole_ms]
    return tuple(sorted(worth, key=lambda one: -one.predicted_saving_ms))


def explain(file: str, facts: Facts, *, baseline: Facts | None = None, measured: Latency | None = None) -> Explanation:
    """Return the explanation of one file from the facts of its graph.

    Args:
        baseline: the facts of the file to compare with, layer by layer. measured: both files' latency, timed in turns.
    """
    predicted_ms = sum(map(facts.expected_ms, facts.nodes))
    return Explanation(
        file=file,
        whole_ms=facts.whole_ms,
        nodes_ms=sum(node.latency_ms for node in facts.nodes),
        raw_nodes_ms=facts.raw_sum_ms,
        predicted_ms=predicted_ms,
        lines=tuple(_lines(facts, baseline)),
        causes=find_causes(facts),
        measured_ratio=measured.ratio if measured is not None else None,
        measured_ratio_ci=measured.ratio_ci if measured is not None else None,
        predicted_ratio=predicted_ms / sum(map(baseline.expected_ms, baseline.nodes)) if baseline is not None else None,
    )


def _lines(facts: Facts, baseline: Facts | None) -> list[LayerLine]:
    """Return a line for each layer; with a baseline its layers lead, and the factors `fc.0` and `fc.1` of a layer `fc` share its line."""
    names = [layer.name for layer in facts.layers]
    if baseline is None:
        return list(_by_layer(facts, names).values())
    base_names = [layer.name for layer in baseline.layers]
    in_base = layer_by_module_path(base_names)
    before = _by_layer(baseline, base_names)
    after = _by_layer(facts, [*base_names, *(name for name in names if in_base(name) is None and name not in base_names)])
    return [
        replace(
            after.get(name, LayerLine(name, "removed")),
            baseline_macs=before[name].macs if name in before else None,
            baseline_ms=before[name].latency_ms if name in before else None,
        )
        for name in sorted(before | after, key=lambda name: name == NO_LAYER)  # stable: what belongs to no layer goes last
    ]


def _by_layer(facts: Facts, names: Sequence[str]) -> dict[str, LayerLine]:
    """Return name -> line in the order of `names`, for those that the graph carries out, and last what belongs to no layer."""
    layer_of = layer_by_module_path(names)
    lines = {name: LayerLine(name, "") for name in (*names, NO_LAYER)}
    for node in facts.nodes:
        layer = node.layer
        name = NO_LAYER if layer is None else layer_of(layer.name) or layer.name
        line = lines[name]
        lines[name] = replace(
            line,
            format=line.format if layer is None else str(layer.format),
            runs_as=line.runs_as if layer is None or node.op in line.runs_as else (*line.runs_as, node.op),
            macs=line.macs + node.macs,
            latency_ms=line.latency_ms + node.latency_ms,
            predicted_ms=line.predicted_ms + facts.expected_ms(node),
        )
    return {name: line for name, line in lines.items() if line.latency_ms > 0.0}
