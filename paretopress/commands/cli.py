"""The command line: turns words into calls of the API, and errors into one screen and an exit code."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import optuna
import psutil
import typer
from rich.console import Console

from paretopress.api import Result, open_result, replay_run, resume_run, start_run
from paretopress.commands.demo import run_demo
from paretopress.commands.explain import explain_path
from paretopress.commands.predict import predict_plan
from paretopress.commands.profile import profile_model
from paretopress.commands.rerun import rerun_trial
from paretopress.commands.status import run_status
from paretopress.config import RunConfig, parse_config, read_config
from paretopress.deploy.verify import verify_bundle
from paretopress.distributed.worker import WorkerFlags, run_worker
from paretopress.errors import ConfigError, ParetopressError, SearchFailedError
from paretopress.report.explanation import explanation_view
from paretopress.report.live import LiveView
from paretopress.report.probe_table import probe_table
from paretopress.report.tables import front_table, profile_table
from paretopress.run.factory import load_and_trace
from paretopress.search.storage.heartbeat import KNOWN_WARNINGS
from paretopress.search.storage.places import serve_proxy
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.disk_cache import cache_root, entries, prune
from paretopress.system.secret_masking import masked
from paretopress.targets.probe.probing import LOCAL, opener, probe_target

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Press a model onto the Pareto front.")
out, err = Console(), Console(stderr=True)

# a clock that was set meanwhile must not eat up a run
_MOST_STARTING_S = 120.0

RunArgument = Annotated[Path, typer.Argument(help="Folder of the run.", metavar="RUN")]
ModelOption = Annotated[str | None, typer.Option(help="file.py:factory, or torchvision:resnet18?weights=FILE&num_classes=10.")]
DataOption = Annotated[str | None, typer.Option(help="file.py:factory, digits, fashion-mnist, folder:PATH, torchvision:CIFAR10?root=PATH.")]
TrustOption = Annotated[bool, typer.Option("--trust", help="Allow reading pickles (.pt, .pth), which can run any code.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads of the session that is timed (default 1).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="Time for the search.")] = 4.0,
    run: Annotated[Path | None, typer.Option(help="New folder for the run.")] = None,
    to: Annotated[Path | None, typer.Option(help="New folder for the bundle.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Train a small network on scikit-learn's digits, search for one twice as fast, export and verify it."""
    folder = run or _new_run("demo")
    result = _show_run(folder, lambda view: run_demo(folder, view, minutes=minutes, seed=seed))
    _export(result, to or folder / "bundle", None, None)


