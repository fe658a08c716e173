"""The subprocess that evaluates plans: it reads calls from its standard input and writes replies to its standard output.

    python -m paretopress.run.evaluator_main RUN THREADS [--trust]

So the death of a trial (no memory, a fault in native code, a loader that hangs) is not the death of the study. It ends when its input does:
when the search is gone, nobody waits for what it does.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from paretopress.core.outcome import Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import ParetopressError
from paretopress.run.factory import load_and_trace, make_evaluator, make_pipeline, open_run_target
from paretopress.run.lookup import stored_config
from paretopress.run.state import RunState
from paretopress.system.allocator import keep_freed_memory
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.system.run_folder import open_run_folder
from paretopress.system.secret_masking import masked
from paretopress.targets.capabilities import capabilities_in
from paretopress.targets.wire_protocol import Frame, read_frame, write_frame
from paretopress.trial.evaluator import PlanEvaluator
from paretopress.trial.subprocess_evaluator import TRUST

# Where memory runs out, Linux ends the process with the highest score: this one, which can be replaced, rather than the search.
_EXPENDABLE = "800"


def answer(evaluate: PlanEvaluator, head: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to one call: {"outcome": ...}, {"latency": ...} or {"error": ...}; "left_s" of a call is until the run closes."""
    left_s = head.get("left_s")
    until = NO_DEADLINE if left_s is None else Deadline.after(float(left_s))
    evaluate.keep_within(lambda: until.left_s)
    try:
        if head["call"] == "evaluate":
            plan, number, share = Plan.from_json(head["plan"]), int(head["number"]), float(head["share"])
            outcome = evaluate.recover_in_part(plan, number, share) if share != 1.0 else evaluate(plan, Rung(head["rung"]), number)
            return {"outcome": outcome.to_json()}
        return {"latency": evaluate.latency_again(Outcome.from_json(head["outcome"])).to_json()}
    except Exception as error:  # whatever a trial meets is said, and costs that trial alone
        return {"error": described(error)}


def described(error: Exception) -> dict[str, str]:
    """Return an error as JSON: its type's name, message and hint, without the passwords of URLs: it is written to the study."""
    message, hint = (error.message, error.hint) if isinstance(error, ParetopressError) else (str(error), "")
    return {"type": type(error).__name__, "message": masked(message), "hint": masked(hint)}


def serve(run: Path, threads: int, calls: Iterator[Frame], replies: BinaryIO, *, trust: bool = False) -> None:
    """Answer calls until they end; the first reply says that the process is ready, or why it cannot be.

    `trust` is what the search was told on its command line; what the run's folder says of it does not count.
    """

    def reply(head: dict[str, Any]) -> None:
        write_frame(replies.write, head)
        replies.flush()

    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        folder = open_run_folder(run)
        config = stored_config(folder).model_copy(update={"trust": trust})
        state = RunState.from_json(folder.read(folder.state))
        intake, data = load_and_trace(config)
        target = open_run_target(config)
    except Exception as error:
        reply({"error": described(error)})
        return
    with closing(target):
        said: list[str] = []
        try:
            pipeline = make_pipeline(intake, data, target, folder, config, capabilities_in(state.environment), threads=threads)
            state.demand_same(pipeline.identity, "a process that evaluates plans")
            evaluate = make_evaluator(pipeline, config, state, threads=threads, say=said.append)
        except Exception as error:
            reply({"error": described(error)})
            return
        reply({"ready": True})
        for head, _ in calls:
            found = answer(evaluate, head)
            reply(found | {"said": said.copy()})
            said.clear()


def read_calls(source: BinaryIO) -> Iterator[Frame]:
    """Yield calls as they come. A thread reads them, so that the end of the search ends this process in the middle of its work."""
    waiting: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def read() -> None:
        while (frame := read_frame(source)) is not None:
            waiting.put(frame)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def main() -> None:
    """Serve over the standard streams; what the user's code prints goes to standard error."""
    with suppress(OSError):  # not Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        run, threads, *flags = sys.argv[1:]
        serve(Path(run), int(threads), read_calls(sys.stdin.buffer), replies, trust=TRUST in flags)


if __name__ == "__main__":
    main()
