"""Which stage of a run a process is in, read off its stack while it is stopped."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import paretopress
from paretopress.run.factory import load_and_trace
from paretopress.run.front_files import write_front
from paretopress.run.setup import find_state
from paretopress.search.study.context import SearchContext
from paretopress.search.study.create import create_study
from paretopress.search.study.trial_phase import TrialPhase
from paretopress.trial.pipeline import Pipeline

PACKAGE = Path(paretopress.__file__).parent
_AGAIN, _TRIALS = SearchContext.repeat_a_latency.__qualname__, TrialPhase.work.__qualname__
# what functions of the search's own process stand for, by their qualified names; the first of these that is on the stack counts
SEARCH = {
    load_and_trace.__qualname__: "read model and data",
    Pipeline.measure_baseline.__qualname__: "measure the baseline",
    find_state.__qualname__: "set-up",
    create_study.__qualname__: "open the study",
    TrialPhase._ask.__qualname__: "ask",
    TrialPhase._record.__qualname__: "record",
    _AGAIN: "latency again",
    write_front.__qualname__: "score and write the front",
}


def stage_of(search: int, evaluator: int | None) -> str:
    """Return the stage that a stopped search is in: that of its evaluating process where it waits for one."""
    found = None if evaluator is None else _evaluator_stage(evaluator)
    names = [frame["name"] for frame in _frames(search)]
    if found is not None:
        return "latency again" if _AGAIN in names else found
    otherwise = "start of an evaluator" if _TRIALS in names else "start"
    return next((stage for name, stage in SEARCH.items() if name in names), otherwise)


def _evaluator_stage(pid: int) -> str | None:
    """Return the name given to the stopwatch around what the process is at."""
    for frame in _frames(pid):
        path = Path(frame["filename"])
        if path.is_relative_to(PACKAGE):
            for first, last, stage in _stages(path):
                if first <= frame["line"] <= last:
                    return stage
    return None


def _frames(pid: int) -> list[dict[str, object]]:
    command = [Path(sys.executable).with_name("py-spy"), "dump", "--nonblocking", "--json", "--pid", str(pid)]
    dump = subprocess.run(command, capture_output=True, check=False)
    if dump.returncode:  # it ended, or has not yet begun to run Python
        return []
    return [frame for thread in json.loads(dump.stdout) for frame in thread["frames"]]


@cache
def _stages(path: Path) -> list[tuple[int, int, str]]:
    """Return (first line, last line, stage) of the blocks of a file that a stopwatch is held at, the innermost first."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "stage":
                    found.append((node.lineno, node.end_lineno or node.lineno, ast.literal_eval(call.args[0])))
    return sorted(found, key=lambda block: block[1] - block[0])
