"""The Python API: compress a model within a budget, and resume, extend or replay a run."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from paretopress.config import RunConfig, parse_config, read_config, seconds_of
from paretopress.core.outcome import Budget
from paretopress.distributed.ray_workers import demand_ray, workers_on_ray
from paretopress.errors import ConfigError, RunFolderError, TargetLostError
from paretopress.evaluators.registry import EVALUATORS
from paretopress.intake.datasets.data_identity import LABELS
from paretopress.intake.trace import Intake
from paretopress.report.live import REPORTERS, Reporter, Reporters, SilentReporter
from paretopress.run.callbacks import NO_CALLBACKS, Callbacks
from paretopress.run.driver import Helpers, open_artifacts, search_run
from paretopress.run.factory import PreparedRun, load_and_trace, make_pipeline, open_run_target, run_identity
from paretopress.run.lookup import confirmed_config, store_config, study_place, with_more_time
from paretopress.run.result import Result
from paretopress.run.setup import find_state, setup_deadline, space_for
from paretopress.run.state import RunState
from paretopress.search.samplers.registry import SAMPLERS
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.spaces.space import SearchSpace
from paretopress.system.atomic_files import write_json
from paretopress.system.run_folder import create_run_folder, open_run_folder
from paretopress.system.seeding import undisturbed
from paretopress.system.stage_timer import StageTimer
from paretopress.targets.capabilities import capabilities_in
from paretopress.targets.machine_state import state_warnings
from paretopress.targets.probe.probing import opener, target_facts
from paretopress.targets.target import Target

# the share of the set-up's time that a probe may take
_PROBE_SHARE = 0.6


def compress(
    model: nn.Module,
    data: object,
    *,
    run: str | Path,
    budget: Budget | None = None,
    minutes: float | None = None,
    hours: float | None = None,
    trials: int | None = None,
    seed: int | None = None,
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    reporter: Reporter | None = None,
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Search for compressed versions of a trained model within a budget.

    Args:
        model: a trained module, traceable by torch.fx, (N, C, H, W) float32 -> logits (N, classes). It is not changed.
        data: Data, a (train, val, test) or (train, val) tuple of datasets of (x, label), or an object with these attributes.
        run: a new folder for everything that the run writes. budget: hard bounds.
        minutes, hours, trials: when to end; at least one, here or in `config`.
        config: a RunConfig, the sections of the TOML file, e.g. {"recovery": {"batch_size": 64}}, or the path of one. What is given beside
            it takes the place of what it says.
        reporter: told of every trial; None for silence.
        on_event, should_stop: see `Callbacks`.
    Raises: InputError: the model, data, budget or configuration cannot be used. RunError: no plan met the budget, or all trials failed.
    """
    given = {"trials": trials, "minutes": minutes, "hours": hours}
    asked = _configured(config, budget, given, seed)
    return start_run(asked, Path(run), reporter or SilentReporter(), model=model, data=data, callbacks=_callbacks(on_event, should_stop))


def _configured(
    config: RunConfig | Mapping[str, Any] | str | Path | None, budget: Budget | None, limits: Mapping[str, float | None], seed: int | None
) -> RunConfig:
    """Return a configuration with the budget, the limits and the seed that were given, which is not None, in place of its own."""
    read = read_config(Path(config)) if isinstance(config, str | Path) else config
    value: dict[str, Any] = read.to_json() if isinstance(read, RunConfig) else {"schema": 1, **(read or {})}
    if budget is not None:
        value["budget"] = asdict(budget)
    time = dict(value.get("time") or {})
    if limits["minutes"] is not None or limits["hours"] is not None:  # either takes the place of both
        time |= {"minutes": limits["minutes"], "hours": limits["hours"]}
    if limits["trials"] is not None:
        time["trials"] = limits["trials"]
    return parse_config(value | {"time": time} | ({} if seed is None else {"seed": seed}), "compress(...)")


def _callbacks(on_event: Callable[[str, Mapping[str, Any]], None] | None, should_stop: Callable[[], bool] | None) -> Callbacks:
    return Callbacks(on_event or NO_CALLBACKS.on_event, should_stop or NO_CALLBACKS.should_stop)


