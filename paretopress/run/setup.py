"""Set up a new run: measure the baseline, find the recipe and the steps that fit, build the search space."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from optuna.distributions import distribution_to_json
from torch import nn

from paretopress.compress.recover.finetune import Recovery, best_device, device_name, usual_optimizer
from paretopress.compress.recover.recipe import Recipe
from paretopress.config import RecoverySection, RunConfig
from paretopress.core.model_graph import ModelGraph
from paretopress.core.outcome import Outcome
from paretopress.intake.datasets.data import Data
from paretopress.intake.trace import Intake
from paretopress.run.findings import LEAST_STEPS, SetupFinder, SetupFindings, has_training
from paretopress.run.state import RunState
from paretopress.search.limits import Limits
from paretopress.spaces.space import SearchSpace, SpaceOptions
from paretopress.system.atomic_files import write_json
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.event_log import EventLog
from paretopress.system.stage_timer import StageTimer
from paretopress.system.thread_pace import ThreadPace, threads_as_before
from paretopress.targets.capabilities import Capabilities
from paretopress.targets.environment import environment as environment_here
from paretopress.targets.lock import no_measurement
from paretopress.targets.machine_state import LoadOfOthers
from paretopress.targets.probe.probe_report import probe_fingerprint
from paretopress.tasks.binary import YesOrNo
from paretopress.tasks.raw_heads import RawDetection
from paretopress.trial.effort import Effort
from paretopress.trial.pipeline import Pipeline

# the cache's folders of findings, and their file
_SETUP, _FOUND = "setup", "found.json"
# the set-up may take a share of the time of a run, but not more than so many seconds
_SETUP_SHARE, _SETUP_MOST_S = 0.25, 1_200.0
# plans that a search has time to train shortly, and for longer; the shares of its training time that these take
_SHORT_AIMED_AT, _LONG_AIMED_AT, _FEWEST_LONG = 120, 30, 8
_SHORT_SHARE = 0.4
_STEPS_WITHOUT_TIME = {"short": 25, "long": 100, "final": 400}
# a trial is not training alone: the share of its time that is, and of a finalist's, on a small network
_TRAINING_SHARE, _FINAL_TRAINING_SHARE = 0.7, 0.9


def weights_sha256(module: nn.Module) -> str:
    """Return the hash of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def scoring_threads() -> int:
    """Return how many threads score accuracy: all cores, because nothing is timed then."""
    return os.cpu_count() or 1


def space_for(graph: ModelGraph, config: RunConfig, capabilities: Capabilities) -> SearchSpace:
    """Return the search space of a model: what the target runs natively, unless the configuration names widths or a step itself."""
    label_share = config.recovery.label_share
    options = SpaceOptions(
        channel_step=config.space.channel_step or capabilities.channel_step,
        temperature=config.recovery.temperature,
        alpha=None if label_share is None else 1.0 - label_share,
        frozen=frozenset(config.space.frozen),
        importance=config.space.importance,
        resolution=config.space.resolution,
    )
    if config.space.bits is not None:
        return SearchSpace(graph, replace(options, bits=config.space.bits))
    if config.budget.size_bytes is not None:  # 4 bits save size even where they cost time
        capabilities = replace(capabilities, slow_int4="")
    offered = (32, *((8,) if capabilities.int8_activations else ()), *capabilities.weight_only_bits)
    return SearchSpace(graph, replace(options, bits=offered, refusal=capabilities.refusal))


def find_state(
    pipeline: Pipeline,
    space: SearchSpace,
    config: RunConfig,
    environment: Mapping[str, Any],
    watch: StageTimer,
    say: Callable[[str], None] = lambda _: None,
) -> RunState:
    """Measure the baseline and the tables of a new run, find its recipe, and write it all to the run folder.

    What an earlier run of the same model, data, settings and target found is taken from the cache; the baseline is always measured, and
    so are the seconds of a step. `watch` runs since the run's first moment. The set-up keeps to its share of the run's time: what it leaves
    out for that is told to `say` in one line, and is not taken from the cache by later runs.
    """
    deadline, load = setup_deadline(config.limits(), watch.elapsed_s), LoadOfOthers()
    baseline = pipeline.measure_baseline()
    foreign = load() or 0.0  # of this host, wherever the target is
    watch.seconds |= {name: seconds for name, seconds in baseline.stages_s.items() if name in ("latency", "accuracy")}
    finder = SetupFinder(pipeline, space, config, watch, deadline, say, foreign_cores=foreign)
    with threads_as_before():
        found = _findings(finder, baseline.latency.latency_ms)
    if finder.cut:
        line = f"the set-up has {_share_s(config.limits()):.0f} s of the run's time, so {'; '.join(finder.cut)}"
        say(line)
        EventLog(pipeline.folder.log)("set-up cut", {"reason": line})
    state = _state(finder, found, baseline, environment)
    write_json(pipeline.folder.tables, found.tables.scaled(baseline.latency.latency_ms / found.baseline_ms).to_json())
    write_json(pipeline.folder.graph, pipeline.intake.graph.to_json())
    write_json(pipeline.folder.state, state.to_json())  # the last: a run that has it is ready
    return state


def _findings(finder: SetupFinder, baseline_ms: float) -> SetupFindings:
    """Return the findings, from the cache where an earlier run made the same; those that were cut short are not kept there."""
    pipeline, config = finder.pipeline, finder.config
    cache = pipeline.cache
    if cache is None:
        return finder.find(baseline_ms)
    parts = {
        "recovery": config.recovery.model_dump(mode="json", exclude={"short_steps", "long_steps", "final_steps"}),
        "trains": has_training(config, pipeline.intake.graph),
        "formats": asdict(pipeline.formats),
        "space": {name: distribution_to_json(distribution) for name, distribution in finder.space.distributions().items()},
        "target": pipeline.fingerprint(),
        "seed": config.seed,
        "trains_on": training_place(),
    }
    known = cache.read(_SETUP, parts, lambda place: SetupFindings.from_json(json.loads((place / _FOUND).read_text())))
    if known is not None:
        return replace(known, seconds_per_step=finder.step_s_now()) if parts["trains"] else known
    made = finder.find(baseline_ms)
    if not finder.cut:
        cache.put(_SETUP, parts, lambda place: write_json(place / _FOUND, made.to_json()))
    return made


