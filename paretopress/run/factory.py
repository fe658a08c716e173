"""Build the parts of a run from its configuration: model, data, target, pipeline, evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paretopress.compress.recover.features import check_layers
from paretopress.compress.recover.finetune import device_name
from paretopress.compress.recover.student_cache import StudentCache, StudentStore
from paretopress.config import RunConfig
from paretopress.core.model_outputs import named_tensors
from paretopress.core.outcome import Latency
from paretopress.errors import ConfigError, DataError, ParetopressError, typed_line, users_line
from paretopress.intake.checks import check_data, check_model, names_of_outputs
from paretopress.intake.comparison_items import comparison_items
from paretopress.intake.conversion import faithful_conversion
from paretopress.intake.datasets.data import Data, argument_names, as_data, data_identity, item_shapes, stack
from paretopress.intake.datasets.data_spec import load_data
from paretopress.intake.datasets.several_labels import AskedOutput, with_several_labels
from paretopress.intake.faithful import evaluated_copy
from paretopress.intake.labels import fit_labels
from paretopress.intake.model_identity import model_parts
from paretopress.intake.model_spec import demand_file, load_model, onnx_file
from paretopress.intake.onnx_module import OnnxGraph
from paretopress.intake.plain_model import plain_model
from paretopress.intake.trace import Intake, take_in
from paretopress.intake.tracing import called
from paretopress.lower.quantise import Formats
from paretopress.run.compatibility import FORMAT, versions
from paretopress.run.setup import recovery_for, scoring_threads
from paretopress.run.state import RunState
from paretopress.search.candidates import Bounds
from paretopress.spaces.space import SearchSpace
from paretopress.system.content_hash import Contents
from paretopress.system.disk_cache import Cache, cache_root, code_version
from paretopress.system.event_log import EventLog, read_events
from paretopress.system.run_folder import RunFolder, open_run_folder
from paretopress.system.thread_pace import ThreadPace, threads_as_before
from paretopress.system.user_factory import is_factory, load_function
from paretopress.targets.capabilities import Capabilities
from paretopress.targets.machine_state import LoadOfOthers
from paretopress.targets.probe.probing import opener
from paretopress.targets.replay import ReplayTarget
from paretopress.targets.target import Target
from paretopress.tasks.base import Task
from paretopress.tasks.choose import task_by, task_by_decoder, task_scored_by
from paretopress.tasks.metric_names import MAP, TOP_1
from paretopress.trial.evaluator import PlanEvaluator
from paretopress.trial.pipeline import Pipeline, PipelineSettings

# of the trace, and of the comparison of the traced model with the one that was handed over
_EXAMPLE_ITEMS, _COMPARED_ITEMS = 4, 8
# parameters of a model of which no more items are compared than it is traced with
_LARGE = 50_000_000
_SETTINGS = "settings"
_DECISIVE = {"seed", "sampler", "metric", "budget", "recovery", "target", "space"}


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready for its next trial; `resume_s` are the seconds that a resumed run took to get there."""

    folder: RunFolder
    config: RunConfig
    state: RunState
    pipeline: Pipeline
    space: SearchSpace
    resume_s: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """The budget on the scale of the run's baseline."""
        return self.state.bounds(self.config)


def load_and_trace(config: RunConfig, model: nn.Module | None = None, data: object | None = None) -> tuple[Intake, Data]:
    """Return the traced model and the data: those handed over, else those that the configuration names.

    Raises: InputError: they cannot be used.
    """
    base = Path(config.base) if config.base else None
    converted = None
    if model is None and config.model is not None:
        converted = onnx_file(config.model, base)
        if converted is None:
            model = load_model(config.model, trust=config.trust, base=base)
        else:
            demand_file(converted)
    if converted is None:
        check_model(model)
    split = load_data(config.data, base=base, seed=config.seed) if data is None and config.data is not None else as_data(data, config.seed)
    split = replace(split, task=_task(config, base))
    if converted is not None and config.model is not None:
        model = load_model(config.model, base=base, shapes=item_shapes(split.train))
        check_model(model)
    assert model is not None
    plain = plain_model(model)
    model = plain.module
    if converted is not None:
        model = _faithful(converted, model, split, config.seed)
    if config.metric.outputs:
        split = _with_several_labels(split, model, config)
    split, about_labels = fit_labels(split, model)
    names = argument_names(split.train)
    _check(split, model, names)
    example, _ = stack(split.val, _EXAMPLE_ITEMS, config.seed)
    compared = _COMPARED_ITEMS if sum(part.numel() for part in model.parameters()) < _LARGE else _EXAMPLE_ITEMS
    items = comparison_items(split.val, compared, config.seed)
    intake = take_in(model, example, names, items=items, resolutions=config.space.resolution)
    check_layers(intake.module, config.recovery.features)
    if config.recovery.features and len(config.space.resolution) > 1:
        raise ConfigError(
            f"features are compared map by map, at one resolution, but got resolution={list(config.space.resolution)}",
            "Leave `features` in [recovery] or `resolution` in [space] out.",
        )
    split = replace(split, classes=names_of_outputs(split, intake.graph.outputs[0].shape))
    return replace(intake, notes=(*plain.notes, *about_labels)), split


