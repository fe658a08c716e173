"""What every process that works on a run needs: its model, data, target and stages, from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnxruntime as ort
import torch
from torch import nn

from paretopress.cache import Cache, cache_root, code_version
from paretopress.compress.features import check_layers
from paretopress.compress.students import Shelf, Students
from paretopress.compress.thread_pace import ThreadPace, threads_as_before
from paretopress.config import RunConfig
from paretopress.errors import ConfigError
from paretopress.event_log import EventLog, read_events
from paretopress.intake.checks import check_data, check_model
from paretopress.intake.data import Data, argument_names, as_data, data_sha256, stack
from paretopress.intake.data_spec import load_data
from paretopress.intake.factory import is_factory, load_function
from paretopress.intake.model_spec import load_model
from paretopress.intake.trace import Intake, take_in
from paretopress.lower.quantise import Formats
from paretopress.measurement import Latency
from paretopress.pipeline import Pipeline
from paretopress.plan_evaluator import PlanEvaluator
from paretopress.probing import opener
from paretopress.run_folder import RunFolder, open_run_folder
from paretopress.search.candidates import Bounds
from paretopress.setup_run import RunState, recovery_for, scoring_threads, weights_sha256
from paretopress.spaces.space import SearchSpace
from paretopress.targets.capabilities import Capabilities
from paretopress.targets.machine_state import LoadOfOthers
from paretopress.targets.replay import ReplayTarget
from paretopress.targets.target import Target
from paretopress.tasks.base import Task
from paretopress.tasks.choose import task_by, task_scored_by

_EXAMPLE_ITEMS = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready for its next trial; `taking_up_s` is what it took to get there, for one that was begun before."""

    folder: RunFolder
    config: RunConfig
    state: RunState
    pipeline: Pipeline
    space: SearchSpace
    taking_up_s: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """The budget on the scale of the run's baseline."""
        return self.state.bounds(self.config)


def load_and_trace(config: RunConfig, model: nn.Module | None = None, data: object | None = None) -> tuple[Intake, Data]:
    """Return the traced model and the data: those handed over, else those that the configuration names.

    Raises: InputError: they cannot be used.
    """
    base = Path(config.base) if config.base else None
    if model is None and config.model is not None:
        model = load_model(config.model, trust=config.trust, base=base)
    check_model(model)
    assert model is not None
    split = load_data(config.data, base=base, seed=config.seed) if data is None and config.data is not None else as_data(data, config.seed)
    model.eval()
    split = replace(split, task=_task(config, base))
    names = argument_names(split.train)
    check_data(split, model if names is None else lambda *x: model(**dict(zip(names, x, strict=True))))
    example, _ = stack(split.val, _EXAMPLE_ITEMS, config.seed)
    intake = take_in(model, example, names)
    check_layers(intake.module, config.recovery.features)
    return intake, split


def _task(config: RunConfig, base: Path | None) -> Task:
    """Return the task that a configuration names; raises ConfigError."""
    asked = config.metric
    if not is_factory(asked.name):
        return task_by(asked.name)
    return task_scored_by(load_function(asked.name, base, ConfigError), asked.learnt_as, asked.metric())


def open_run_target(config: RunConfig) -> Target:
    """Return the target of a run, in reach; the caller closes it. A run that replays another has that one's latencies for a target."""
    if config.replay is not None:
        events = read_events(open_run_folder(Path(config.replay)).latencies)
        return ReplayTarget((event["onnx_sha256"], Latency.from_json(event["latency"])) for event in events)
    return opener(config.target.spec, config.target.cores)(config.target.threads)


def make_pipeline(
    intake: Intake,
    data: Data,
    target: Target,
    folder: RunFolder,
    config: RunConfig,
    capabilities: Capabilities,
    *,
    threads: int | None = None,
    cached: bool = True,
) -> Pipeline:
    """Return the stages of a run's trials; `threads` score accuracy, None is all cores. `cached` is whether earlier runs may help."""
    helped = cached and config.replay is None and config.disk.cache_mb > 0.0
    return Pipeline(
        intake,
        data,
        target,
        folder,
        reduce_range=capabilities.reduce_range,
        scoring_threads=threads or scoring_threads(),
        seed=config.seed,
        score_on_target=config.target.score_on_target,
        cache=_cache(intake, data, config.seed) if helped else None,
        formats=Formats(config.space.dynamic, config.space.float16),
    )


def _cache(intake: Intake, data: Data, seed: int) -> Cache:
    return Cache(
        cache_root(),
        {
            **identity(intake, data, seed),
            "versions": {"torch": torch.__version__, "onnxruntime": ort.__version__},
        },
    )


def identity(intake: Intake, data: Data, seed: int) -> dict[str, str]:
    """Return what all that is computed in a run depends on: hashes of code, weights and data."""
    return {"code": code_version(), "weights": weights_sha256(intake.module), "data": data_sha256(data, seed)}


def worker_threads(config: RunConfig, state: RunState) -> int:
    """Return how many threads train and score in each of a run's workers: they divide what torch would use, or what was quickest."""
    share = max(torch.get_num_threads() // config.workers.count, 1)
    return min(share, state.quickest_threads) if state.quickest_threads else share


def make_evaluator(
    pipeline: Pipeline,
    config: RunConfig,
    state: RunState,
    *,
    threads: int = 1,
    spins: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> PlanEvaluator:
    """Return the evaluator of a run's trials, which train with at most so many threads; `say` is told when it takes another number.

    `spins` is whether those of this process spin while they wait for one another, as OpenMP's do unless its environment says otherwise.
    """

    def changed(line: str) -> None:
        EventLog(pipeline.folder.log)("threads", {"reason": line})
        say(line)

    pace = ThreadPace(threads, LoadOfOthers(), changed, spins=spins)
    recovery = recovery_for(pipeline.intake, pipeline.data, config, state, pace)
    training = {
        "recipe": asdict(recovery.recipe),
        "steps": [state.effort.short_steps, state.effort.long_steps],
        "seed": config.seed,
        "device": str(recovery.device),
        "threads": torch.get_num_threads(),  # sums come out differently in their last bits
    }
    shelf = None if pipeline.cache is None else Shelf(pipeline.cache, training)
    stages_s = state.baseline.stages_s
    return PlanEvaluator(
        pipeline,
        recovery,
        state.effort,
        state.bounds(config),
        students=Students(shelf=shelf),
        after_s=sum(stages_s.get(stage, 0.0) for stage in ("export", "latency", "accuracy")),
        step_s=state.seconds_per_step,
    )


@contextmanager
def evaluator_here(pipeline: Pipeline, config: RunConfig, state: RunState, say: Callable[[str], None]) -> Iterator[PlanEvaluator]:
    """Yield an evaluator in this process, which has its own number of threads back afterwards."""
    with threads_as_before():
        threads = worker_threads(config, state)
        torch.set_num_threads(threads)
        yield make_evaluator(pipeline, config, state, threads=threads, spins=True, say=say)
