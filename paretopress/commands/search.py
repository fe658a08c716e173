"""`paretopress search`: from a model, data and a budget, by options or one TOML file, to a front."""

from __future__ import annotations

import time as clock
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

import paretopress
from paretopress.commands.option_groups import grouped
from paretopress.commands.show_run import new_run, show_run
from paretopress.commands.terminal import DataOption, ModelOption, ThreadsOption, TrustOption, verb_app
from paretopress.config import RunConfig, parse_config, read_config
from paretopress.errors import ConfigError

app = verb_app()

# a clock that was set meanwhile must not eat up a run
_MOST_STARTING_S = 120.0
# where one of these is given, it takes the place of the other
_ONE_OF = {"budget": ("latency_ms", "speedup"), "time": ("minutes", "hours")}


@dataclass(frozen=True, slots=True)
class WhatOptions:
    """What is compressed, and how it is scored."""

    model: ModelOption = None
    data: DataOption = None
    metric: Annotated[str | None, typer.Option(help="top-1, F1, AUROC, mIoU, mAP, R2, agreement, ... or FILE.py:FUNCTION.")] = None
    decoder: Annotated[str | None, typer.Option(help="How boxes are read from raw heads: yolo, yolox or FILE.py:FUNCTION.")] = None


@dataclass(frozen=True, slots=True)
class BudgetOptions:
    """Bounds; see `BudgetSection`."""

    latency_ms: Annotated[float | None, typer.Option(help="Upper bound on the p50 of one batch.")] = None
    speedup: Annotated[float | None, typer.Option(help="The bound as a ratio: baseline latency / X.")] = None
    max_drop: Annotated[float | None, typer.Option(help="Points of the metric that may be lost.")] = None


@dataclass(frozen=True, slots=True)
class TimeOptions:
    """When the search ends; see `TimeSection`."""

    minutes: Annotated[float | None, typer.Option(help="Time for everything.")] = None
    hours: Annotated[float | None, typer.Option(help="Time for everything.")] = None
    trials: Annotated[int | None, typer.Option(help="Number of trials.")] = None
    no_stop_early: Annotated[bool, typer.Option("--no-stop-early", help="Use all the time, even when the front stops growing.")] = False

    def section(self) -> dict[str, Any]:
        """Return what was given, by the keys of the TOML file; None is not given."""
        return {"minutes": self.minutes, "hours": self.hours, "trials": self.trials, "stop_early": False if self.no_stop_early else None}


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Where it is measured; see `TargetSection`."""

    target: Annotated[str | None, typer.Option(help="Where it is measured: local, or ssh://user@host[:port].")] = None
    score_on_target: Annotated[bool, typer.Option("--score-on-target", help="Score accuracy there too.")] = False
    threads: ThreadsOption = None
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Take the processor's flags for what the target runs fast.")] = False

    def section(self) -> dict[str, Any]:
        """Return what was given, by the keys of the TOML file; None is not given."""
        return {
            "spec": self.target,
            "threads": self.threads,
            "score_on_target": self.score_on_target or None,
            "probe": False if self.no_probe else None,
        }


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Who works on it; see `WorkersSection`."""

    workers: Annotated[int | None, typer.Option(help="Trials evaluated at a time; they divide the cores (default 1).")] = None
    storage: Annotated[str | None, typer.Option(help="Database that workers on other hosts share, e.g. postgresql+psycopg://...")] = None
    artifacts: Annotated[str | None, typer.Option(help="Folder or s3://BUCKET where they exchange files; goes with --storage.")] = None
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that places workers, or local; goes with --storage.")] = None

    def section(self) -> dict[str, Any]:
        """Return what was given, by the keys of the TOML file; None is not given."""
        return {"count": self.workers, "storage": self.storage, "artifacts": self.artifacts, "ray": self.ray}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Where the run is kept, and what it is drawn from."""

    run: Annotated[Path | None, typer.Option(help="New folder for the run (default: runs/ and the time).")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None
    sampler: Annotated[str | None, typer.Option(help="guided, programme, tpe, gp, nsga2, nsga3 or random.")] = None
    trust: TrustOption = False
    replay: Annotated[Path | None, typer.Option(help="Folder of a run whose latencies are given out again; all else is as there.")] = None


@app.command(
    epilog="Example: paretopress search --model net.py:load --data net.py:photos --speedup 2 --max-drop 1 --hours 8 --run runs/night"
)
@grouped
def search(
    what: WhatOptions,
    budget: BudgetOptions,
    time: TimeOptions,
    target: TargetOptions,
    workers: WorkerOptions,
    run: RunOptions,
    config: Annotated[Path | None, typer.Argument(help="TOML file that says the same as the options.", metavar="[CONFIG]")] = None,
) -> None:
    """Search for compressed versions of a model within a latency budget."""
    if run.replay is not None:
        folder, source = run.run or new_run("replay"), run.replay
        show_run(folder, lambda view: paretopress.api.replay_run(source, folder, view, trust=run.trust))
        return
    asked = {
        "model": what.model,
        "data": what.data,
        "seed": run.seed,
        "sampler": run.sampler,
        "trust": run.trust or None,
        "metric": {"name": what.metric, "decoder": what.decoder},
        "budget": asdict(budget),
        "time": time.section(),
        "target": target.section(),
        "workers": workers.section(),
    }
    settings = merged(read_config(config, trust=run.trust) if config else None, asked)
    if settings.model is None or settings.data is None:
        raise ConfigError("a search needs a model and data", "Give --model and --data, or a TOML file that names them.")
    folder = run.run or new_run(config.stem if config else "search")
    show_run(folder, lambda view: paretopress.api.start_run(settings, folder, view, before_s=_process_age_s()))


def merged(base: RunConfig | None, asked: dict[str, Any]) -> RunConfig:
    """Return a configuration with every option that was given, which is not None, put over it."""
    value: dict[str, Any] = base.to_json() if base is not None else {"base": str(Path.cwd())}
    named = [name for name in ("model", "data") if asked[name] is not None]
    if base is not None and len(named) == 1:
        raise ConfigError(f"beside a TOML file, --model and --data go together, but got --{named[0]} alone", "Give both, or neither.")
    if named:  # their paths start where the command was typed, not where the TOML file lies
        value["base"] = str(Path.cwd())
    for name, given in asked.items():
        if isinstance(given, dict):
            options = {key: option for key, option in given.items() if option is not None}
            replaced = dict.fromkeys(_ONE_OF.get(name, ())) if options.keys() & set(_ONE_OF.get(name, ())) else {}
            value[name] = value.get(name, {}) | replaced | options
        elif given is not None:
            value[name] = given
    return parse_config(value, "the command line")


def _process_age_s() -> float:
    """Return the seconds since this process was started: --minutes counts from the command, whose imports take seconds."""
    return min(max(clock.time() - psutil.Process().create_time(), 0.0), _MOST_STARTING_S)