@undisturbed()
def start_run(
    config: RunConfig,
    run: Path,
    reporter: Reporter,
    *,
    model: nn.Module | None = None,
    data: object | None = None,
    before_s: float = 0.0,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Result:
    """Start a run from a configuration; everything the user handed over is checked before the folder is made.

    `before_s` of the time that is given have passed already: a command counts from its start, the seconds of its imports too.
    """
    watch = StageTimer(before_s=before_s)
    config.checked_budget(), config.limits()
    reporter = _with_named(reporter, config)
    if run.exists():
        raise RunFolderError(
            f"a new run needs a new folder, but {run} exists", "Name another with --run, or go on with `paretopress resume`."
        )
    SAMPLERS.get(config.sampler)
    config = _with_study_name(config, run)
    reporter.message("reading model and data")
    intake, split = load_and_trace(config, model, data)
    with closing(open_run_target(config)) as target:
        env = _target_facts(target, config, reporter, watch)
        capabilities = capabilities_in(env)
        space = space_for(intake.graph, config, capabilities)
        folder = create_run_folder(run)
        with _paused_when_lost(run), folder.locked():
            store_config(folder, config)
            _say_what_was_found(intake, space, reporter)
            for warning in state_warnings(env):
                reporter.message(f"warning: {warning}")
            pipeline = make_pipeline(intake, split, target, folder, config, capabilities)
            for name, value in pipeline.identity.items():
                if isinstance(value, str) and " (" in value and name != LABELS:
                    reporter.message(f"warning: the {name} are known in part {value.partition(' ')[2]}")
            reporter.message("measuring the baseline, testing learning rates, ranking residual branches")
            state = find_state(pipeline, space, config, env, watch, reporter.message)
            prepared = PreparedRun(folder, config, state, pipeline, space)
            return Result(run, search_run(prepared, reporter, _helpers(config, reporter), callbacks))


def _with_named(reporter: Reporter, config: RunConfig) -> Reporter:
    """Return a reporter that tells those of the configuration too; raises ConfigError: there is no evaluator or reporter of a name."""
    for name in config.evaluators:
        EVALUATORS.get(name)
    return Reporters(reporter, *(REPORTERS.get(name)() for name in config.reporters)) if config.reporters else reporter


def _helpers(config: RunConfig, reporter: Reporter) -> Helpers:
    return workers_on_ray(config, reporter) if config.workers.ray is not None else lambda _: nullcontext()


def _with_study_name(config: RunConfig, run: Path) -> RunConfig:
    """Return the configuration with a name of its own for a study that is kept in a shared storage, once all it names is in reach."""
    if config.workers.storage is None:
        if config.workers.ray is not None:
            raise ConfigError(
                f"workers on Ray share a storage, but got none with ray={config.workers.ray}", "Give --storage and --artifacts."
            )
        return config
    name = config.workers.study or f"{run.name}-{secrets.token_hex(3)}"
    named = config.model_copy(update={"workers": config.workers.model_copy(update={"study": name})})
    place = StudyPlace(config.workers.storage, name)
    open_artifacts(named, place)
    open_storage(place)
    if config.workers.ray is not None:
        demand_ray(config.workers.ray)
    return named


@undisturbed()
def replay_run(source: Path, run: Path, reporter: Reporter, *, trust: bool = False) -> Result:
    """Search again with the latencies that another run recorded: the same seed proposes the same plans in the same order.

    What was found before its first trial is taken over, and its limits are the numbers of trials and finalists that it came to.
    Raises: RunFolderError: the run to replay is none, has no trial, or its model, data or metric is another by now. TrustError: it was
        started with --trust, and `trust` is not given.
    """
    recorded = open_run_folder(source)
    config = confirmed_config(recorded, trust=trust)
    state = RunState.from_json(recorded.read(recorded.state))
    records = Records(open_study(study_place(recorded, config)))
    finished = len(records.durations())
    if not finished:
        raise RunFolderError(f"a run to replay must have trials, but {source} has none")
    limits = {"trials": finished, "minutes": None, "hours": None, "finalists": len(records.finals_tried()), "stop_early": False}
    value = config.to_json()
    alone = {"count": 1, "storage": None, "study": None, "ray": None}  # one worker, and a journal of its own
    changed = {"replay": str(source.resolve()), "time": value["time"] | limits, "workers": value["workers"] | alone}
    asked = parse_config(value | changed, str(recorded.config))
    intake, split = load_and_trace(asked)
    ours = run_identity(intake, split, asked)
    state.demand_same(_replayed(ours), "a replay")
    capabilities = capabilities_in(state.environment)
    space = space_for(intake.graph, asked, capabilities)
    folder = create_run_folder(run)
    with closing(open_run_target(asked)) as target, folder.locked():
        store_config(folder, asked)
        for mine, theirs in zip(folder.found(), recorded.found(), strict=True):
            shutil.copy(theirs, mine)
        pipeline = make_pipeline(intake, split, target, folder, asked, capabilities, ours=ours)
        return Result(run, search_run(PreparedRun(folder, asked, state, pipeline, space), reporter, _helpers(asked, reporter)))


def _replayed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a replay must have in common with its source: the target, the settings and the versions are what it may compare."""
    return {name: value for name, value in identity.items() if name not in ("code", "versions", "settings")}


@undisturbed()
def resume_run(
    run: Path,
    reporter: Reporter,
    *,
    model: nn.Module | None = None,
    data: object | None = None,
    trust: bool = False,
    more_s: float | None = None,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Result:
    """Go on with a run; at most the trial in flight when it ended is tried again.

    With `more_s` the run goes on for so many seconds from now, whatever its limits were, and trials follow where finalists had begun.

    Raises: RunFolderError: the run was started from Python and no model and data are given; or model, data, metric, settings, target or
        versions are not those that it was started with. TrustError: it was started with --trust, and `trust` is not given.
    """
    folder = open_run_folder(run)
    config = confirmed_config(folder, trust=trust)
    if (config.model is None and model is None) or (config.data is None and data is None):
        raise RunFolderError(
            f"a resumed run needs its model and data, but {run} was started from Python", "Call paretopress.resume(run, model, data)."
        )
    extended = more_s is not None
    if more_s is not None:
        config = with_more_time(config, folder, more_s)
    watch, reporter = StageTimer(), _with_named(reporter, config)
    intake, split = load_and_trace(config, model, data)
    with _paused_when_lost(run), closing(open_run_target(config)) as target, folder.locked():
        state = RunState.from_json(folder.read(folder.state)) if folder.state.is_file() else None
        # the space of a study must not change, so the capabilities are those that the run began with
        env = state.environment if state is not None else _target_facts(target, config, reporter, watch)
        capabilities = capabilities_in(env)
        space = space_for(intake.graph, config, capabilities)
        pipeline = make_pipeline(intake, split, target, folder, config, capabilities)
        if state is None:  # it ended before the first trial: nothing was lost, and nothing is there to keep
            state = find_state(pipeline, space, config, env, watch, reporter.message)
            resume_s = 0.0  # its set-up counts it
        else:
            state.demand_same(pipeline.whole_identity(), "a resumed run")
            resume_s = watch.elapsed_s
        if extended:
            write_json(folder.config, config.to_json())
        prepared = PreparedRun(folder, config, state, pipeline, space, resume_s)
        return Result(run, search_run(prepared, reporter, _helpers(config, reporter), callbacks, extended=extended))


def resume(
    run: str | Path,
    model: nn.Module | None = None,
    data: object | None = None,
    *,
    minutes: float | None = None,
    hours: float | None = None,
    reporter: Reporter | None = None,
    trust: bool = False,
    on_event: Callable[[str, Mapping[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Go on with a run that ended early, or give a run more time.

    Args:
        model, data: as for `compress`; a run that was started from specs needs none.
        minutes, hours: how much longer it goes on, whatever its limits were; None keeps them.
        reporter, on_event, should_stop: as for `compress`. trust: as for --trust.
    Raises: as `compress`; RunFolderError: model, data, metric, settings, target or versions are not those that it was started with.
    """
    return resume_run(
        Path(run),
        reporter or SilentReporter(),
        model=model,
        data=data,
        trust=trust,
        more_s=seconds_of(minutes, hours),
        callbacks=_callbacks(on_event, should_stop),
    )


def _target_facts(target: Target, config: RunConfig, reporter: Reporter, watch: StageTimer) -> dict[str, Any]:
    open_target = opener(config.target.spec, config.target.cores)
    until = setup_deadline(config.limits(), watch.elapsed_s).share(_PROBE_SHARE)
    with watch.stage("probe"):
        return target_facts(target, open_target, reporter.message, probe=config.target.probe, until=until)


@contextmanager
def _paused_when_lost(run: Path) -> Iterator[None]:
    """Say how to go on where the target is lost in a run; nothing that was measured is."""
    try:
        yield
    except TargetLostError as error:
        hint = f"{error.hint} The run is paused; when the target is back, `paretopress resume {run}` goes on.".strip()
        raise TargetLostError(error.message, hint) from error


def _say_what_was_found(intake: Intake, space: SearchSpace, reporter: Reporter) -> None:
    graph = intake.graph
    reporter.message(
        f"{len(graph.layers)} layers, {len(graph.channel_groups)} channel groups, {len(graph.branches)} removable branches, "
        f"{len(space.variables)} variables"
    )
    for note in intake.notes:
        reporter.message(note)
    for frozen in graph.frozen:
        reporter.message(f"left as it is: {frozen.name} ({frozen.reason})")
    for left_out in space.left_out:
        reporter.message(f"not offered: {left_out.name} ({left_out.reason})")
