"""`paretopress worker`: joins a shared run from any host, works on its trials and finalists, and leaves when they are done."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from paretopress.config import RunConfig, parse_config
from paretopress.errors import ForeignDataError, ParetopressError, TrustError, typed_line
from paretopress.report.live import Reporter
from paretopress.run.compatibility import demand_same
from paretopress.run.driver import open_artifacts, work_along
from paretopress.run.factory import PreparedRun, load_and_trace, make_pipeline, open_run_target, run_identity
from paretopress.run.handshake import adopt_run, published_config, published_identity
from paretopress.run.setup import space_for
from paretopress.run.state import RunState
from paretopress.search.storage.places import StudyPlace
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import RunFolder
from paretopress.system.user_factory import is_factory
from paretopress.targets.capabilities import capabilities_in
from paretopress.targets.probe.probe_report import probe_fingerprint

# the target that a study may name without having a worker connect anywhere
_LOCAL = "local"


@dataclass(frozen=True, slots=True)
class WorkerFlags:
    """The options of a worker's own user, as this host reaches what they name; None is not given.

    Attributes:
        base: the folder that relative paths in `model`, `data`, `metric` and `decoder` start from.
        trust: accept what the study names for the others, and read pickles.
    """

    model: str | None = None
    data: str | None = None
    metric: str | None = None
    target: str | None = None
    artifacts: str | None = None
    decoder: str | None = None
    base: str | None = None
    trust: bool = False


def own_config(published: Mapping[str, Any], place: StudyPlace, flags: WorkerFlags) -> RunConfig:
    """Return the configuration of a worker: the study's, with what `flags` name in its place.

    A study is data. The specs in it (model, data, a metric or a decoder that is a function, a target over SSH, the place of the artifacts)
    would have this host run code, connect or write where whoever writes to the database says; they are taken with `trust` alone.
    Raises: TrustError: the study names what `flags` do not. ConfigError: it holds no valid configuration.
    """
    study = parse_config({**published, "replay": None, "trust": flags.trust}, f"the study {place}")
    named = {
        "model": study.model,
        "data": study.data,
        "metric": study.metric.name if is_factory(study.metric.name) else None,
        "decoder": study.metric.decoder if study.metric.decoder is not None and is_factory(study.metric.decoder) else None,
        "target": study.target.spec if study.target.spec != _LOCAL else None,
        "artifacts": study.workers.artifacts,
    }
    missing = {name: spec for name, spec in named.items() if spec is not None and getattr(flags, name) is None}
    if missing and not flags.trust:
        raise TrustError(
            f"a worker loads what its own options name, but the study names {', '.join(f'{n}={s!r}' for n, s in missing.items())}",
            f"Add {' and '.join(f'--{name}' for name in missing)} as this host reaches them, or --trust if you trust all who can write to "
            "that database.",
        )
    ours = {name: getattr(flags, name) for name in ("model", "data") if getattr(flags, name) is not None}
    scoring = {"name": flags.metric, "decoder": flags.decoder}
    if ours or any(spec is not None for spec in scoring.values()):
        ours["base"] = flags.base
    artifacts = flags.artifacts if flags.artifacts is not None else study.workers.artifacts
    sections: dict[str, dict[str, Any]] = {
        "metric": {name: spec for name, spec in scoring.items() if spec is not None},
        "target": {} if flags.target is None else {"spec": flags.target},
        "workers": {"storage": place.url, "study": place.name, "artifacts": artifacts, "ray": None},
    }
    value = study.to_json()
    return parse_config(value | ours | {name: value[name] | section for name, section in sections.items()}, f"the study {place}")


def run_worker(url: str, reporter: Reporter, flags: WorkerFlags | None = None) -> None:
    """Work on the run at URL#NAME until it ends, or SIGTERM asks to leave: the trial in flight is then given back.

    Raises: ConfigError: the storage is out of reach. RunFolderError: there is no such run, or this worker differs from it. TrustError: it
        names what `flags` do not, see `own_config`. ForeignDataError: what it published cannot be read.
    """
    place = StudyPlace.parse(url)
    study = open_study(place)
    config = own_config(published_config(study), place, flags or WorkerFlags())
    artifacts = open_artifacts(config, place)
    reporter.message("reading model and data")
    intake, data = load_and_trace(config)
    with closing(open_run_target(config)) as target, tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        ours = run_identity(intake, data, config)
        target_now = {"target": probe_fingerprint(target.name, target.environment())}
        demand_same(published_identity(study), ours | target_now, "a worker")
        folder = adopt_run(study, artifacts, Path(temporary, "run"), config)
        state = _published_state(folder)
        capabilities = capabilities_in(state.environment)
        space = space_for(intake.graph, config, capabilities)
        pipeline = make_pipeline(intake, data, target, folder, config, capabilities, ours=ours)
        with _leave_on_sigterm():
            work_along(PreparedRun(folder, config, state, pipeline, space), reporter)


def _published_state(folder: RunFolder) -> RunState:
    try:
        return RunState.from_json(folder.read(folder.state))
    except ParetopressError:
        raise
    except Exception as error:  # whatever a reader meets in JSON of another shape
        raise ForeignDataError(f"a study must publish the findings of a set-up, but got {typed_line(error)}") from error


class LeaveRequested(SystemExit):
    """SIGTERM was received."""


@contextmanager
def _leave_on_sigterm() -> Iterator[None]:
    def leave(_: int, __: FrameType | None) -> None:
        raise LeaveRequested(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
