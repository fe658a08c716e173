"""From a model, its data and a budget to a front; and from a front to a bundle. Wires the parts together, does no work of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from paretopress.atomic import write_json
from paretopress.compress.students import Students
from paretopress.config import RunConfig, parse_config
from paretopress.errors import RunFolderError, SearchFailedError, TargetLostError
from paretopress.export import export_point, select_point
from paretopress.intake.checks import check_data, check_model
from paretopress.intake.data import Data, as_data, stack
from paretopress.intake.data_spec import load_data
from paretopress.intake.model_spec import load_model
from paretopress.intake.trace import Intake, take_in
from paretopress.measurement import Budget, Outcome
from paretopress.pipeline import Pipeline
from paretopress.plan import Plan
from paretopress.plan_evaluator import PlanEvaluator
from paretopress.probing import opener, target_facts
from paretopress.report.front import front_json, point_json
from paretopress.report.live import Progress, Reporter, SilentReporter
from paretopress.report.plot import write_front_png
from paretopress.run_folder import RunFolder, create_run_folder, open_run_folder
from paretopress.search.candidates import Bounds, Candidate, best, front
from paretopress.search.journal import create_study
from paretopress.search.predictor import Known, Predictor
from paretopress.search.samplers import OURS, PROGRAMME, check_sampler
from paretopress.search.seeds import ladder_plans, seed_plans, with_solved
from paretopress.search.study import Search, describe
from paretopress.search.tables import Tables
from paretopress.setup_run import RunState, find_state, recovery_for, scoring_threads, space_for, weights_sha256
from paretopress.spaces.space import SearchSpace
from paretopress.targets.capabilities import Capabilities, capabilities_in
from paretopress.targets.machine_state import state_warnings
from paretopress.targets.target import Target

_EXAMPLE_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run; `front` is the object of front.json."""

    run: Path
    front: Mapping[str, Any]

    def best(self) -> Mapping[str, Any]:
        """Return the point to ship; raises SearchFailedError if no plan met the budget."""
        return select_point(self.front, trial=self.front["best"])

    def export(self, to: str | Path, *, trial: int | None = None, latency_ms: float | None = None) -> Path:
        """Write the bundle of the best point, of a trial, or of the most accurate point within `latency_ms`; return its folder."""
        return export_point(RunFolder(self.run), self.front, Path(to), trial=trial, latency_ms=latency_ms)


