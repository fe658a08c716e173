"""Drive the search of a prepared run, from its state to front.json."""

from __future__ import annotations

import math
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from paretopress.config import RunConfig
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError
from paretopress.report.live import Progress, Reporter
from paretopress.run.artifacts import Evaluator, RunArtifacts, SharedFiles, TimedEvaluator, open_store
from paretopress.run.callbacks import NO_CALLBACKS, Callbacks
from paretopress.run.factory import PreparedRun, evaluator_here, worker_threads
from paretopress.run.front_files import write_front
from paretopress.run.handshake import publish
from paretopress.run.lookup import study_place
from paretopress.run.retention import drop_dominated
from paretopress.search.candidates import Candidate, best, front
from paretopress.search.fidelity.latency_pooling import drift_of, reserve
from paretopress.search.fidelity.remeasurement import OCCASIONS
from paretopress.search.sampler_names import OURS, PROGRAMME
from paretopress.search.samplers.initial_plans import initial_plans, ladder_plans, with_solved, without_slow
from paretopress.search.samplers.predictor import Predictor, PriorKnowledge
from paretopress.search.samplers.tables import CostTables
from paretopress.search.storage.leases import Leases
from paretopress.search.storage.places import StudyPlace
from paretopress.search.study.create import create_study
from paretopress.search.study.event_format import STOPPED_EARLY, TRIAL, describe
from paretopress.search.study.search import Search
from paretopress.system.disk_cache import cache_root, prune
from paretopress.system.elapsed_time import recorded_elapsed_s, recording_elapsed
from paretopress.system.event_log import EventLog
from paretopress.system.user_factory import is_factory
from paretopress.targets.probe.probing import LOCAL
from paretopress.trial.subprocess_evaluator import EvaluatorProcess, SubprocessEvaluator, evaluator_command

Helpers = Callable[[str], AbstractContextManager[None]]

# trials between two looks at what the candidates take on disk
_TIDIED_EVERY = 20
# what is kept of the time for the picture, and for each point's last latencies; all that is kept is at most a share of the time
_CLOSING_S, _LATENCY_S, _CLOSING_SHARE = 3.0, 2.0, 0.2


def search_run(
    run: PreparedRun, reporter: Reporter, with_helpers: Helpers, callbacks: Callbacks = NO_CALLBACKS, *, extended: bool = False
) -> dict[str, Any]:
    """Search, score the front on test data, and write front.json; return it.

    Args:
        with_helpers: given the URL that others join a shared run with, a block in which they do.
        callbacks: functions of the user's. extended: the run's limits were raised: trials go on, though finalists were recovered.
    Raises: SearchFailedError: no plan met the budget, or all trials failed. TargetLostError: the run is paused.
    """
    state, bounds = run.state, run.bounds
    reporter.message(
        f"baseline {bounds.metric.shown(state.baseline.val_accuracy)} at {bounds.baseline_ms:.3f} ms; budget {bounds.limit_ms:.3f} ms; "
        f"learning rate {state.learning_rate:g}, {state.effort.short_steps or 'no'} steps a trial, {state.effort.long_steps} more for one "
        f"that goes on, {state.effort.final_steps} a finalist"
    )
    known = _known(run)
    with _searching(run, known, reporter, callbacks) as search:
        if extended:
            search.extend()
        seeds, shared = _seeds(run, known), search.evaluate
        if isinstance(shared, SharedFiles):
            place = _publish(run, search, shared.artifacts, reporter)
            with with_helpers(f"{place.url}#{place.name}"):
                search.run(seeds)
        else:
            search.run(seeds)
    if run.config.disk.cache_mb > 0.0:
        prune(cache_root(), int(run.config.disk.cache_mb * 1e6))
    value = write_front(run, search)
    fields = {"elapsed_s": search.times.elapsed_s, "best": value["best"]}
    EventLog(run.folder.log)("finished", fields)
    callbacks.on_event("finished", fields)
    return value


def work_along(run: PreparedRun, reporter: Reporter) -> None:
    """Work on a shared search that another process started; see `Search.work`."""
    with _searching(run, _known(run), reporter) as search:
        search.work()


