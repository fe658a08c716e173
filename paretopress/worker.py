"""`paretopress worker`: joins a shared run from any host, works on its trials and finalists, and leaves when they are done."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from paretopress.config import parse_config
from paretopress.report.live import Reporter
from paretopress.run_parts import Prepared, load_and_trace, make_pipeline, open_run_target, run_identity
from paretopress.run_search import open_shelf, work_along
from paretopress.same_run import demand_same
from paretopress.search.journal import open_study
from paretopress.search.places import StudyPlace
from paretopress.setup_run import RunState, space_for
from paretopress.shared_run import published_config, published_identity, taken_over
from paretopress.targets.capabilities import capabilities_in
from paretopress.targets.probe_report import probe_fingerprint


def run_worker(url: str, reporter: Reporter, *, overrides: dict[str, Any] | None = None, artifacts: str | None = None) -> None:
    """Work on the run at URL#NAME until it ends, or SIGTERM asks to leave: the trial in flight is then given back.

    Args:
        overrides: model, data, base and trust as this host reaches them, over the run's configuration. artifacts: the same for these.
    Raises: ConfigError: the storage is out of reach. RunFolderError: there is no such run, or this worker differs from it.
    """
    place = StudyPlace.parse(url)
    study = open_study(place)
    value = published_config(study) | (overrides or {})
    shared = {"storage": place.url, "study": place.name} | ({"artifacts": artifacts} if artifacts is not None else {})
    config = parse_config(value | {"workers": value["workers"] | shared}, str(place))
    shelf = open_shelf(config, place)
    reporter.message("reading model and data")
    intake, data = load_and_trace(config)
    with closing(open_run_target(config)) as target, tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        ours = run_identity(intake, data, config)
        target_now = {"target": probe_fingerprint(target.name, target.environment())}
        demand_same(published_identity(study), ours | target_now, "a worker")
        folder = taken_over(study, shelf, Path(temporary, "run"), config.to_json())
        state = RunState.from_json(folder.read(folder.state))
        capabilities = capabilities_in(state.environment)
        space = space_for(intake.graph, config, capabilities)
        pipeline = make_pipeline(intake, data, target, folder, config, capabilities, ours=ours)
        with _leaving_on_sigterm():
            work_along(Prepared(folder, config, state, pipeline, space), reporter)


class Leaving(SystemExit):
    """SIGTERM was received."""


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    def leave(_: int, __: FrameType | None) -> None:
        raise Leaving(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
