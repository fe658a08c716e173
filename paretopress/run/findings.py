"""Findings of the set-up: learning rate, seconds of a training step, order of branches, cost tables."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from paretopress.compress.apply import Compressed, compress_module
from paretopress.compress.recover.finetune import TRIED_ALPHA, TRIED_TEMPERATURE, Recovery, usual_optimizer
from paretopress.compress.recover.learning_rates import learning_rate_test
from paretopress.compress.recover.recipe import RATES
from paretopress.compress.sensitivity.branch_ranking import judged_items, rank_branches
from paretopress.compress.sensitivity.divergence import divergence_from
from paretopress.config import RunConfig
from paretopress.core.model_graph import ModelGraph
from paretopress.core.model_inputs import Inputs
from paretopress.core.plan import Plan
from paretopress.intake.datasets.data import stack
from paretopress.run.cost_tables import measure_tables
from paretopress.search.samplers.tables import CostTables
from paretopress.spaces.space import SearchSpace
from paretopress.system.deadline import Deadline
from paretopress.system.stage_timer import StageTimer
from paretopress.system.thread_pace import counts_up_to, threads_beside
from paretopress.trial.pipeline import Pipeline

# steps of the test for each rate: ten where they are quick, fewer where all of them would take more than a minute
_RATE_TEST_STEPS, _RATE_TEST_S = (3, 10), 60.0
# training is judged by so many validation items, or so many times those that branches are judged by where items are large
_HELD_OUT_ITEMS, _HELD_OUT_TIMES = 256, 4
# the shares of the set-up's time that is left which its parts may take
_STEPS_SHARE, _RATE_SHARE, _RANKING_SHARE = 0.25, 0.5, 0.5
# the fewest steps of a rung that trains
LEAST_STEPS = 5
# the steps after which a mildly pruned student is looked at for a gain over re-solved layers alone, and what is said where there was none
_TRIED_STEPS, _NO_GAIN_STEPS = (LEAST_STEPS, 10, 20), 40
# fewer threads are taken where their steps are so much quicker
_CLEARLY_QUICKER = 0.85
_GREEDY_UP_TO = 10


def has_training(config: RunConfig, graph: ModelGraph) -> bool:
    """Return whether a run trains its candidates at all."""
    return not graph.only_bits and (config.recovery.short_steps != 0 or config.recovery.final_steps not in (0, None))


@dataclass(frozen=True, slots=True)
class SetupFindings:
    """Findings of the set-up that depend neither on the budget nor on the time given, and can be cached.

    `baseline_ms` is what the baseline took when the tables were measured; `least_steps` how many steps training takes to gain anything.
    """

    learning_rate: float
    rate_losses: Mapping[str, float]
    seconds_per_step: float
    removal_order: tuple[str, ...]
    tables: CostTables
    baseline_ms: float
    quickest_threads: int = 0
    least_steps: int = LEAST_STEPS

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"removal_order": list(self.removal_order), "tables": self.tables.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SetupFindings:
        """Return what `to_json` wrote."""
        return cls(**{**value, "removal_order": tuple(value["removal_order"]), "tables": CostTables.from_json(value["tables"])})


@dataclass(slots=True)
class SetupFinder:
    """Makes the findings of a new run until a deadline; `cut` lists what was left out for lack of time, `say` is told of other choices.

    `foreign_cores` are those that others use.
    """

    pipeline: Pipeline
    space: SearchSpace
    config: RunConfig
    watch: StageTimer
    deadline: Deadline
    say: Callable[[str], None]
    cut: list[str] = field(default_factory=list)
    foreign_cores: float = 0.0

    def find(self, baseline_ms: float) -> SetupFindings:
        """Return the findings; training uses the number of threads whose steps are quickest now."""
        intake, config, recovery = self.pipeline.intake, self.config, self._recovery()
        step_s, rate, losses = 0.0, config.recovery.learning_rate or 0.0, dict[float, float]()
        quickest, least_steps = 0, LEAST_STEPS
        items, _ = stack(self.pipeline.data.train, judged_items(intake.graph), config.seed)
        if has_training(config, intake.graph):
            with self.watch.stage("recover"):
                quickest = self._choose_threads(recovery)
                step_s = self._typical_step_s(recovery)
                held_out = self._held_out()
                rate, losses = self._learning_rate(recovery, step_s, held_out)
                least_steps = self._least_steps(recovery.at(rate), held_out[0], step_s)
        ranking = rank_branches(
            intake.module,
            intake.graph,
            items,
            lambda module: recovery.recalibrated(module, config.seed),
            greedy=len(intake.graph.branches) <= _GREEDY_UP_TO,
            task=self.pipeline.data.task,
            deadline=self.deadline.share(_RANKING_SHARE),
        )
        self.cut.extend([ranking.cut] if ranking.cut else [])
        tables = measure_tables(
            self.pipeline, self.space, items, ranking.loss_alone, baseline_ms, self.watch, deadline=self.deadline, on_cut=self.cut.append
        )
        shown = {str(key): value if value < 1e9 else 1e9 for key, value in losses.items()}
        return SetupFindings(rate, shown, step_s, ranking.order, tables, baseline_ms, quickest, least_steps)

    def step_s_now(self) -> float:
        """Return the seconds that a step takes now: an earlier run may have found them in an idle hour."""
        recovery = self._recovery()
        with self.watch.stage("recover"):
            self._choose_threads(recovery)
            return self._typical_step_s(recovery)

    def _recovery(self) -> Recovery:
        recipe = self.config.recovery.recipe(0.0, usual_optimizer(self.pipeline.intake.module))
        recipe = replace(recipe, learning_rate=min(RATES[recipe.optimizer]))
        return Recovery(self.pipeline.intake.module, self.pipeline.data.train, recipe, task=self.pipeline.data.task)

    def _choose_threads(self, recovery: Recovery) -> int:
        """Have torch use the number of threads whose steps are quickest; return it if it is fewer than there are and others are idle.

        Beside others nothing is compared here: threads that wait for one another while others run take seconds a step, which the set-up
        does not have; they are as many as the cores that are left.
        """
        most = torch.get_num_threads()
        if most == 1 or recovery.device.type != "cpu":
            return 0
        few = threads_beside(self.foreign_cores, most)
        if few < most:
            torch.set_num_threads(few)
            self.say(f"the set-up goes on with {few} of {most} threads, because others use {self.foreign_cores:.1f} cores")
            return 0
        seconds = recovery.quickest_threads(self._half().module, counts_up_to(most)[::-1], self.deadline.share(_STEPS_SHARE))
        best = min(seconds, key=seconds.__getitem__)
        if seconds[best] > _CLEARLY_QUICKER * seconds[most]:
            return 0
        torch.set_num_threads(best)
        return best

    def _typical_step_s(self, recovery: Recovery) -> float:
        """Return the seconds of a step halfway between the unchanged model and one with half of its channels."""
        students, until = (self._half().module, self.pipeline.intake.module), self.deadline.share(_STEPS_SHARE)
        seconds: list[float] = []
        for student in students:
            if not seconds or not until.passed:
                seconds.append(recovery.seconds_per_step(student, deadline=until))
        return sum(seconds) / len(seconds)

    def _half(self) -> Compressed:
        return self._pruned(0.5)

    def _pruned(self, ratio: float) -> Compressed:
        """Return the model without a share of its channels, though pruning be frozen: training is judged by what a student wins back."""
        free = SearchSpace(self.pipeline.intake.graph, replace(self.space.options, frozen=frozenset()))
        return compress_module(self.pipeline.intake.module, self.pipeline.intake.graph, Plan(kept=free.uniform_kept(ratio)))

    def _least_steps(self, recovery: Recovery, items: Inputs, step_s: float) -> int:
        """Return after how few steps a student with three quarters of its channels is nearer to the original than re-solving alone left it.

        The first steps shake what was re-solved: five of them can cost more than they gain. Where there is no time to look, few are taken
        to do.
        """
        until = Deadline.after(min(self.deadline.share(_STEPS_SHARE).left_s, _RATE_TEST_S))
        pruned = self._pruned(0.25)
        recovery.reconstruct(pruned, seed=0)
        divergence = divergence_from(self.pipeline.intake.module, items, self.pipeline.data.task)
        before = divergence(pruned.module.eval())
        for steps in _TRIED_STEPS:
            if until.left_s < steps * step_s:
                return LEAST_STEPS
            student = copy.deepcopy(pruned.module)
            recovery.run(student, temperature=TRIED_TEMPERATURE, alpha=TRIED_ALPHA, steps=steps, seed=0)
            if divergence(student) < before:
                return steps
        return _NO_GAIN_STEPS

    def _held_out(self) -> tuple[Inputs, Tensor]:
        """Return validation items, which training is judged by: those that it is made with are learnt by heart where they are few."""
        count = min(_HELD_OUT_TIMES * judged_items(self.pipeline.intake.graph), _HELD_OUT_ITEMS)
        return stack(self.pipeline.data.val, count, self.config.seed)

    def _learning_rate(self, recovery: Recovery, step_s: float, held_out: tuple[Inputs, Tensor]) -> tuple[float, dict[float, float]]:
        if self.config.recovery.learning_rate is not None:
            return self.config.recovery.learning_rate, {}
        fewest, most = _RATE_TEST_STEPS
        half = self._half()
        recovery.reconstruct(half, seed=0)  # as every trial is before it trains
        rates, until = RATES[recovery.recipe.optimizer], self.deadline.share(_RATE_SHARE)
        whole_s = step_s * len(rates)
        wanted = min(max(int(_RATE_TEST_S / whole_s), fewest), most)
        steps = min(wanted, max(int(until.left_s / whole_s), fewest)) if until.finite else wanted
        loss_of = recovery.held_out_loss(held_out, TRIED_TEMPERATURE, TRIED_ALPHA)
        losses = learning_rate_test(lambda: copy.deepcopy(half.module), recovery.at, rates, steps, loss_of, until)
        if len(losses) < len(rates):
            self.cut.append(f"{len(losses)} of {len(rates)} learning rates were tested, with {steps} steps each")
        elif steps < wanted:
            self.cut.append(f"learning rates were tested with {steps} steps each instead of {wanted}")
        return min(losses, key=losses.__getitem__, default=rates[len(rates) // 2]), losses