def open_artifacts(config: RunConfig, place: StudyPlace) -> RunArtifacts:
    """Return where a shared run keeps its artifacts; raises ConfigError if it is not said."""
    if config.workers.artifacts is None:
        raise ConfigError("a shared run needs a place for its artifacts, but got none", "Give --artifacts FOLDER or s3://BUCKET.")
    return RunArtifacts(open_store(config.workers.artifacts), place.name)


@contextmanager
def _searching(run: PreparedRun, known: PriorKnowledge | None, reporter: Reporter, callbacks: Callbacks = NO_CALLBACKS) -> Iterator[Search]:
    """Yield a search over the run's study, with all that it needs to evaluate plans here."""
    config, state, place = run.config, run.state, study_place(run.folder, run.config)
    worker = f"{socket.gethostname()}-{os.getpid()}"
    study = create_study(place, config.sampler, run.space, config.seed, known)
    with _evaluator(run, reporter) as inner:
        evaluate: Evaluator = inner
        leases = None
        if isinstance(place, StudyPlace):
            evaluate, leases = SharedFiles(inner, open_artifacts(config, place), run.folder), Leases(study, worker, place.grace_s)
            worker = leases.worker
        search = Search(
            study,
            run.space,
            evaluate,
            run.bounds,
            config.limits(),
            run.pipeline.data.sizes()["val"],
            ladder=state.effort.ladder(),
            measure_again=evaluate.latency_again,
            recover_in_part=evaluate.recover_in_part,
            workers=config.workers.count,
            leases=leases,
            setup_s=state.setup_s,
            setup_stages_s=state.setup_stages_s,
            closing_s=_ending_s(run, _LATENCY_S),
            ending_s=_ending_s(run, 0.0),
        )
        inner.keep_within(lambda: search.times.left_s)
        if isinstance(inner, SubprocessEvaluator):
            search.cancel = inner.close
        search.on_change = lambda line: reporter.update(_progress(search, line))
        search.should_stop = callbacks.should_stop

        def on_event(event: str, fields: Mapping[str, Any]) -> None:
            _note(event, fields, run, search, reporter)
            callbacks.on_event(event, fields)

        search.on_event = on_event
        search.times.resume_at(recorded_elapsed_s(run.folder.worked) + run.resume_s)
        EventLog(run.folder.log)("started", {"trials": search.counts().all, "worker": worker, "workers": search.workers})
        with recording_elapsed(run.folder.worked, lambda: search.times.elapsed_s):
            yield search


def _publish(run: PreparedRun, search: Search, artifacts: RunArtifacts, reporter: Reporter) -> StudyPlace:
    """Publish the run, say how others join it, and return where."""
    place, pipeline = study_place(run.folder, run.config), run.pipeline
    assert isinstance(place, StudyPlace)
    publish(search.study, run.folder, artifacts, pipeline.whole_identity())
    reporter.message(f"others join with: paretopress worker '{place}'{_options(run.config)}")
    return place


def _options(config: RunConfig) -> str:
    """Return the options with which another host names what this one loads: a worker takes none of it from the study."""
    named = {"model": config.model, "data": config.data, "artifacts": config.workers.artifacts}
    if is_factory(config.metric.name):
        named["metric"] = config.metric.name
    if config.target.spec != "local":
        named["target"] = config.target.spec
    return "".join(f" --{name} {shlex.quote(spec)}" for name, spec in named.items() if spec is not None)


def _seeds(run: PreparedRun, known: PriorKnowledge | None) -> list[Plan]:
    plans = initial_plans(run.space, run.state.removal_order)
    if known is None:
        return plans
    plans = without_slow(plans, run.space, known.predictor, known.limit_ms)
    if run.config.sampler != PROGRAMME:
        return plans
    aim_ms = known.limit_ms / reserve(drift_of(()), OCCASIONS)
    return with_solved(plans, ladder_plans(run.space, known.predictor, aim_ms))


