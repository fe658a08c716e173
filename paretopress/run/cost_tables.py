"""Measure the cost tables of a run: milliseconds of every layer in float and int8, and the Fisher damage of every choice."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from paretopress.compress.apply import compress_module
from paretopress.compress.sensitivity.divergence import divergence_from
from paretopress.compress.sensitivity.fisher import Asked, Damages, fisher_damages
from paretopress.core.model_graph import LayerKind
from paretopress.core.model_inputs import Inputs, size_of
from paretopress.core.plan import FLOAT_BITS, Plan
from paretopress.evaluators.profile import layer_by_module_path, profile_onnx
from paretopress.runtimes.runtime import SessionSettings
from paretopress.search.samplers.initial_plans import int8_bits
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import REMOVED, RESOLUTION, SearchSpace
from paretopress.spaces.variables import Choice, Value
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.stage_timer import StageTimer
from paretopress.trial.pipeline import Pipeline

# runs of the profiler: a hundred of a quick model, and of a slow one as many as fit into two seconds, but ten
_PROFILED_RUNS, _PROFILED_MS = (10, 100), 2_000.0
# the share of the set-up's time that is left which one profile may take
_PROFILED_SHARE = 0.1


def measure_tables(
    pipeline: Pipeline,
    space: SearchSpace,
    items: Inputs,
    branch_loss: Mapping[str, float],
    baseline_ms: float,
    watch: StageTimer,
    *,
    deadline: Deadline = NO_DEADLINE,
    on_cut: Callable[[str], None] = lambda _: None,
) -> CostTables:
    """Return the tables of a model.

    Args:
        items: training items for the damages. branch_loss: group -> divergence when its branch is removed. watch: for what it measures.
        deadline: with little time until then the profiler makes fewer runs, and damages are from fewer items; `on_cut` is told.
    The profiler runs on this host and in its state of the minute, so its milliseconds are scaled to what the target measured of the
    whole file; on another machine the proportions are a prediction that the trials correct.
    """
    layer_of = layer_by_module_path(layer.name for layer in space.graph.layers)
    layer_ms: dict[str, dict[int, float]] = {layer.name: {} for layer in space.graph.layers}
    rest_ms: dict[int, float] = {}
    fewest, most = _PROFILED_RUNS
    wanted = min(max(int(_PROFILED_MS / baseline_ms), fewest), most)
    runs = min(wanted, max(int(_PROFILED_SHARE * 1e3 * max(deadline.left_s, 0.0) / baseline_ms), fewest)) if deadline.finite else wanted
    if runs < wanted:
        on_cut(f"the profiler makes {runs} runs instead of {wanted}")
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        files = {FLOAT_BITS: pipeline.folder.baseline}
        bits = int8_bits(space, 1)
        if bits:
            files[8] = Path(temporary, "int8.onnx")
            pipeline.lower(pipeline.intake.module, Plan(bits=bits), files[8], StageTimer(), only_timed=True)
        for width, path in files.items():
            with watch.stage("latency"):
                profile = profile_onnx(path, settings=SessionSettings(), feed=pipeline.feed, runs=runs, layer_of=layer_of)
                whole_ms = baseline_ms if width == FLOAT_BITS else _whole_ms(pipeline, path, baseline_ms)
            scale = whole_ms / profile.sum_ms
            for name, ms in profile.by_layer().items():
                if name is None:
                    rest_ms[width] = ms * scale
                else:
                    layer_ms[name][width] = ms * scale
    for by_bits in layer_ms.values():
        by_bits.setdefault(FLOAT_BITS, 0.0)  # a layer that the optimiser folded away costs nothing
    floor_ms = min((ms for by_bits in layer_ms.values() for ms in by_bits.values() if ms > 0.0), default=0.0)
    return CostTables(layer_ms, {FLOAT_BITS: 0.0} | rest_ms, floor_ms, _damages(pipeline, space, items, branch_loss, deadline, on_cut))


def _whole_ms(pipeline: Pipeline, path: Path, baseline_ms: float) -> float:
    return pipeline.target.measure(
        path,
        pipeline.folder.baseline,
        baseline_ms=baseline_ms,
        limit_ms=None,
        feed=pipeline.feed,
        rng=np.random.default_rng(pipeline.seed),
    ).latency_ms


def _damages(
    pipeline: Pipeline,
    space: SearchSpace,
    items: Inputs,
    branch_loss: Mapping[str, float],
    deadline: Deadline,
    on_cut: Callable[[str], None],
) -> dict[str, dict[Value, float]]:
    """Return parameter -> value -> predicted divergence; a bit group's is the sum of its layers'."""
    choices = {variable.name: variable for variable in space.variables if isinstance(variable, Choice)}
    groups = {group.name: group for group in space.graph.channel_groups}
    kept = {name: space.kept_widths(name) for name in groups if f"prune/{name}" in choices}
    ranks = {name.removeprefix("rank/"): [v for v in c.values if v is not None] for name, c in choices.items() if name.startswith("rank/")}
    bit_groups = {group.name: group for group in space.graph.bit_groups if f"bits/{group.name}" in choices}
    widths = {name: [int(v) for v in choices[f"bits/{name}"].values if v not in (None, FLOAT_BITS)] for name in bit_groups}
    # nothing is predicted for recurrent layers and for files without gradients: the trials will tell
    silent = space.graph.only_bits
    judged = {layer.name for layer in space.graph.layers if layer.kind is not LayerKind.RECURRENT and not silent}
    asked = Asked(
        kept={name: [keep for keep in by_ratio.values() if 0 < keep < groups[name].channels] for name, by_ratio in kept.items()},
        ranks={name: [int(rank) for rank in values] for name, values in ranks.items()},
        bits={layer: widths[name] for name, group in bit_groups.items() for layer in group.layers if layer in judged},
    )
    module, task = pipeline.intake.module, pipeline.data.task
    found = (
        Damages({}, {}, {})
        if silent
        else fisher_damages(module, space.graph, items, asked, seed=pipeline.seed, task=task, deadline=deadline)
    )
    if not silent and found.items < size_of(items):
        on_cut(f"damages are from {found.items} items instead of {size_of(items)}")
    damages: dict[str, dict[Value, float]] = {}
    for name, by_ratio in kept.items():
        damages[f"prune/{name}"] = {ratio: found.kept[name][keep] for ratio, keep in by_ratio.items() if 0 < keep < groups[name].channels}
    for name, loss in branch_loss.items():
        if space.can_remove(name):
            damages.setdefault(f"prune/{name}", {})[REMOVED] = loss
    for name, by_rank in found.ranks.items():
        damages[f"rank/{name}"] = {rank: damage for rank, damage in by_rank.items()}  # noqa: C416  # dict() does not widen the key's type
    for name, group in bit_groups.items():
        damages[f"bits/{name}"] = {bits: sum(found.bits[n][bits] for n in group.layers if n in judged) for bits in widths[name]}
    if RESOLUTION in choices:
        damages[RESOLUTION] = _resolution_damages(pipeline, space.options.resolution[1:], items)
    # what makes the model collapse has no figure, and is taken to be as harmful as the worst that has one
    return {name: {value: damage for value, damage in table.items() if math.isfinite(damage)} for name, table in damages.items()}


def _resolution_damages(pipeline: Pipeline, shares: Sequence[float], items: Inputs) -> dict[Value, float]:
    """Return resolution -> the task's divergence of the untrained model there from its outputs at full resolution."""
    base, graph = pipeline.intake.module, pipeline.intake.graph
    divergence = divergence_from(base, items, pipeline.data.task)
    return {share: divergence(compress_module(base, graph, Plan(resolution=share)).module) for share in shares}