def _state(finder: SetupFinder, found: SetupFindings, baseline: Outcome, environment: Mapping[str, Any]) -> RunState:
    pipeline, config = finder.pipeline, finder.config
    data, intake, spent_s = pipeline.data, pipeline.intake, finder.watch.elapsed_s
    epoch = data.sizes()["train"] // config.recovery.batch_size
    return RunState(
        model_sha256=weights_sha256(intake.module),
        baseline=baseline,
        learning_rate=found.learning_rate,
        rate_losses=found.rate_losses,
        seconds_per_step=found.seconds_per_step,
        effort=_effort(config, intake, found, spent_s, epoch),
        removal_order=found.removal_order,
        environment=_with_batch(environment, len(next(iter(pipeline.feed.values())))),
        classes=data.classes,
        preprocessing=data.preprocessing,
        data_sizes=data.sizes(),
        setup_s=spent_s,
        setup_stages_s=finder.watch.seconds,
        identity=pipeline.whole_identity(),
        quickest_threads=found.quickest_threads,
        cut=tuple(finder.cut),
        detection=data.task.to_json() if isinstance(data.task, RawDetection) else {},
        independent_labels=isinstance(data.task, YesOrNo),
        metric=data.task.metric,
    )


def _with_batch(environment: Mapping[str, Any], batch: int) -> Mapping[str, Any]:
    """Return a target's environment with the batch that is timed: 1, unless the model's file takes another."""
    return {**environment, "session": {**environment["session"], "batch": batch}} if "session" in environment else environment


def training_place() -> dict[str, Any]:
    """Return what the seconds and the last bits of a training step depend on: this host, its training device, and the threads."""
    here = probe_fingerprint("local", environment_here())
    return {"device": device_name(best_device()), "threads": torch.get_num_threads(), "host": here}


def setup_deadline(limits: Limits, spent_s: float) -> Deadline:
    """Return the deadline of the set-up, of which `spent_s` seconds have passed."""
    return NO_DEADLINE if limits.seconds is None else Deadline.after(_share_s(limits) - spent_s)


def _share_s(limits: Limits) -> float:
    return math.inf if limits.seconds is None else min(_SETUP_SHARE * limits.seconds, _SETUP_MOST_S)


def _effort(config: RunConfig, intake: Intake, found: SetupFindings, spent_s: float, steps_per_epoch: int) -> Effort:
    if intake.graph.only_bits:  # a file has nothing that could be trained
        return Effort(0, 0, 0, scoring_threads())
    return plan_effort(config.recovery, config.limits(), found.seconds_per_step, spent_s, steps_per_epoch, found.least_steps)


def plan_effort(
    section: RecoverySection, limits: Limits, step_s: float, spent_s: float, steps_per_epoch: int, least_steps: int = LEAST_STEPS
) -> Effort:
    """Return the steps of each rung: as configured, else what the time allows for 120 short and 30 longer recoveries and the finalists.

    They are fixed at the start, so that the same seed trains every plan alike. Where a short recovery would have fewer than
    `least_steps`, which gain nothing over re-solved layers, there is no training at its rung, and the longer ones get the time.
    """
    planned = dict(_STEPS_WITHOUT_TIME)
    if limits.seconds is not None and step_s > 0.0:
        left = max(limits.seconds - spent_s, 1.0)
        training_s = left * (1.0 - limits.finalist_share) * _TRAINING_SHARE
        trials = limits.trials or _SHORT_AIMED_AT
        planned["short"] = max(round(training_s * _SHORT_SHARE / min(trials, _SHORT_AIMED_AT) / step_s), LEAST_STEPS)
        untrained = section.short_steps is None and planned["short"] < least_steps
        long_share, aimed_at = (1.0 if untrained else 1.0 - _SHORT_SHARE), min(trials, _LONG_AIMED_AT)
        planned["long"] = round(training_s * long_share / aimed_at / step_s)
        if untrained:
            # fewer that tell something, rather than many that do not
            planned |= {"short": 0, "long": max(planned["long"], min(least_steps, round(training_s / _FEWEST_LONG / step_s)))}
        planned["final"] = round(left * limits.finalist_share * _FINAL_TRAINING_SHARE / max(limits.finalists, 1) / step_s)
    epoch = max(steps_per_epoch, 1)
    short = section.short_steps if section.short_steps is not None else min(planned["short"], 2 * epoch)
    by_default = 0 if section.short_steps is not None else min(max(planned["long"], short), 8 * epoch)
    long = section.long_steps if section.long_steps is not None else by_default
    final = section.final_steps if section.final_steps is not None else min(max(planned["final"], long, short), 40 * epoch)
    return Effort(short, long, final, scoring_threads())


def recovery_for(
    intake: Intake, data: Data, config: RunConfig, state: RunState, pace: ThreadPace | None = None, folder: Path | None = None
) -> Recovery:
    """Return the recovery that every trial of a run shares; `pace` sets its threads, what memory has no room for lies in `folder`."""
    recipe: Recipe = config.recovery.recipe(state.learning_rate or 0.01, usual_optimizer(intake.module))
    return Recovery(intake.module, data.train, recipe, no_measurement, task=data.task, pace=pace, folder=folder)