@app.command()
def search(
    config: Annotated[Path | None, typer.Argument(help="TOML file that says the same as the options.", metavar="[CONFIG]")] = None,
    model: ModelOption = None,
    data: DataOption = None,
    metric: Annotated[str | None, typer.Option(help="top-1, top-5, F1, mIoU, mAP, Spearman, R2 or FILE.py:FUNCTION.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Upper bound on the p50 of one batch.")] = None,
    speedup: Annotated[float | None, typer.Option(help="The bound as a ratio: baseline latency / X.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of the metric that may be lost.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for everything.")] = None,
    hours: Annotated[float | None, typer.Option(help="Time for everything.")] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.")] = None,
    no_stop_early: Annotated[bool, typer.Option("--no-stop-early", help="Use all the time, even when the front stops growing.")] = False,
    run: Annotated[Path | None, typer.Option(help="New folder for the run (default: runs/ and the time).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None,
    sampler: Annotated[str | None, typer.Option(help="guided, programme, tpe, gp, nsga2, nsga3 or random.")] = None,
    target: Annotated[str | None, typer.Option(help="Where it is measured: local, or ssh://user@host[:port].")] = None,
    score_on_target: Annotated[bool, typer.Option("--score-on-target", help="Score accuracy there too.")] = False,
    threads: ThreadsOption = None,
    workers: Annotated[int | None, typer.Option(help="Trials evaluated at a time; they divide the cores (default 1).")] = None,
    storage: Annotated[str | None, typer.Option(help="Database that workers on other hosts share, e.g. postgresql+psycopg://...")] = None,
    artifacts: Annotated[str | None, typer.Option(help="Folder or s3://BUCKET where they exchange files; goes with --storage.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that places workers, or local; goes with --storage.")] = None,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Take the processor's flags for what the target runs fast.")] = False,
    trust: TrustOption = False,
    replay: Annotated[Path | None, typer.Option(help="Folder of a run whose latencies are given out again; all else is as there.")] = None,
) -> None:
    """Search for compressed versions of a model within a latency budget."""
    if replay is not None:
        folder = run or _new_run("replay")
        _show_run(folder, lambda view: replay_run(replay, folder, view, trust=trust))
        return
    asked = {
        "model": model,
        "data": data,
        "seed": seed,
        "sampler": sampler,
        "trust": trust or None,
        "metric": {"name": metric},
        "budget": {"latency_ms": latency_ms, "speedup": speedup, "max_drop": max_drop},
        "time": {"minutes": minutes, "hours": hours, "trials": trials, "stop_early": False if no_stop_early else None},
        "target": {"spec": target, "threads": threads, "score_on_target": score_on_target or None, "probe": False if no_probe else None},
        "workers": {"count": workers, "storage": storage, "artifacts": artifacts, "ray": ray},
    }
    settings = _merged(read_config(config, trust=trust) if config else None, asked)
    if settings.model is None or settings.data is None:
        raise ConfigError("a search needs a model and data", "Give --model and --data, or a TOML file that names them.")
    folder = run or _new_run(config.stem if config else "search")
    _show_run(folder, lambda view: start_run(settings, folder, view, before_s=_process_age_s()))


@app.command()
def resume(run: RunArgument, trust: TrustOption = False) -> None:
    """Go on with a run that ended early."""
    _show_run(run, lambda view: resume_run(run, view, trust=trust))


@app.command()
def worker(
    url: Annotated[str, typer.Argument(help="What `search --storage` printed.", metavar="RUN-URL")],
    model: ModelOption = None,
    data: DataOption = None,
    metric: Annotated[str | None, typer.Option(help="As for search; needed where the study's is FILE.py:FUNCTION.")] = None,
    target: Annotated[str | None, typer.Option(help="As for search; needed where the study's is not local.")] = None,
    artifacts: Annotated[str | None, typer.Option(help="Where this host reaches the run's artifacts.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Accept what the study names for options not given here, and pickles.")] = False,
) -> None:
    """Join a shared run from any host, and leave when it ends, or on SIGTERM.

    A study is data: what it names is loaded where an option here names it too, or with --trust.
    """
    flags = WorkerFlags(model, data, metric, target, artifacts, base=str(Path.cwd()), trust=trust)
    with LiveView(out) as view:
        run_worker(url, view, flags)


@app.command()
def proxy(
    storage: Annotated[str, typer.Argument(help="Database of shared runs, e.g. postgresql+psycopg://...", metavar="URL")],
    host: Annotated[str, typer.Option(help="Address to listen at; whoever reaches it can read and write the runs.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 13_000,
) -> None:
    """Let hundreds of workers share one process's connections to a database; needs the extra grpc."""
    said = "--storage {} takes the place of the database's URL for as long as this runs"
    serve_proxy(storage, host, port, lambda url: out.print(said.format(url), soft_wrap=True))


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show where a run stands; reads only, so it never disturbs the run."""
    value = run_status(run)
    if as_json:
        print(json.dumps(value, indent=2))
        return
    for name, shown in value.items():
        if name not in ("front", "last_event"):
            text = shown if not isinstance(shown, list) else "; ".join(map(str, shown)) or "none"
            out.print(f"{name.replace('_', ' ')}: {text}", markup=False)
    for point in value.get("front", []):
        out.print(f"front: trial {point['trial']}, {point['shown']} at {point['latency_ms']:.3f} ms", markup=False)


@app.command()
def front(run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="Print front.json.")] = False) -> None:
    """Show the front of a finished run."""
    result = open_result(run)
    if as_json:
        print(json.dumps(result.front, indent=2))
    else:
        out.print(front_table(result.front))


@app.command()
def plan(
    run: RunArgument,
    latency_ms: Annotated[float | None, typer.Option(help="Upper bound on the p50 of one batch (default: the run's own).")] = None,
) -> None:
    """Print the plan that a run's tables and trials predict to lose least within a budget; measures nothing."""
    print(json.dumps(predict_plan(run, latency_ms), indent=2))


@app.command()
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="New folder for the bundle.")],
    latency_ms: Annotated[float | None, typer.Option(help="The most accurate point within this bound.")] = None,
    trial: Annotated[int | None, typer.Option(help="The point of this trial.")] = None,
) -> None:
    """Export a point of the front as a bundle that needs onnxruntime and numpy alone."""
    if latency_ms is not None and trial is not None:
        raise ConfigError(f"--latency-ms or --trial may be given, not both, but got {latency_ms} and {trial}")
    _export(open_result(run), to, trial, latency_ms)


@app.command()
def cache(
    limit_mb: Annotated[float | None, typer.Option(help="Remove what was not used for longest until the rest takes at most this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what earlier runs left for later ones (findings, trained students, latencies), and remove what is too much."""
    root = cache_root()
    removed = [] if limit_mb is None else prune(root, int(limit_mb * 1e6))
    held = entries(root)
    kinds = {kind: [entry for entry in held if entry.kind == kind] for kind in sorted({entry.kind for entry in held})}
    value: dict[str, Any] = {
        "folder": str(root),
        "kinds": {kind: {"entries": len(of), "bytes": sum(entry.size_bytes for entry in of)} for kind, of in kinds.items()},
        "removed": len(removed),
    }
    if as_json:
        print(json.dumps(value, indent=2))
        return
    out.print(f"folder: {root}", markup=False, highlight=False)
    for kind, of in value["kinds"].items():
        out.print(f"{kind}: {of['entries']} entries, {of['bytes'] / 1e6:.1f} MB")
    if limit_mb is not None:
        out.print(f"removed: {len(removed)} entries, {sum(entry.size_bytes for entry in removed) / 1e6:.1f} MB")


@app.command()
def rerun(
    run: RunArgument,
    trial: Annotated[int, typer.Option(help="Trial of the run.")],
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate one trial of a run again, alone, and compare the figures with the recorded ones; the run is not changed."""
    value = rerun_trial(run, trial, trust=trust)
    if as_json:
        print(json.dumps(value, indent=2))
        return
    out.print(f"trial {value['trial']}, rung {value['rung']}, the same bytes: {'yes' if value['same_bytes'] else 'no'}")
    for name, figure in value["figures"].items():
        out.print(f"{name.replace('_', ' ')}: {figure['recorded']} recorded, {figure['again']} again", markup=False, highlight=False)


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", metavar="BUNDLE")]) -> None:
    """Check a bundle's hashes, its parity and its self-check."""
    checked = verify_bundle(bundle)
    out.print(
        f"verified {bundle}: sha256 {checked.sha256[:16]}, {checked.samples} samples, largest difference {checked.max_difference:.2g}"
    )
    for warning in checked.warnings:
        out.print(f"warning: {warning}", markup=False)


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="As for search.")],
    data: Annotated[str, typer.Option(help="As for search.")],
    threads: Annotated[int, typer.Option(help="Threads of the session.")] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs.")] = 50,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each layer of a model costs on this host, and what int8, half the channels or its removal would save there."""
    intake, split = load_and_trace(parse_config({"model": model, "data": data, "trust": trust}, "the command line"))
    found = profile_model(intake, split, threads=threads, runs=runs)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        out.print(profile_table(found.rows, found.sums))


@app.command()
def explain(
    path: Annotated[Path, typer.Argument(help="Folder of a run, or an ONNX file.", metavar="RUN|FILE.onnx")],
    trial: Annotated[int | None, typer.Option(help="Trial of the run.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="ONNX file to compare with (default: that of the run).")] = None,
    threads: ThreadsOption = None,
    runs: Annotated[int, typer.Option(help="Timed runs.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Say why a trial or an ONNX file is not faster: the causes, the milliseconds each costs, and what to change."""
    value = explain_path(path, trial=trial, baseline=baseline, threads=threads, runs=runs).to_json()
    if as_json:
        print(json.dumps(value, indent=2))
    else:
        out.print(explanation_view(value))


@app.command()
def probe(
    target: Annotated[str, typer.Option(help="local, or ssh://user@host[:port].")] = LOCAL,
    threads: Annotated[int, typer.Option(help="Threads of the sessions.")] = 1,
    refresh: Annotated[bool, typer.Option("--refresh", help="Probe again, whatever is known from earlier.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report.")] = False,
) -> None:
    """Find out what a target runs fast; takes about a minute once, and is kept for later searches."""
    open_target = opener(target)
    with LiveView(err) as view, closing(open_target(threads)) as opened:
        report = probe_target(opened, open_target, view.message, refresh=refresh).to_json()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        out.print(probe_table(report))


def main() -> None:
    """Run the command line; leaves with 0, 1 (failed) or 2 (bad input), and never shows a traceback for an expected error."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would tear the live view
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what goes wrong on a connection is raised, and said once
    keep_freed_memory()
    for known in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", known)
    try:
        app()
    except ParetopressError as error:
        err.print(f"error: {masked(error.message)}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            err.print(masked(error.hint), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full or read-only disk under the journal, which Optuna writes
        err.print(
            f"error: files must be readable and writable, but got {masked(str(error))}", style="bold red", markup=False, highlight=False
        )
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted; `paretopress resume RUN` goes on from here", style="bold")
        sys.exit(1)
    except Exception:  # a fault of this program: its traceback helps, but drivers quote the URL that they were given
        sys.stderr.write(masked(traceback.format_exc()))
        sys.exit(1)


def _process_age_s() -> float:
    """Return the seconds since this process was started: --minutes counts from the command, whose imports take seconds."""
    return min(max(time.time() - psutil.Process().create_time(), 0.0), _MOST_STARTING_S)


def _new_run(name: str) -> Path:
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def _merged(base: RunConfig | None, asked: dict[str, Any]) -> RunConfig:
    """Return the configuration with every option that was given put over it."""
    value: dict[str, Any] = base.to_json() if base is not None else {"base": str(Path.cwd())}
    named = [name for name in ("model", "data") if asked[name] is not None]
    if base is not None and len(named) == 1:
        raise ConfigError(f"beside a TOML file, --model and --data go together, but got --{named[0]} alone", "Give both, or neither.")
    if named:  # their paths start where the command was typed, not where the TOML file lies
        value["base"] = str(Path.cwd())
    one_of = {"budget": ("latency_ms", "speedup"), "time": ("minutes", "hours")}
    for name, given in asked.items():
        if isinstance(given, dict):
            options = {key: option for key, option in given.items() if option is not None}
            replaced = dict.fromkeys(one_of.get(name, ())) if options.keys() & set(one_of.get(name, ())) else {}
            value[name] = value.get(name, {}) | replaced | options
        elif given is not None:
            value[name] = given
    return parse_config(value, "the command line")


def _show_run(run: Path, go: Callable[[LiveView], Result]) -> Result:
    """Show the front of a run when it is over, also where no point of it is within every bound; that is raised then."""
    try:
        with LiveView(out) as view:
            result = go(view)
    except SearchFailedError:
        if (run / "front.json").is_file():
            _show(open_result(run))
        raise
    _show(result)
    return result


def _show(result: Result) -> None:
    out.print(front_table(result.front))
    out.print(f"front: {result.run / 'front.json'}  picture: {result.run / 'front.png'}", markup=False, highlight=False)


def _export(result: Result, to: Path, trial: int | None, latency_ms: float | None) -> None:
    started = time.monotonic()
    bundle = result.export(to, trial=trial, latency_ms=latency_ms)
    out.print(f"bundle: {bundle} (exported and verified in {time.monotonic() - started:.1f} s)", markup=False, highlight=False)
    out.print(f"it runs with onnxruntime and numpy alone: python {bundle / 'run.py'} --check", markup=False, highlight=False)