def _note(event: str, fields: Mapping[str, Any], run: PreparedRun, search: Search, reporter: Reporter) -> None:
    """Write an event down; say what should stay readable; now and then, drop files that no longer matter."""
    log = EventLog(run.folder.log)
    log(event, fields)
    if event == STOPPED_EARLY:
        reporter.message(str(fields["reason"]))
    if event == TRIAL and fields["trial"] % _TIDIED_EVERY == 0:
        dropped = drop_dominated(run.folder, search.records, search.bounds, int(run.config.disk.keep_mb * 1e6))
        if dropped:
            log("files dropped", {"trials": dropped})


@contextmanager
def _evaluator(run: PreparedRun, reporter: Reporter) -> Iterator[TimedEvaluator]:
    """Yield what evaluates plans: processes of their own where the model and the data can be read again there, else this one."""
    config, count = run.config, run.config.workers.count
    if config.model is None or config.data is None or not config.workers.isolated:
        if count > 1:
            raise ConfigError(
                f"several workers need a model and data that each can load, but got objects and workers={count}",
                "Give specs (file.py:factory) and leave workers.isolated on, or take one worker.",
            )
        with evaluator_here(run.pipeline, config, run.state, reporter.message) as here:
            yield here
        return
    command = evaluator_command(run.folder.root, worker_threads(config, run.state), trust=config.trust)
    state = run.state
    evaluate = SubprocessEvaluator(
        lambda: EvaluatorProcess(command, run.folder.worker_log),
        lambda: math.inf,
        reporter.message,
        lambda rung: state.effort.steps(rung) * state.seconds_per_step,
    )
    try:
        yield evaluate
    finally:
        evaluate.close()


def _ending_s(run: PreparedRun, latency_s: float) -> Callable[[Sequence[Candidate]], float]:
    """Return points of the front -> seconds that the end of the run is expected to take, with `latency_s` of measuring for each.

    Predicted from what scoring the baseline took; a point takes as much less as its latency is shorter, and all take longer where others
    are at work on more cores than they were then.
    """
    limits, sizes = run.config.limits(), run.pipeline.data.sizes()
    if limits.seconds is None:
        return lambda _: 0.0
    scoring_s = run.state.baseline.stages_s.get("accuracy", 0.0) * sizes["test"] / sizes["val"]
    longest_s, cores = _CLOSING_SHARE * limits.seconds, float(os.cpu_count() or 1)
    here = run.config.target.spec == LOCAL
    foreign_then = (run.state.baseline.latency.foreign_cores or 0.0) if here else 0.0

    def ending_s(points: Sequence[Candidate]) -> float:
        baselines = 1.0 + sum(point.outcome.latency.ratio for point in points)
        foreign = max((point.outcome.latency.foreign_cores or 0.0 for point in points), default=foreign_then) if here else foreign_then
        slower = max((cores + foreign) / (cores + foreign_then), 1.0)
        return min(_CLOSING_S * (1.0 + foreign / cores) + slower * baselines * scoring_s + len(points) * latency_s, longest_s)

    return ending_s


def _known(run: PreparedRun) -> PriorKnowledge | None:
    """Return what the run's sampler may know before the first trial; None for one that cannot use it."""
    if run.config.sampler not in OURS:
        return None
    predictor = Predictor(run.space, CostTables.from_json(run.folder.read(run.folder.tables)))
    return PriorKnowledge(predictor, run.bounds.limit_ms, run.bounds.baseline_accuracy, run.bounds.worst_drop, run.bounds.budget.max_drop)


def _progress(search: Search, line: str) -> Progress:
    candidates, counts = search.candidates(), search.counts()
    points = front(candidates, search.bounds)
    chosen = best(points, search.bounds, search.val_images)
    finals = search.finals() if search.times.in_finalists else None
    return Progress(
        phase="search" if finals is None else "finalists",
        done=counts.all if finals is None else len(finals),
        planned=search.limits.trials if finals is None else None if search.limits.seconds else search.limits.finalists,
        elapsed_s=search.times.elapsed_s,
        phase_s=search.times.phase_s,
        budget_s=search.times.end_s if search.limits.seconds else None,
        completed=counts.completed,
        rejected_early=counts.rejected_early,
        outraced=counts.outraced,
        failed=counts.failed,
        best=describe(chosen.outcome, search.bounds) if chosen else "",
        front_size=len(points),
        hypervolume=search.bounds.hypervolume(candidates),
        last=line,
    )
