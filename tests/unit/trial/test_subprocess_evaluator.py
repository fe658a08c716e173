"""Processes that evaluate plans, played by small programs: what is said when one dies, hangs or chatters."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from paretopress.core.outcome import Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import LatencyError, OutOfTimeError, RunError, WorkerDiedError
from paretopress.trial import subprocess_evaluator
from paretopress.trial.subprocess_evaluator import EvaluatorProcess, SubprocessEvaluator, revived, waiting_asleep

LATENCY = Latency(1.0, (0.9, 1.1), 0.5, (0.45, 0.55), 1.0, 1.1, 2.0, 8, 100, 0.1)
OUTCOME = Outcome(Rung.SHORT, 88.0, 100, 10, LATENCY, 1_000, "trials/0001/model.onnx", "0" * 64)
HEAD = """
import json, os, signal, sys, time
from pathlib import Path
def reply(**head):
    sys.stdout.buffer.write(json.dumps({**head, "payload_bytes": 0}).encode() + b"\\n")
    sys.stdout.buffer.flush()
reply(ready=True)
for line in sys.stdin:
    call = json.loads(line)
"""


def process(tmp_path: Path, body: str) -> EvaluatorProcess:
    program = HEAD + "".join(f"    {line}\n" for line in body.strip().splitlines())
    return EvaluatorProcess([sys.executable, "-c", program], tmp_path / "workers.log")


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_ask_returns_the_reply_when_the_process_answers(tmp_path: Path) -> None:
    asked = process(tmp_path, "reply(double=2 * call['value'], pid=os.getpid())")
    first, second = (asked.ask({"value": value}, 10.0) for value in (3, 4))
    assert (first["double"], second["double"]) == (6, 8)
    assert first["pid"] == second["pid"] == asked.pid
    asked.close()
    assert gone(first["pid"])
    assert asked.pid is None


def test_ask_names_the_signal_when_the_process_was_killed(tmp_path: Path) -> None:
    asked = process(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if call['value'] else reply(pid=os.getpid())")
    first = asked.ask({"value": 0}, 10.0)["pid"]
    with pytest.raises(WorkerDiedError, match="SIGKILL ended it") as caught:
        asked.ask({"value": 1}, 10.0)
    assert "memory" in caught.value.hint
    assert asked.ask({"value": 0}, 10.0)["pid"] != first
    asked.close()


def test_ask_repeats_the_last_words_when_the_process_left(tmp_path: Path) -> None:
    asked = process(tmp_path, "print('no such library', file=sys.stderr)\nsys.exit(3)")
    with pytest.raises(WorkerDiedError, match="left with 3: no such library"):
        asked.ask({}, 10.0)


def test_ask_ends_the_process_and_what_it_started_when_it_hangs(tmp_path: Path) -> None:
    child = tmp_path / "child"
    asked = process(
        tmp_path,
        f"""
import subprocess
started = subprocess.Popen(["sleep", "60"])
Path({str(child)!r}).write_text(str(started.pid))
time.sleep(60)
""",
    )
    with pytest.raises(WorkerDiedError, match="within 1 s, but it hung"):
        asked.ask({}, 1.0)
    assert gone(int(child.read_text()))


def test_ask_raises_the_error_of_the_call_when_it_was_described(tmp_path: Path) -> None:
    asked = process(tmp_path, "reply(error={'type': 'LatencyError', 'message': 'a session must run', 'hint': 'Look.'})")
    with pytest.raises(LatencyError, match="a session must run") as caught:
        asked.ask({}, 10.0)
    assert caught.value.hint == "Look."
    asked.close()


def test_revived_is_a_run_error_when_the_type_is_foreign() -> None:
    for kind in ("ZeroDivisionError", "annotations", "Path"):
        error = revived({"type": kind, "message": "division by zero", "hint": ""})
        assert type(error) is RunError
        assert str(error) == f"{kind}: division by zero"


def test_isolation_passes_plans_on_and_outcomes_back(tmp_path: Path) -> None:
    body = f"""
outcome = json.loads({json.dumps(OUTCOME.to_json())!r})
asked = call["call"] == "evaluate"
assert call["plan"]["kept"] == {{"a": 8}} if asked else call["outcome"] == outcome
notes = [str(call["share"]), str(call["number"])] if asked else []
reply(outcome=outcome | {{"rung": call["rung"], "notes": notes}}) if asked else reply(latency=outcome["latency"])
"""
    evaluate = SubprocessEvaluator(lambda: process(tmp_path, body), lambda: 1e9)
    plan = Plan(kept={"a": 8})
    try:
        whole, part = evaluate(plan, Rung.LONG, 7), evaluate.recover_in_part(plan, 7, 0.5)
        assert (whole.rung, whole.notes) == (Rung.LONG, ("1.0", "7"))
        assert (part.rung, part.notes) == (Rung.FINAL, ("0.5", "7"))
        assert evaluate.latency_again(OUTCOME) == LATENCY
    finally:
        evaluate.close()


def test_isolation_says_that_the_time_is_over_when_it_cuts_a_trial_off(tmp_path: Path) -> None:
    evaluate = SubprocessEvaluator(lambda: process(tmp_path, "time.sleep(60)"), lambda: 0.5)
    with pytest.raises(OutOfTimeError, match="was cut off"):
        evaluate(Plan(), Rung.SHORT, 1)
    evaluate.close()


def test_a_process_has_the_time_that_its_training_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_evaluator, "_LEAST_PATIENCE_S", 0.5)
    body = f"time.sleep(1.5); reply(outcome=json.loads({json.dumps(OUTCOME.to_json())!r}))"
    for training_s, share in ((1.0, 1.0), (0.25, 4.0), (0.0, 1.0)):
        evaluate = SubprocessEvaluator(lambda: process(tmp_path, body), lambda: 1e9, training_s=lambda _, s=training_s: s)
        try:
            if training_s:
                assert evaluate.recover_in_part(Plan(), 7, share).rung == OUTCOME.rung
            else:
                with pytest.raises(WorkerDiedError, match="it hung"):
                    evaluate.recover_in_part(Plan(), 7, share)
        finally:
            evaluate.close()


def test_subprocess_evaluator_tells_the_time_left_and_passes_lines_on(tmp_path: Path) -> None:
    body = f"""
outcome = json.loads({json.dumps(OUTCOME.to_json())!r})
reply(outcome=outcome | {{"notes": [str(call.get("left_s"))]}}, said=["training goes on with 1 of 2 threads"])
"""
    said: list[str] = []
    evaluate = SubprocessEvaluator(lambda: process(tmp_path, body), lambda: 500.0, said.append)
    try:
        assert 400.0 < float(evaluate(Plan(), Rung.SHORT, 1).notes[0]) < 500.0  # less what the start of the process took
        evaluate.keep_within(lambda: 300.0)
        assert evaluate(Plan(), Rung.SHORT, 2).notes == ("300.0",)
        evaluate.keep_within(lambda: math.inf)
        assert evaluate(Plan(), Rung.SHORT, 3).notes == ("None",)
        assert said == ["training goes on with 1 of 2 threads"] * 3
    finally:
        evaluate.close()


def test_processes_wait_asleep_unless_their_environment_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    asked = process(tmp_path, "reply(policy=os.environ.get('OMP_WAIT_POLICY'))")
    assert asked.ask({}, 10.0)["policy"] == "passive"
    asked.close()
    assert "OMP_WAIT_POLICY" not in os.environ
    assert waiting_asleep({"OMP_WAIT_POLICY": "active"})["OMP_WAIT_POLICY"] == "active"
