"""What can go wrong in a night, done on purpose; after each fault the run goes on or is resumed, and is checked against what it was before.

    pip install py-spy
    python benchmarks/faults.py [--kills 30] [--only NAME ...]

A small network and small searches, typed as a user types them. Checked after every fault: what was completed before is there unchanged;
the front made anew from the study is the one reported; every file of the front has its hash; no process of the run is left; no
half-written folder is left. Thirty kills come at random instants; the stage each met is read off the stopped process's stack, and further
kills are aimed at the stages that none had met. Writes results/faults.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from loopback_database import Database, running_database
from optuna.trial import TrialState
from results_file import Headline, write_result
from stages import stage_of

from paretopress.run.lookup import stored_config, study_place
from paretopress.run.state import RunState
from paretopress.search.candidates import front
from paretopress.search.storage.records import OUTCOME, PLAN, WORKER, Records
from paretopress.search.storage.studies import open_study
from paretopress.system.run_folder import RunFolder

USER = Path(__file__).with_name("faulty_user.py")
CONFIG = """
schema = 1
model = "user.py:model"
data = "user.py:data"
[budget]
speedup = 1.05
[time]
trials = {trials}
finalists = 2
stop_early = false
[recovery]
learning_rate = 0.01
short_steps = {steps}
final_steps = {steps}
batch_size = 8
[target]
probe = false
[space]
channel_step = 16
[disk]
cache_mb = 0
[workers]
grace_s = 4
"""
# stages that the kills have to meet at least once
STAGES = (
    "read model and data", "set-up", "compress", "export", "quantise", "latency", "reconstruct", "recover", "accuracy", "ask or record",
    "latency again", "score and write the front",
)  # fmt: skip
MOST_RUNS, TIMEOUT_S = 30, 600.0
Trials = dict[int, tuple[object, ...]]
Found = dict[str, object]


class Run:
    """One run in a folder of its own."""

    def __init__(self, where: Path, trials: int = 6, steps: int = 10, marker: str = "", path: Path | None = None) -> None:
        """Write its configuration; `path` is the checkout that its processes come from, None for this one."""
        where.mkdir(parents=True)
        self.where, self.folder = where, RunFolder(where / "run")
        self._environment = None if path is None else os.environ | {"PYTHONPATH": str(path)}
        shutil.copy(USER, where / "user.py")
        (where / "run.toml").write_text(CONFIG.format(trials=trials, steps=steps))
        if marker:
            (where / marker).write_text("")

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "paretopress", *map(str, arguments)]
        options = {"cwd": self.where, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self._environment, **options)

    def begin(self, *options: object) -> subprocess.Popen[str]:
        """Start the search, or go on with it."""
        ready = self.folder.state.is_file()
        if not ready:  # as a user does whose search died while it was prepared
            shutil.rmtree(self.folder.root, ignore_errors=True)
        return self.start("resume", "run") if ready else self.start("search", "run.toml", "--run", "run", *options)

    def finish(self) -> str:
        """Go on to the end; return what was said."""
        return ended(self.begin(), 0)

    def trials(self) -> Trials:
        """Return what was completed so far."""
        if not self.folder.config.is_file():
            return {}
        place = study_place(self.folder)
        if isinstance(place, Path) and not place.is_file():
            return {}
        done = open_study(place).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {t.number: (json.dumps(t.user_attrs.get(PLAN)), json.dumps(t.user_attrs.get(OUTCOME)), *t.values) for t in done}

    def wait_for(self, trials: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many trials were completed."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.trials()) < trials:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the run {self.where} ended before it had {trials} trials: {process.communicate()[0]}")
            time.sleep(0.3)

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the run."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd", "status"]):
            words, cwd = process.info["cmdline"] or [], process.info["cwd"] or ""
            if process.info["status"] != psutil.STATUS_ZOMBIE and "paretopress" in " ".join(words) and cwd.startswith(str(self.where)):
                found.append(process)
        return found

    def evaluator(self) -> int | None:
        """Return the number of the evaluating process."""
        return next((p.pid for p in self.processes() if "paretopress.run.evaluator_main" in p.info["cmdline"]), None)

    def by_worker(self) -> dict[str, int]:
        """Return worker -> trials."""
        trials = open_study(study_place(self.folder)).get_trials(deepcopy=False)
        return dict(Counter(t.user_attrs[WORKER] for t in trials if WORKER in t.user_attrs))

    def found(self, before: Trials) -> Found:
        """Return how many trials there were before the fault, and what is not as it must be."""
        return {"completed_before": len(before), "wrong": self.wrong(before)}

    def wrong(self, before: Trials) -> list[str]:
        """Return what is not as it must be after the run has ended."""
        after, said = self.trials(), []
        said += [f"trial {n} is another" for n, value in before.items() if after.get(n) != value]
        said += checked_end(self.folder)
        deadline = time.monotonic() + 10.0
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        said += [f"{' '.join(p.cmdline())} is left" for p in self.processes()]
        said += [f"{path.name} is left" for path in self.folder.root.rglob(".*.part")]
        records = Records(open_study(study_place(self.folder)))
        counted = len(records.durations())  # completed, or failed for good; not what was in flight and tried again
        if counted != stored_config(self.folder).limits().trials:
            said.append(f"{counted} trials count")
        return said


def checked_end(folder: RunFolder) -> list[str]:
    """Return what is wrong with the front of a run that has ended: made anew from the study it must be the same, its files as hashed."""
    state, value = RunState.from_json(folder.read(folder.state)), folder.read(folder.front)
    records = Records(open_study(study_place(folder)))
    anew = [(c.number, c.outcome.latency.latency_ms) for c in front(records.candidates(), state.bounds(stored_config(folder)))]
    wrong = []
    if anew != [(point["trial"], point["latency_ms"]) for point in value["points"]] or not anew:
        wrong.append("the front made anew is another")
    for point in value["points"]:
        path = folder.root / point["onnx"]["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != point["onnx"]["sha256"]:
            wrong.append(f"the file of trial {point['trial']} is another")
    return wrong


def ended(process: subprocess.Popen[str], code: int | None) -> str:
    """Return what a process said, which must have ended with `code`."""
    said = process.communicate(timeout=TIMEOUT_S)[0]
    if code is not None and process.returncode != code:
        raise SystemExit(f"{process.args} ended with {process.returncode}, not {code}:\n{said}")
    return said


def kills(folder: Path, count: int, write: Callable[[list[dict[str, object]]], object]) -> list[dict[str, object]]:
    """Kill searches at random instants, then where no kill has been yet, until every stage was met; return a row per kill.

    `write` is given the rows after every kill.
    """
    rng, rows, runs = random.Random(0), [], [Run(folder / "0", trials=12)]
    before: Trials = {}
    while len(runs) <= MOST_RUNS and (len(rows) < count or missing(rows)):
        run, process = runs[-1], runs[-1].begin()
        at_random = len(rows) < count
        stage = caught(run, process, rng, None if at_random else missing(rows), rng.uniform(0.5, 20.0) if at_random else 0.0)
        if stage is None:  # it came to its end
            ended(process, 0)
            rows[-1]["wrong"] += run.wrong(before)
            runs.append(Run(folder / str(len(runs)), trials=12))
            before = {}
            continue
        after = run.trials()
        wrong = [f"trial {n} is another" for n, value in before.items() if after.get(n) != value]
        rows.append({"fault": "kill -9", "stage": stage, "at_random": at_random, "completed_before": len(before), "wrong": wrong})
        print(rows[-1], flush=True)
        write(rows)
        before = after
    runs[-1].finish()
    rows[-1]["wrong"] += runs[-1].wrong(before)
    return rows


def missing(rows: list[dict[str, object]]) -> set[str]:
    """Return the stages that no kill has met."""
    return set(STAGES) - {row["stage"] for row in rows}


def caught(run: Run, process: subprocess.Popen[str], rng: random.Random, wanted: set[str] | None, after_s: float) -> str | None:
    """Kill a search after so many seconds, or then as soon as it is found in a wanted stage; return the stage, None if it ended."""
    pause_s = after_s
    while True:
        try:
            process.wait(pause_s)
        except subprocess.TimeoutExpired:
            stage = looked_at(run, process, wanted)
            if stage is not None:
                return stage
            pause_s = 0.0 if after_s else rng.uniform(0.01, 0.3)
        else:
            return None


def looked_at(run: Run, process: subprocess.Popen[str], wanted: set[str] | None) -> str | None:
    """Stop a search and see where it is; kill it if that is wanted, and return the stage."""
    evaluator = run.evaluator()
    stopped = [psutil.Process(pid) for pid in (process.pid, evaluator) if pid is not None and psutil.pid_exists(pid)]
    for each in stopped:
        each.suspend()
    stage = stage_of(process.pid, evaluator)
    stage = "ask or record" if stage in ("ask", "record") else stage
    chosen = wanted is None or stage in wanted
    if chosen:
        process.kill()
        process.wait()
    for each in stopped:  # the evaluating process was stopped only to be looked at: it must end by itself
        with suppress(psutil.NoSuchProcess):
            each.resume()
    return stage if chosen else None


def full_disk(folder: Path) -> Found:
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        run = Run(place / "run")
        said = ended(run.begin(), 1)
        assert "space" in said, said
        before = run.trials()
        subprocess.run(["mount", "-o", "remount,size=200m", place], check=True)
        run.finish()
        return run.found(before)
    finally:
        subprocess.run(["umount", place], check=True)


def truncated_journal(folder: Path) -> Found:
    run = Run(folder / "run")
    process = run.begin()
    run.wait_for(3, process)
    process.kill()
    process.wait()
    before, content = run.trials(), run.folder.journal.read_bytes()
    run.folder.journal.write_bytes(content + content.splitlines(keepends=True)[-1][:20])  # a power cut in the middle of a record
    run.finish()
    return run.found(before)


def loader_raises(folder: Path) -> Found:
    run = Run(folder / "run", trials=4, steps=1_100, marker="raise")
    run.finish()
    assert not (run.where / "raise").exists()
    return run.found({})


def out_of_memory(folder: Path) -> Found:
    run = Run(folder / "run", marker="devour")
    run.finish()
    assert not (run.where / "devour").exists()
    return run.found({})


def dead_evaluator(folder: Path) -> Found:
    run = Run(folder / "run")
    process = run.begin()
    run.wait_for(3, process)
    before = run.trials()
    psutil.Process(run.evaluator()).kill()
    ended(process, 0)
    return run.found(before)


def shared(folder: Path, database: Database, **more: Any) -> tuple[Run, subprocess.Popen[str], str]:
    """Start a search that others can join; return it and the URL that they join with."""
    run = Run(folder / "run", **more)
    search = run.begin("--storage", database.url, "--artifacts", folder / "artifacts")
    assert search.stdout is not None
    said = []
    for line in search.stdout:
        said.append(line)
        if "others join with" in line:
            return run, search, line.split("'")[1]
    raise SystemExit("".join(said))


def restarted_database(folder: Path) -> Found:
    with running_database(folder / "database") as database:
        run, search, _ = shared(folder, database, trials=10)
        run.wait_for(4, search)
        before = run.trials()
        database.stop()
        time.sleep(3.0)
        database.start()
        ended(search, None)
        if search.returncode:
            run.finish()
        return run.found(before)


def lost_worker(how: signal.Signals) -> Callable[[Path], Found]:
    def lose(folder: Path) -> Found:
        with running_database(folder / "database") as database:
            run, search, url = shared(folder, database, trials=16, steps=60)
            worker = run.start("worker", url, "--trust")
            while len(run.by_worker()) < 2:
                assert search.poll() is None, search.communicate()[0]
                time.sleep(0.3)
            before = run.trials()
            worker.send_signal(how)
            ended(search, 0)
            if how is signal.SIGSTOP:
                worker.send_signal(signal.SIGCONT)  # it comes back when all is over
            worker.communicate(timeout=60.0)
            return run.found(before)

    return lose


CASES: dict[str, Callable[[Path], Found]] = {
    "a full disk": full_disk,
    "a record cut in the middle": truncated_journal,
    "a data loader that raises": loader_raises,
    "a trial out of memory": out_of_memory,
    "a killed evaluating process": dead_evaluator,
    "a database stopped and started again": restarted_database,
    "a dead worker": lost_worker(signal.SIGKILL),
    "a hung worker": lost_worker(signal.SIGSTOP),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=["kills", *CASES], default=["kills", *CASES])
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="paretopress-") as temporary:
        for index, (name, case) in enumerate(CASES.items()):
            if name in args.only:
                (folder := Path(temporary, str(index))).mkdir()
                rows.append({"fault": name, "stage": ""} | case(folder))
                print(rows[-1], flush=True)
                write_result("faults", headlines(rows), rows)
        if "kills" in args.only:
            rows += kills(
                Path(temporary, "kills"), args.kills, lambda made: write_result("faults", headlines([*rows, *made]), [*rows, *made])
            )
    write_result("faults", headlines(rows), rows)


def headlines(rows: list[dict[str, object]]) -> list[Headline]:
    met = Counter(row["stage"] for row in rows if row["fault"] == "kill -9")
    wrong = sum(bool(row["wrong"]) for row in rows)
    at_random = sum(row.get("at_random", False) for row in rows)
    missed = len(set(STAGES) - met.keys())
    return [
        Headline("kills at random instants", at_random, "", 30, at_random >= 30),
        Headline("kills aimed at stages that those had not met", sum(met.values()) - at_random, ""),
        Headline("stages that no kill met", missed, f"of {len(STAGES)}", 0, missed == 0),
        Headline("other faults", len(rows) - sum(met.values()), "", len(CASES), len(rows) - sum(met.values()) == len(CASES)),
        Headline("faults after which something was lost, counted twice, wrong or left over", wrong, "", 0, wrong == 0),
    ]


if __name__ == "__main__":
    main()
