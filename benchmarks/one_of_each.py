"""Plans that do one thing to a model, and one that does all of them."""

from __future__ import annotations

from paretopress.core.plan import INT8_BITS, Plan
from paretopress.spaces.space import SearchSpace

ALL = "all three"


def plans(space: SearchSpace) -> dict[str, Plan]:
    """Return a plan that prunes, one that quantises, one that factorises the largest layer it can, and one that does all three."""
    layers = sorted(space.graph.layers, key=lambda layer: -layer.macs)
    names = [layer.name for layer in layers]
    groups = sorted(space.graph.channel_groups, key=lambda group: min(map(names.index, (*group.layers, *group.feeds))))
    kept = next(({group.name: keep} for group in groups if (keep := space.nearest_kept(group, 0.5)) < group.channels), {})
    bit_groups = sorted(space.graph.bit_groups, key=lambda group: min(map(names.index, group.layers)))
    bits = next(({group.name: INT8_BITS} for group in bit_groups if space.offers(group, INT8_BITS)), {})
    ranks = {variable.name.removeprefix("rank/"): variable for variable in space.variables if variable.name.startswith("rank/")}
    pruned = {name for group in groups if group.name in kept for name in (*group.layers, *group.feeds)}
    able = [name for name in names if name in ranks]
    rank = next(({name: int(ranks[name].values[-1])} for name in (*(n for n in able if n not in pruned), *able)), {})
    made = {"pruned": Plan(kept=kept), "quantised": Plan(bits=bits), "factorised": Plan(rank=rank)}
    return {word: plan for word, plan in made.items() if plan != Plan()} | {ALL: Plan(kept=kept, bits=bits, rank=rank)}
