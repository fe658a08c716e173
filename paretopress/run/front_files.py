"""Score the front of a run on test data, once, and write front.json and front.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretopress.core.outcome import Outcome
from paretopress.errors import RunError, SearchFailedError
from paretopress.report.front import RunFacts, SearchFacts, front_json
from paretopress.report.plot import write_front_png
from paretopress.run.artifacts import SharedFiles
from paretopress.run.factory import PreparedRun
from paretopress.search.candidates import Bounds, Candidate, best
from paretopress.search.study.closing import FinalReport, final_report
from paretopress.search.study.event_format import describe
from paretopress.search.study.nearest import miss_sentence
from paretopress.search.study.search import Search
from paretopress.system.atomic_files import write_json
from paretopress.system.run_folder import RunFolder
from paretopress.system.stage_timer import StageTimer


def write_front(run: PreparedRun, search: Search) -> dict[str, Any]:
    """Score the front on test data, once, write the result, and return it.

    A point whose file cannot be had, or has no score, is left out; see `final_report`.
    Raises: SearchFailedError: no candidate is within every bound; the result is written all the same, with the nearest.
    """
    folder, state, pipeline = run.folder, run.state, run.pipeline
    candidates, watch = search.candidates(), StageTimer()
    known = _known_test_accuracies(folder)

    def have_file(outcome: Outcome) -> None:
        if isinstance(search.evaluate, SharedFiles):
            search.evaluate.fetch(outcome)  # other hosts made a part of the front
        pipeline.demand_measured(outcome)

    def score(outcomes: Sequence[Outcome]) -> Mapping[str, float | RunError]:
        paths = {outcome.onnx_sha256: outcome.onnx_path for outcome in outcomes if outcome.onnx_sha256 not in known}
        scores = pipeline.test_accuracies(list(paths.values()))
        return known | {sha256: scores[path] for sha256, path in paths.items()}

    with watch.stage("accuracy"):
        found = final_report(candidates, search.bounds, state.baseline, have_file, score)
    chosen = best(found.points, search.bounds, search.val_images)
    facts = SearchFacts(
        candidates, search.counts(), search.agreements(), search.early_stop(), search.times.elapsed_s, search.seconds(watch.seconds)
    )
    made_with = RunFacts(run.config.seed, state.environment, pipeline.data.sizes(), state.cut)
    value = front_json(found, chosen.number if chosen else None, search.bounds, facts, made_with)
    write_json(folder.front, value)
    write_front_png(value, folder.picture)
    if chosen is None:
        raise _nothing_feasible(candidates, found, search.bounds)
    return value


def _known_test_accuracies(folder: RunFolder) -> dict[str, float]:
    """Return sha256 -> test accuracy of what an earlier end of this run scored already."""
    if not folder.front.is_file():
        return {}
    value = folder.read(folder.front)
    rows = (value["baseline"], *value["points"], *value.get("nearest", ()))
    return {row["onnx"]["sha256"]: row["test_accuracy"] for row in rows if row["test_accuracy"] is not None}


def _nothing_feasible(candidates: Sequence[Candidate], found: FinalReport, bounds: Bounds) -> SearchFailedError:
    nearest = found.nearest
    if not nearest and found.lost:
        return SearchFailedError(
            f"a front needs the files of its points, but got none of trials {', '.join(map(str, found.lost))}",
            "Bring the files back, or the store that holds them, then `paretopress resume`.",
        )
    if nearest:
        return SearchFailedError(
            f"no model is within every bound; the nearest is {miss_sentence(nearest[0], bounds)}",
            "Widen the bound or give the search more time; "
            f"`paretopress export RUN --to FOLDER --trial {nearest[0].number}` ships it as it is.",
        )
    if not candidates:
        return SearchFailedError("a front needs a completed trial, but none was completed", "`paretopress status RUN` shows the reasons.")
    fastest = min(candidates, key=lambda c: c.outcome.latency.latency_ms)
    return SearchFailedError(
        f"no plan met the budget of {bounds.limit_ms:.3f} ms; the fastest reached {describe(fastest.outcome, bounds)} before any training",
        "Widen the budget, or give the search more time.",
    )
