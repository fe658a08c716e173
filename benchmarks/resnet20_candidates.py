"""Twenty candidates of a search on the CIFAR-10 (JPEG) ResNet-20, as files: what the latency benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretopress.compress.apply import compress_module
from paretopress.config import read_config
from paretopress.core.plan import Plan
from paretopress.intake.datasets.data import Data
from paretopress.intake.trace import Intake
from paretopress.run.factory import load_and_trace
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.local import LocalTarget
from paretopress.trial.pipeline import Pipeline, PipelineSettings

CONFIG = Path(__file__).resolve().parent.parent / "runs" / "cifar10_resnet20.toml"
COUNT, SEED = 20, 7


@dataclass(frozen=True, slots=True)
class Candidates:
    """Files and what it takes to measure and train them; `baseline` is also the reference."""

    intake: Intake
    data: Data
    pipeline: Pipeline
    baseline: Path
    plans: tuple[Plan, ...]
    files: tuple[Path, ...]


def search_plans(space: SearchSpace, count: int, seed: int) -> list[Plan]:
    """Return every other seed plan of a search, then plans one to three steps away from them, as a search proposes."""
    rng = np.random.default_rng(seed)
    seeds = initial_plans(space, [branch.group for branch in space.graph.branches])[1::2]
    plans = dict.fromkeys(seeds[: count // 2])
    while len(plans) < count:
        params = dict(space.params(seeds[int(rng.integers(len(seeds)))]))
        for index in rng.choice(len(space.variables), size=int(rng.integers(1, 4)), replace=False):
            variable = space.variables[int(index)]
            params[variable.name] = variable.neighbour(params[variable.name], rng)
        plans[space.plan(params)] = None
    return list(plans)


def make_candidates(folder: Path) -> Candidates:
    """Write the files of `COUNT` candidates with the original, untrained weights: latency does not depend on their values."""
    config = read_config(CONFIG)
    intake, data = load_and_trace(config)
    capabilities = detect(environment())
    pipeline = Pipeline(intake, data, LocalTarget(), RunFolder(folder), PipelineSettings(config.seed, capabilities.reduce_range, 2))
    space = SearchSpace(intake.graph, SpaceOptions(channel_step=capabilities.channel_step))
    baseline = folder / "baseline.onnx"
    pipeline.lower(intake.module, Plan(), baseline, StageTimer())
    plans, files = search_plans(space, COUNT, SEED), []
    for number, plan in enumerate(plans):
        files.append(folder / f"{number:02d}.onnx")
        module = compress_module(intake.module, intake.graph, plan).module
        pipeline.lower(module, plan, files[-1], StageTimer(), only_timed=True)
    return Candidates(intake, data, pipeline, baseline, tuple(plans), tuple(files))