def _faithful(path: Path, model: nn.Module, data: Data, seed: int) -> nn.Module:
    """Return a model that was converted from a file, or the file itself where that computes something else."""
    try:
        names = argument_names(data.train)
        items = comparison_items(data.val, _COMPARED_ITEMS, seed)
    except Exception:  # `check_data` tells what is wrong with the data, and at which item
        return model
    return model if isinstance(model, OnnxGraph) else faithful_conversion(model, path, names, items)


def _with_several_labels(data: Data, model: nn.Module, config: RunConfig) -> Data:
    """Return data with a label for each of the outputs that a configuration names; raises ConfigError, DataError."""
    asked = [AskedOutput(part.output, task_by(part.name), part.weight) for part in config.metric.outputs]
    try:
        names, evaluated = argument_names(data.train), evaluated_copy(model)
        return with_several_labels(data, asked, lambda x: named_tensors(called(evaluated, names, x)))
    except ParetopressError:
        raise
    except Exception as error:  # of the user's data set or forward
        raise DataError(f"the model must take the data, but it raised {typed_line(error)}{users_line(error)}") from error


def _check(data: Data, model: nn.Module, names: Sequence[str] | None) -> None:
    """Raise InputError if model and data do not fit; a copy of the model runs, for its forward may change what it holds."""
    evaluated = evaluated_copy(model)
    check_data(data, evaluated if names is None else lambda *x: evaluated(**dict(zip(names, x, strict=True))))


def _task(config: RunConfig, base: Path | None) -> Task:
    """Return the task that a configuration names; raises ConfigError."""
    asked = config.metric
    if asked.decoder is not None:
        decode = load_function(asked.decoder, base, ConfigError) if is_factory(asked.decoder) else None
        return task_by_decoder(asked.decoder, decode, MAP if asked.name == TOP_1 else asked.name)  # what a metric is by default
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
    ours: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Return the stages of a run's trials.

    Args: threads: score accuracy, None is all cores. cached: whether earlier runs may help. ours: see `run_identity`, which is computed
        where it is None.
    """
    helped = cached and config.replay is None and config.disk.cache_mb > 0.0
    ours = run_identity(intake, data, config) if ours is None else ours
    settings = PipelineSettings(
        config.seed,
        capabilities.reduce_range,
        threads or scoring_threads(),
        config.target.score_on_target,
        Formats(config.space.dynamic, config.space.float16),
        config.evaluators,
    )
    cache = Cache(cache_root(), {name: value for name, value in ours.items() if name != _SETTINGS}) if helped else None
    return Pipeline(intake, data, target, folder, settings, cache=cache, identity=ours)


def identity(intake: Intake, data: Data, seed: int) -> dict[str, Any]:
    """Return what all that is computed in a run depends on: hashes of code, model, data and metric, and the versions of packages."""
    metric = Contents()
    return {
        "format": FORMAT,
        "code": code_version(),
        **model_parts(intake.module),
        **data_identity(data, seed),
        "metric": metric.hexdigest(data.task) + metric.remark(),
        "versions": versions(),
    }


def run_identity(intake: Intake, data: Data, config: RunConfig) -> dict[str, Any]:
    """Return `identity` with the settings that decide a run's figures; not when it ends, where things lie, and who works on it."""
    return identity(intake, data, config.seed) | {_SETTINGS: config.model_dump(mode="json", include=_DECISIVE)}


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
    recovery = recovery_for(pipeline.intake, pipeline.data, config, state, pace, pipeline.folder.root)
    training = {
        "recipe": asdict(recovery.recipe),
        "steps": [state.effort.short_steps, state.effort.long_steps],
        "seed": config.seed,
        "device": device_name(recovery.device),
        "threads": torch.get_num_threads(),  # sums come out differently in their last bits
    }
    store = None if pipeline.cache is None else StudentStore(pipeline.cache, training)
    stages_s = state.baseline.stages_s
    return PlanEvaluator(
        pipeline,
        recovery,
        state.effort,
        state.bounds(config),
        students=StudentCache(store=store),
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