def compress(
    model: nn.Module,
    data: object,
    *,
    budget: Budget,
    run: str | Path,
    minutes: float | None = None,
    hours: float | None = None,
    trials: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Search for compressed versions of a trained model within a budget.

    Args:
        model: a trained module, traceable by torch.fx, (N, C, H, W) float32 -> logits (N, classes). It is not changed.
        data: Data, a (train, val, test) or (train, val) tuple of datasets of (x, label), or an object with these attributes.
        budget: hard bounds. run: a new folder for everything that the run writes.
        minutes, hours, trials: when to end; at least one.
        options: further sections of the TOML file, e.g. {"recovery": {"batch_size": 64}, "target": {"threads": 2}}.
        reporter: told of every trial; None for silence.
    Raises: InputError: the model, data, budget or options cannot be used. RunError: no plan met the budget, or all trials failed.
    """
    sections = dict(options or {})
    asked = {
        "schema": 1,
        "seed": seed,
        "budget": {name: getattr(budget, name) for name in ("latency_ms", "speedup", "max_drop", "size_bytes")},
        "time": {"minutes": minutes, "hours": hours, "trials": trials} | sections.pop("time", {}),
    }
    return start_run(parse_config(asked | sections, "compress(...)"), Path(run), reporter or SilentReporter(), model=model, data=data)


def start_run(config: RunConfig, run: Path, reporter: Reporter, *, model: nn.Module | None = None, data: object | None = None) -> Result:
    """Start a run from a configuration; everything the user handed over is checked before the folder is made."""
    started = time.monotonic()
    config.checked_budget(), config.limits()
    if run.exists():
        raise RunFolderError(
            f"a new run needs a new folder, but {run} exists", "Name another with --run, or go on with `paretopress resume`."
        )
    check_sampler(config.sampler)
    reporter.message("reading model and data")
    intake, split = _take_in(config, model, data)
    with closing(_open_target(config)) as target:
        env = _target_facts(target, config, reporter)
        capabilities = capabilities_in(env)
        space = space_for(intake.graph, config, capabilities)
        folder = create_run_folder(run)
        with _paused_when_lost(run), folder.locked():
            write_json(folder.config, config.to_json())
            _say_what_was_found(intake, space, reporter)
            for warning in state_warnings(env):
                reporter.message(f"warning: {warning}")
            pipeline = _pipeline(intake, split, target, folder, config, capabilities)
            reporter.message("measuring the baseline, testing learning rates, ranking residual branches")
            state = find_state(pipeline, intake, split, space, config, env, started)
            return _search(folder, config, state, pipeline, space, reporter)


def resume_run(run: Path, reporter: Reporter, *, model: nn.Module | None = None, data: object | None = None) -> Result:
    """Go on with a run; at most the trial in flight when it ended is tried again.

    Raises: RunFolderError: the run was started from Python and no model and data are given, or the model is another.
    """
    folder = open_run_folder(run)
    config = parse_config(folder.read(folder.config), str(folder.config))
    if (config.model is None and model is None) or (config.data is None and data is None):
        raise RunFolderError(
            f"a resumed run needs its model and data, but {run} was started from Python", "Call paretopress.resume(run, model, data)."
        )
    started = time.monotonic()
    intake, split = _take_in(config, model, data)
    with _paused_when_lost(run), closing(_open_target(config)) as target, folder.locked():
        state = RunState.from_json(folder.read(folder.state)) if folder.state.is_file() else None
        # the space of a study must not change, so the capabilities are those that the run began with
        env = state.environment if state is not None else _target_facts(target, config, reporter)
        capabilities = capabilities_in(env)
        space = space_for(intake.graph, config, capabilities)
        pipeline = _pipeline(intake, split, target, folder, config, capabilities)
        if state is None:  # it ended before the first trial: nothing was lost, and nothing is there to keep
            state = find_state(pipeline, intake, split, space, config, env, started)
        elif state.model_sha256 != weights_sha256(intake.module):
            raise RunFolderError("a resumed run needs the same model, but its weights differ from those the run started with")
        return _search(folder, config, state, pipeline, space, reporter)


def resume(run: str | Path, model: nn.Module | None = None, data: object | None = None, *, reporter: Reporter | None = None) -> Result:
    """Go on with a run that ended early; see `compress`. Runs started from specs need no model and data."""
    return resume_run(Path(run), reporter or SilentReporter(), model=model, data=data)


def open_result(run: Path) -> Result:
    """Return the result of a finished run; raises RunFolderError if it has none yet."""
    folder = open_run_folder(run)
    return Result(run, folder.read(folder.front))


def load_and_trace(config: RunConfig) -> tuple[Intake, Data]:
    """Return the traced model and the data that a configuration names."""
    return _take_in(config, None, None)


def _take_in(config: RunConfig, model: nn.Module | None, data: object | None) -> tuple[Intake, Data]:
    base = Path(config.base) if config.base else None
    if model is None and config.model is not None:
        model = load_model(config.model, trust=config.trust, base=base)
    check_model(model)
    assert model is not None
    split = load_data(config.data, base=base, seed=config.seed) if data is None and config.data is not None else as_data(data, config.seed)
    model.eval()
    check_data(split, model)
    images, _ = stack(split.val, _EXAMPLE_IMAGES, config.seed)
    return take_in(model, images), split


def _open_target(config: RunConfig) -> Target:
    return opener(config.target.spec, config.target.cores)(config.target.threads)


def _target_facts(target: Target, config: RunConfig, reporter: Reporter) -> dict[str, Any]:
    open_target = opener(config.target.spec, config.target.cores)
    return target_facts(target, open_target, reporter.message, probe=config.target.probe)


@contextmanager
def _paused_when_lost(run: Path) -> Iterator[None]:
    """Say how to go on where the target is lost in a run; nothing that was measured is."""
    try:
        yield
    except TargetLostError as error:
        hint = f"{error.hint} The run is paused; when the target is back, `paretopress resume {run}` goes on.".strip()
        raise TargetLostError(error.message, hint) from error


def _pipeline(intake: Intake, data: Data, target: Target, folder: RunFolder, config: RunConfig, capabilities: Capabilities) -> Pipeline:
    return Pipeline(
        intake,
        data,
        target,
        folder,
        reduce_range=capabilities.reduce_range,
        scoring_threads=scoring_threads(),
        seed=config.seed,
        score_on_target=config.target.score_on_target,
    )


def _say_what_was_found(intake: Intake, space: SearchSpace, reporter: Reporter) -> None:
    graph = intake.graph
    reporter.message(
        f"{len(graph.layers)} layers, {len(graph.channel_groups)} channel groups, {len(graph.branches)} removable branches, "
        f"{len(space.variables)} variables"
    )
    for frozen in graph.frozen:
        reporter.message(f"left as it is: {frozen.name} ({frozen.reason})")
    for left_out in space.left_out:
        reporter.message(f"not offered: {left_out.name} ({left_out.reason})")


def _search(folder: RunFolder, config: RunConfig, state: RunState, pipeline: Pipeline, space: SearchSpace, reporter: Reporter) -> Result:
    bounds = Bounds(config.checked_budget(), state.baseline.latency.latency_ms, state.baseline.val_accuracy)
    reporter.message(
        f"baseline {state.baseline.val_accuracy:.2f} % at {bounds.baseline_ms:.3f} ms; budget {bounds.limit_ms:.3f} ms; "
        f"learning rate {state.learning_rate:g}, {state.effort.short_steps} steps a trial, {state.effort.long_steps} more for one that "
        f"goes on, {state.effort.final_steps} a finalist"
    )
    known = _known(folder, space, bounds) if config.sampler in OURS else None
    study = create_study(folder.journal, config.sampler, space, config.seed, known)
    recovery = recovery_for(pipeline.intake, pipeline.data, config, state)
    evaluate = PlanEvaluator(pipeline, recovery, state.effort, bounds, students=Students())
    search = Search(study, space, evaluate, bounds, config.limits(), pipeline.data.sizes()["val"], setup_s=state.setup_s)
    search.ladder = state.effort.ladder()
    search.measure_again = evaluate.latency_again
    search.on_change = lambda line: reporter.update(_progress(search, line))
    seeds = seed_plans(space, state.removal_order)
    ladder = ladder_plans(space, known.predictor, known.limit_ms) if known is not None and config.sampler == PROGRAMME else []
    search.run(with_solved(seeds, ladder))
    return _finish(folder, config, state, pipeline, search)


def _known(folder: RunFolder, space: SearchSpace, bounds: Bounds) -> Known:
    return Known(Predictor(space, Tables.from_json(folder.read(folder.tables))), bounds.limit_ms, bounds.baseline_accuracy)


def _progress(search: Search, line: str) -> Progress:
    candidates, counts = search.candidates(), search.counts()
    points = front(candidates, search.bounds)
    chosen = best(points, search.bounds, search.val_images)
    finals = search.finals() if search.in_finalists else None
    return Progress(
        phase="search" if finals is None else "finalists",
        done=counts.all if finals is None else len(finals),
        planned=search.limits.trials if finals is None else None if search.limits.seconds else search.limits.finalists,
        elapsed_s=search.elapsed_s,
        phase_s=search.phase_s,
        budget_s=search.limits.seconds,
        completed=counts.completed,
        rejected_early=counts.rejected_early,
        outraced=counts.outraced,
        failed=counts.failed,
        best=describe(chosen.outcome, search.bounds) if chosen else "",
        front_size=len(points),
        hypervolume=search.bounds.hypervolume(candidates),
        last=line,
    )


def _finish(folder: RunFolder, config: RunConfig, state: RunState, pipeline: Pipeline, search: Search) -> Result:
    """Score the front on test data, once, and write the result."""
    candidates = search.candidates()
    points = front(candidates, search.bounds)
    chosen = best(points, search.bounds, search.val_images)
    known = _known_test_accuracies(folder)

    def tested(outcome: Outcome) -> Outcome:
        accuracy = known.get(outcome.onnx_sha256)
        return Outcome.from_json(
            outcome.to_json() | {"test_accuracy": pipeline.test_accuracy(outcome.onnx_path) if accuracy is None else accuracy}
        )

    value = front_json(
        point_json(None, Plan().to_json(), tested(state.baseline)),
        [point_json(c.number, c.plan.to_json(), tested(c.outcome)) for c in points],
        candidates,
        search.bounds,
        search.counts(),
        agreements=search.agreements(),
        stall=search.stall(),
        best=chosen.number if chosen else None,
        seed=config.seed,
        environment=state.environment,
        data=pipeline.data.sizes(),
        elapsed_s=search.elapsed_s,
        seconds=search.seconds(),
    )
    write_json(folder.front, value)
    write_front_png(value, folder.picture)
    if chosen is None:
        raise _nothing_feasible(candidates, search.bounds)
    return Result(folder.root, value)


def _known_test_accuracies(folder: RunFolder) -> dict[str, float]:
    """Return sha256 -> test accuracy of what an earlier end of this run scored already."""
    if not folder.front.is_file():
        return {}
    value = folder.read(folder.front)
    return {point["onnx"]["sha256"]: point["test_accuracy"] for point in (value["baseline"], *value["points"])}


def _nothing_feasible(candidates: list[Candidate], bounds: Bounds) -> SearchFailedError:
    if not candidates:
        return SearchFailedError("a front needs a completed trial, but none was completed", "`paretopress status RUN` shows the reasons.")
    fastest = min(candidates, key=lambda c: c.outcome.latency.latency_ms)
    return SearchFailedError(
        f"no plan met the budget of {bounds.limit_ms:.3f} ms"
        + (f" and {bounds.budget.max_drop} points of drop" if bounds.budget.max_drop is not None else "")
        + f"; the fastest reached {describe(fastest.outcome, bounds)}"
        + (" before any training" if fastest.outcome.rejected else f", a drop of {bounds.drop(fastest.outcome):.2f} points"),
        "Raise the budget or --max-drop, or give the search more time.",
    )
