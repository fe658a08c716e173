"""Samplers by name."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from paretopress.core.registry import Registry
from paretopress.search.sampler_names import DEFAULT_SAMPLER, PROGRAMME
from paretopress.search.samplers.guided import GuidedSampler
from paretopress.search.samplers.predictor import PriorKnowledge
from paretopress.spaces.space import SearchSpace


class Sampler(Protocol):
    """Makes the Optuna sampler that proposes the plans of one run."""

    def __call__(self, space: SearchSpace, seed: int, known: PriorKnowledge | None, /) -> BaseSampler:
        """Return a sampler for (maximised accuracy, minimised MACs, minimised latency).

        Args:
            space: what is searched; its `distributions` are the study's parameters.
            seed: the same one gives the same plans in the same order with one worker.
            known: what is known before the first trial, None for samplers that are not this package's own.
        """
        ...


SAMPLERS = Registry[Sampler](
    "sampler",
    {
        DEFAULT_SAMPLER: GuidedSampler,
        PROGRAMME: partial(GuidedSampler, solves=True),
        "tpe": lambda _, seed, __: TPESampler(seed=seed, multivariate=True),
        "gp": lambda _, seed, __: GPSampler(seed=seed, deterministic_objective=False),
        "nsga2": lambda _, seed, __: NSGAIISampler(seed=seed, population_size=16),
        "nsga3": lambda _, seed, __: NSGAIIISampler(seed=seed, population_size=16),
        "random": lambda _, seed, __: RandomSampler(seed=seed),
    },
)


def make_sampler(name: str, space: SearchSpace, seed: int, known: PriorKnowledge | None = None) -> BaseSampler:
    """Return the sampler of that name, told what is `known` if it can use it; raises ConfigError with the valid names."""
    return SAMPLERS.get(name)(space, seed, known)
