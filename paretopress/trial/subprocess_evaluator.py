"""Evaluate plans in subprocesses: one that dies or hangs costs the trial it worked on, and is replaced."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import OutOfTimeError, ParetopressError, RunError, WorkerDiedError, error_named
from paretopress.targets.wire_protocol import read_frame, write_frame

# A process must be ready, and answer a call, within so many seconds, or within so many times the slowest answer of its kind; with so many
# times longer as the training that was asked for is expected to take.
_READY_S, _LEAST_PATIENCE_S, _PATIENCE_FACTOR, _TRAINING_FACTOR = 900.0, 600.0, 10.0, 4.0
_END_S = 5.0
TRUST = "--trust"
# a plan that is evaluated at the very end of a run still gets so long
_LEAST_LEFT_S = 2.0


def waiting_asleep(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which OpenMP's threads sleep while they wait for one another, unless it says otherwise.

    They spin by default, on cores that another process could use: a step of a small residual network with two threads on two cores took
    118 ms, 374 ms beside one busy process and 424 ms beside two; with sleeping threads 127, 230 and 232 ms.
    """
    return {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", **environment}


class EvaluatorProcess:
    """One process; `ask` starts it where it is not alive. `log` takes its standard error."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    @property
    def pid(self) -> int | None:
        """The process's number, None where it is not running."""
        return None if self._process is None else self._process.pid

    def ask(self, head: Mapping[str, Any], patience_s: float, ready_s: float = _READY_S) -> dict[str, Any]:
        """Return the reply; where the process is started for it, that may take `ready_s`.

        Raises: WorkerDiedError: the process ended, or was ended because it did not answer in time. ParetopressError: what the call met.
        """
        started = time.monotonic()
        if self._process is None:
            self._start(min(_READY_S, max(ready_s, _LEAST_LEFT_S)))
            if "left_s" in head:
                head = {**head, "left_s": head["left_s"] - (time.monotonic() - started)}
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin.write, head)
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        return self._reply(patience_s)

    def _start(self, ready_s: float) -> None:
        replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._replies = replies
        with self._log.open("ab") as log:
            # a session of its own: Ctrl-C reaches the search alone, and what the process starts ends with it
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=waiting_asleep(os.environ),
            )
        assert self._process.stdout is not None
        threading.Thread(target=_read, args=(self._process.stdout, replies), daemon=True).start()
        try:
            self._reply(ready_s)
        except ParetopressError:
            self.close()
            raise

    def _reply(self, patience_s: float) -> dict[str, Any]:
        try:
            reply = self._replies.get(timeout=patience_s)
        except queue.Empty:
            self.close()
            raise WorkerDiedError(f"a trial must answer within {patience_s:.0f} s, but it hung; its process was ended") from None
        if reply is None:
            raise self._died()
        if "error" in reply:
            raise revived(reply["error"])
        return reply

    def _died(self) -> WorkerDiedError:
        process = self._process
        if process is None:  # another thread ended it, with the run
            return WorkerDiedError("the process of a trial must live through it, but the run ended it")
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            status = 0
        self.close()
        if status < 0:
            name = signal.Signals(-status).name
            hint = "The system ends processes so when memory runs out: `dmesg` tells." if -status == signal.SIGKILL else ""
            return WorkerDiedError(f"the process of a trial must live through it, but {name} ended it", hint)
        return WorkerDiedError(f"the process of a trial must live through it, but it left with {status}: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return "nothing said"
        return lines[-1] if lines else "nothing said"

    def close(self) -> None:
        """End the process and all that it started, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _read(source: BinaryIO, replies: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with contextlib.suppress(OSError, ValueError):  # the stream was closed meanwhile
        while (frame := read_frame(source)) is not None:
            replies.put(frame[0])
    replies.put(None)


def revived(error: Mapping[str, str]) -> ParetopressError:
    """Return an error that another process described: of its own type where that is one of this package, else a RunError."""
    kind = error_named(error["type"])
    if kind is not None:
        return kind(error["message"], error["hint"])
    return RunError(f"{error['type']}: {error['message']}")


@dataclass(slots=True)
class SubprocessEvaluator:
    """`evaluate` and `measure_again` of a search, for any number of its threads: each has a process of its own.

    `start` makes the process of a thread; `left_s` returns the seconds until the run must end. `say` is told what a process has to tell.
    `training_s` returns the seconds that the training of a rung is expected to take.
    """

    start: Callable[[], EvaluatorProcess]
    left_s: Callable[[], float]
    say: Callable[[str], None] = lambda _: None
    training_s: Callable[[Rung], float] = lambda _: 0.0
    _processes: dict[int, EvaluatorProcess] = field(default_factory=dict)
    _slowest_s: dict[str, float] = field(default_factory=dict)

    def __call__(self, plan: Plan, rung: Rung, number: int) -> Outcome:
        """Return the outcome of a plan at a rung; see `PlanEvaluator`."""
        return self._evaluated(plan, rung, number, 1.0)

    def recover_in_part(self, plan: Plan, number: int, share: float) -> Outcome:
        """Return the outcome of a full recovery with `share` times its planned steps."""
        return self._evaluated(plan, Rung.FINAL, number, share)

    def _evaluated(self, plan: Plan, rung: Rung, number: int, share: float) -> Outcome:
        head = {"call": "evaluate", "plan": plan.to_json(), "rung": int(rung), "number": number, "share": share}
        reply = self._ask(f"rung {int(rung)}", head, max(self.left_s(), _LEAST_LEFT_S), share, share * self.training_s(rung))
        return Outcome.from_json(reply["outcome"])

    def latency_again(self, outcome: Outcome) -> Latency:
        """Return the latency of a candidate's file, measured once more."""
        return Latency.from_json(self._ask("latency", {"call": "latency", "outcome": outcome.to_json()}, math.inf)["latency"])

    def keep_within(self, left_s: Callable[[], float]) -> None:
        """Set the function that returns the seconds until the run has to close."""
        self.left_s = left_s

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.close()

    def _ask(self, kind: str, head: Mapping[str, Any], left_s: float, share: float = 1.0, training_s: float = 0.0) -> dict[str, Any]:
        process = self._processes.setdefault(threading.get_ident(), self.start())
        head = {**head, "left_s": left_s} if math.isfinite(left_s) else head
        least_s = _LEAST_PATIENCE_S + _TRAINING_FACTOR * training_s
        patience_s = max(least_s, _PATIENCE_FACTOR * max(share, 1.0) * self._slowest_s.get(kind, 0.0))
        started = time.monotonic()
        try:
            reply = process.ask(head, min(patience_s, left_s), left_s)
        except WorkerDiedError as error:
            if time.monotonic() - started >= left_s:
                raise OutOfTimeError(f"a trial must end with the run, but was still at {kind} and was cut off") from error
            raise
        self._slowest_s[kind] = max(self._slowest_s.get(kind, 0.0), (time.monotonic() - started) / max(share, 1.0))
        for line in reply.pop("said", ()):
            self.say(line)
        return reply


def evaluator_command(run: Path, threads: int, *, trust: bool = False) -> list[str]:
    """Return the command of an evaluating process; `trust` is what this one was told by its user."""
    return [sys.executable, "-m", "paretopress.run.evaluator_main", str(run.resolve()), str(threads), *([TRUST] if trust else [])]
