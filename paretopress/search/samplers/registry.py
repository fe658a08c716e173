"""Samplers by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from paretopress.errors import ConfigError
from paretopress.search.sampler_names import DEFAULT_SAMPLER, PROGRAMME
from paretopress.search.samplers.guided import GuidedSampler
from paretopress.search.samplers.predictor import Known
from paretopress.spaces.space import SearchSpace

_SAMPLERS: dict[str, Callable[[SearchSpace, int, Known | None], BaseSampler]] = {
    DEFAULT_SAMPLER: GuidedSampler,
    PROGRAMME: partial(GuidedSampler, solves=True),
    "tpe": lambda _, seed, __: TPESampler(seed=seed, multivariate=True),
    "gp": lambda _, seed, __: GPSampler(seed=seed, deterministic_objective=False),
    "nsga2": lambda _, seed, __: NSGAIISampler(seed=seed, population_size=16),
    "nsga3": lambda _, seed, __: NSGAIIISampler(seed=seed, population_size=16),
    "random": lambda _, seed, __: RandomSampler(seed=seed),
}


def sampler_names() -> list[str]:
    """Return the names that `make_sampler` knows."""
    return sorted(_SAMPLERS)


def check_sampler(name: str) -> None:
    """Raise ConfigError with the valid names if `make_sampler` does not know `name`."""
    if name not in _SAMPLERS:
        raise ConfigError(f"the sampler must be one of {', '.join(sampler_names())}, but got {name!r}")


def make_sampler(name: str, space: SearchSpace, seed: int, known: Known | None = None) -> BaseSampler:
    """Return the sampler of that name, told what is `known` if it can use it; raises ConfigError with the valid names."""
    check_sampler(name)
    return _SAMPLERS[name](space, seed, known)
