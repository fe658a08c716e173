"""The search space of one model on one target, and the way between plans and Optuna's parameters.

prune/<group>          share of the group's channels removed, in steps of the target's channel step; 1.0 removes the branch
bits/<bit group>       32 (float), 8 (static QDQ), 4 (weight-only)
rank/<layer>           None (dense), or a rank below break-even
importance/criterion   what decides which channels go, where several criteria are offered
input/resolution       share of the images' height and width at which the model runs, where several are offered
distill/temperature    distill/alpha

A frozen knob leaves its variables or values out; temperature and alpha stay as variables of one value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from optuna.distributions import BaseDistribution

from paretopress.core.model_graph import BitGroup, ChannelGroup, Frozen, Layer, LayerKind, ModelGraph
from paretopress.core.plan import FLOAT_BITS, Criterion, Plan
from paretopress.errors import ConfigError
from paretopress.spaces.knobs import Knob
from paretopress.spaces.variables import Choice, Range, Value, Variable

TEMPERATURE, ALPHA, IMPORTANCE, RESOLUTION = "distill/temperature", "distill/alpha", "importance/criterion", "input/resolution"
UNPRICED = (TEMPERATURE, ALPHA, IMPORTANCE)  # they neither cost time nor have a damage in the tables
REMOVED = 1.0  # the share that a prune variable takes where the branch goes
Params = dict[str, Value]


def _refuses_nothing(layer: Layer, bits: int) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class SpaceOptions:
    """What the target can run, and how fine the space is.

    Attributes:
        channel_step: kept channels are multiples of it (the runtime's blocked layout).
        bits: widths the target has kernels for; 32 is always there.
        refusal: (layer, bits) -> why that width gains nothing there, or ""; a bit group is not offered a width that all its layers refuse.
        max_choices: of one variable; the steps of wide layers are thinned out evenly to so many.
        temperature, alpha: fixed values of the distillation; None searches them.
        min_share: a layer with a smaller share of the MACs and of the weights gets no rank variable: it has nothing to save.
        frozen: knobs that are not searched.
        importance: criteria that channels may be ranked by; one is no choice.
        resolution: shares of the images' height and width at which the model may run, the largest first; one is no choice.
    """

    channel_step: int = 8
    bits: tuple[int, ...] = (32, 8, 4)
    refusal: Callable[[Layer, int], str] = _refuses_nothing
    max_choices: int = 8
    min_share: float = 0.005
    temperature: float | None = None
    alpha: float | None = None
    frozen: frozenset[Knob] = frozenset()
    importance: tuple[Criterion, ...] = (Criterion.L2,)
    resolution: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.channel_step < 1:
            raise ConfigError(f"channel_step must be at least 1, but got channel_step={self.channel_step}")
        if not self.importance or len(set(self.importance)) != len(self.importance):
            raise ConfigError(f"importance must name distinct criteria, at least one, but got {list(self.importance)}")


class SearchSpace:
    """The variables of one model graph, in the model's order.

    `left_out` are the frozen knobs and the bit groups that lost a width, with the reason.
    Raises: ConfigError: what is frozen leaves nothing of the model to change.
    """

    def __init__(self, graph: ModelGraph, options: SpaceOptions) -> None:
        asked = options.frozen
        if graph.only_bits:
            options = replace(options, frozen=options.frozen | (set(Knob) - {Knob.BITS}))
        asked_sizes = len(options.resolution) > 1
        if asked_sizes and graph.fixed_size:
            options = replace(options, resolution=options.resolution[:1])
        if Knob.BITS in options.frozen:
            options = replace(options, bits=(FLOAT_BITS,))
        self.graph, self.options = graph, options
        self._kept: dict[str, dict[Value, int]] = {}
        self._refused = {group.name: _refused(group, graph, options) for group in graph.bit_groups}
        self.left_out = (
            *(Frozen(f"{knob}", "frozen by the configuration") for knob in Knob if knob in asked),
            *((Frozen("resolution", graph.fixed_size),) if asked_sizes and graph.fixed_size else ()),
            *(Frozen(f"{name} in {bits} bits", reason) for name, refused in self._refused.items() for bits, reason in refused.items()),
        )
        variables: list[Variable] = [*self._prune_variables(), *self._bit_variables(), *self._rank_variables()]
        if len(options.resolution) > 1:
            variables.append(Choice(RESOLUTION, options.resolution))
        if len(options.importance) > 1 and any(kept for widths in self._kept.values() for kept in list(widths.values())[1:]):
            variables.append(Choice(IMPORTANCE, options.importance))
        if options.frozen and not variables:
            raise ConfigError(
                f"a search must have something to change, but got frozen={sorted(options.frozen)}, which is all that this model offers",
                "Leave a knob of `frozen` out.",
            )
        self.variables = (*variables, *_distillation_variables(options))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return parameter name -> Optuna distribution."""
        return {variable.name: variable.distribution() for variable in self.variables}

    def defaults(self) -> Params:
        """Return the parameters of the unchanged model."""
        return {variable.name: variable.default for variable in self.variables}

    def plan(self, params: Mapping[str, Value]) -> Plan:
        """Return the plan that the parameters name; choices inside a removed branch have no effect and are left out.

        Raises: ConfigError: a parameter or value that the space does not have.
        """
        self._check(params)
        kept = {name: table[params[f"prune/{name}"]] for name, table in self._kept.items() if params[f"prune/{name}"] != 0.0}
        gone = self.graph.removed_layers(kept)
        inside = {name for branch in self.graph.removed_branches(kept) for name in branch.groups if name != branch.group}
        rank = {layer.name: value for layer in self.graph.layers if (value := params.get(f"rank/{layer.name}")) is not None}
        bits = {
            group.name: int(params.get(f"bits/{group.name}") or FLOAT_BITS) for group in self.graph.bit_groups if set(group.layers) - gone
        }
        temperature, alpha = params[TEMPERATURE], params[ALPHA]
        assert isinstance(temperature, float | int)
        assert isinstance(alpha, float | int)
        return Plan(
            kept={name: value for name, value in kept.items() if name not in inside},
            rank={name: int(value) for name, value in rank.items() if name not in gone},
            bits=bits,
            temperature=float(temperature),
            alpha=float(alpha),
            importance=Criterion(str(params.get(IMPORTANCE, self.options.importance[0]))),
            resolution=resolution_of(params),
        )

    def params(self, plan: Plan) -> Params:
        """Return parameters that `plan()` turns back into the plan; raises ConfigError if the space does not hold it."""
        params = self.defaults()
        for name, kept in plan.kept.items():
            ratio = next((ratio for ratio, value in self._kept.get(name, {}).items() if value == kept), None)
            if ratio is None:
                raise ConfigError(f"kept channels must be a step of the space, but got {kept} at {name}")
            params[f"prune/{name}"] = ratio
        params |= {f"bits/{name}": value for name, value in plan.bits.items()}
        params |= {f"rank/{name}": value for name, value in plan.rank.items()}
        params |= {TEMPERATURE: plan.temperature, ALPHA: plan.alpha}
        if RESOLUTION in params:
            params[RESOLUTION] = plan.resolution
        elif plan.resolution != 1.0:
            raise ConfigError(f"the resolution must be one of the space, but got {plan.resolution}")
        if plan.thins() and IMPORTANCE in params:
            params[IMPORTANCE] = plan.importance
        elif plan.thins() and plan.importance is not self.options.importance[0]:
            raise ConfigError(f"channels must be ranked by {self.options.importance[0]}, but got a plan with {plan.importance}")
        self._check(params)
        return params

    def unpriced(self, params: Mapping[str, Value]) -> Params:
        """Return those of the parameters that are `UNPRICED`, and the resolution, by which all prices go."""
        return {name: params[name] for name in (*UNPRICED, RESOLUTION) if name in params}

    def kept_widths(self, group: str) -> Mapping[Value, int]:
        """Return share removed -> channels kept, as the group's prune variable offers them; empty if it has none."""
        return self._kept.get(group, {})

    def nearest_kept(self, group: ChannelGroup, ratio: float) -> int:
        """Return the step of the space that removes the share nearest to `ratio`, of those that leave a channel."""
        steps = [kept for kept in self._kept.get(group.name, {}).values() if kept > 0] or [group.channels]
        return min(steps, key=lambda kept: (abs(kept - group.channels * (1.0 - ratio)), -kept))

    def uniform_kept(self, ratio: float) -> dict[str, int]:
        """Return group -> channels kept when about the share `ratio` of every group goes; a group too narrow for a step is left out."""
        kept = {group.name: self.nearest_kept(group, ratio) for group in self.graph.channel_groups}
        return {group.name: kept[group.name] for group in self.graph.channel_groups if kept[group.name] < group.channels}

    def can_remove(self, group: str) -> bool:
        """Return whether the space can remove the residual branch that the group leads."""
        return REMOVED in self.kept_widths(group)

    def offers(self, group: BitGroup, bits: int) -> bool:
        """Return whether the space lets the bit group take that width."""
        return bits in self._offered(group)

    def _offered(self, group: BitGroup) -> tuple[int, ...]:
        refused = self._refused[group.name]
        return tuple(bits for bits in group.bits if bits == FLOAT_BITS or (bits in self.options.bits and bits not in refused))

    def _check(self, params: Mapping[str, Value]) -> None:
        known = {variable.name: variable for variable in self.variables}
        for name in sorted(params.keys() ^ known.keys()):
            raise ConfigError(f"the parameters must be those of the space, but {name!r} is {'unknown' if name in params else 'missing'}")
        for name, value in params.items():
            known[name].check(value)

    def _prune_variables(self) -> list[Variable]:
        variables: list[Variable] = []
        groups = {group.name: group for group in self.graph.channel_groups}
        led = set() if Knob.BRANCHES in self.options.frozen else {branch.group for branch in self.graph.branches}
        order = [layer.name for layer in self.graph.layers]
        for name in sorted(groups.keys() | led, key=order.index):
            steps = _steps(groups[name], self.options) if name in groups else []
            channels = groups[name].channels if name in groups else self.graph.layer(name).out_channels
            table: dict[Value, int] = {0.0: channels}
            table |= {round(1.0 - kept / channels, 4): kept for kept in steps}
            if name in led:
                table[REMOVED] = 0
            if len(table) > 1:
                self._kept[name] = table
                variables.append(Choice(f"prune/{name}", tuple(table)))
        return variables

    def _bit_variables(self) -> list[Variable]:
        offered = {group.name: self._offered(group) for group in self.graph.bit_groups}
        return [Choice(f"bits/{name}", bits) for name, bits in offered.items() if len(bits) > 1]

    def _rank_variables(self) -> list[Variable]:
        macs, params = (sum(getattr(layer, key) for layer in self.graph.layers) for key in ("macs", "params"))
        variables: list[Variable] = []
        for layer in () if Knob.RANK in self.options.frozen else self.graph.layers:
            if max(layer.macs / max(macs, 1), layer.params / max(params, 1)) < self.options.min_share:
                continue
            ranks = _ranks(layer, self.options)
            if ranks:
                variables.append(Choice(f"rank/{layer.name}", (None, *ranks)))
        return variables


def resolution_of(params: Mapping[str, Value]) -> float:
    """Return the share of the images' height and width that the parameters name."""
    return float(params.get(RESOLUTION) or 1.0)


def share_of_pixels(params: Mapping[str, Value]) -> float:
    """Return the share of the pixels that a model reads, with which nearly all of its cost goes."""
    return resolution_of(params) ** 2


def _distillation_variables(options: SpaceOptions) -> list[Variable]:
    asked = {Range(TEMPERATURE, 1.0, 8.0, 4.0): options.temperature, Range(ALPHA, 0.0, 1.0, 0.9): options.alpha}
    if Knob.DISTILLATION in options.frozen:
        asked = {free: free.default if value is None else value for free, value in asked.items()}
    return [free if value is None else Range(free.name, value, value, value) for free, value in asked.items()]


def _refused(group: BitGroup, graph: ModelGraph, options: SpaceOptions) -> dict[int, str]:
    """Return width -> reason, for the widths of the group that each of its layers refuses."""
    refused: dict[int, str] = {}
    for bits in (width for width in group.bits if width != FLOAT_BITS and width in options.bits):
        reasons = [options.refusal(graph.layer(name), bits) for name in group.layers]
        if all(reasons):
            refused[bits] = reasons[0]
    return refused


def _steps(group: ChannelGroup, options: SpaceOptions) -> list[int]:
    """Return kept widths below the group's, widest first: multiples of the step, at most `max_choices` of them; none if frozen.

    Heads go whole, whatever their width is to the step: what runs after them sees their sum alone.
    """
    if Knob.PRUNE in options.frozen:
        return []
    step = options.channel_step if group.unit == 1 else group.unit
    widths = list(range((group.channels - 1) // step * step, 0, -step))
    return _thinned(widths, options.max_choices)


def _ranks(layer: Layer, options: SpaceOptions) -> list[int]:
    if layer.kind not in (LayerKind.CONV, LayerKind.LINEAR):
        return []
    taps = layer.in_channels * math.prod(layer.kernel)
    limit = (layer.out_channels * taps - 1) // (layer.out_channels + taps)
    ranks = list(range(limit // options.channel_step * options.channel_step, 0, -options.channel_step))
    return _thinned(ranks, max(2, options.max_choices // 2))


def _thinned(values: list[int], count: int) -> list[int]:
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
