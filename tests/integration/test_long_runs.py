"""What keeps a long run going, typed as a user types it: processes that die, several workers, the cache, replays and reruns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typed import quick, typed, typed_here

from paretopress.search.storage.records import Records
from paretopress.search.storage.studies import open_study
from paretopress.system.event_log import read_events
from paretopress.system.run_folder import RunFolder

FATAL = """

class Fatal(torch.utils.data.Dataset):
    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        import os, pathlib, signal, sys
        marker = pathlib.Path(__file__).with_name("kill")
        if "paretopress.run.evaluator_main" in " ".join(sys.orig_argv) and marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner[index]


def fatal():
    train, val, test = data()
    return Fatal(train), val, test
"""


def searched(where: Path, name: str, *options: object, trials: int = 6, data: str = "data") -> RunFolder:
    done = typed(where, "search", quick(where / f"{name}.toml", trials=trials, data=data), "--run", name, *options)
    assert done.returncode == 0, done.stderr
    return RunFolder(where / name)


@pytest.fixture
def its_cache(first: RunFolder, empty_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of the shared run, put in place of the empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(first.root.parent / "cache"))


def plans(folder: RunFolder) -> list[dict[str, Any]]:
    return [candidate.plan.to_json() for candidate in Records(open_study(folder.journal)).trial_candidates()]


def test_search_goes_on_when_the_process_of_a_trial_is_killed(workplace: Path, known_setup: None) -> None:
    with (workplace / "user.py").open("a") as file:
        file.write(FATAL)
    (workplace / "kill").write_text("")
    folder = searched(workplace, "run", trials=4, data="fatal")
    assert not (workplace / "kill").exists()
    events = read_events(folder.log)
    (retried,) = [event for event in events if event["event"] == "retried"]
    assert "SIGKILL ended it" in retried["reason"]
    status = json.loads(typed_here(workplace, "status", "run", "--json").stdout)
    assert (status["phase"], status["failed"], status["failures"]) == ("finished", 1, [])
    assert status["completed"] + status["rejected_early"] + status["outraced"] == 4
    assert status["front"]
    assert Path(workplace, status["best_file"]).is_file()
    assert {event["process"] for event in events} == {events[0]["process"]}


def test_search_takes_several_trials_at_a_time_when_it_has_workers(workplace: Path, known_setup: None) -> None:
    folder = searched(workplace, "run", "--workers", 2, trials=6)
    front = json.loads(folder.front.read_text())
    assert sum(front["trials"].values()) == 6
    assert front["trials"]["failed"] == 0
    assert front["points"]
    asked = [event["trial"] for event in read_events(folder.log) if event["event"] == "asked"]
    assert asked == list(range(6))


def test_resume_ends_with_the_front_that_is_left_when_a_file_is_gone(first: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(first.root.parent, tmp_path / "work")
    folder = RunFolder(tmp_path / "work" / first.root.name)
    before = json.loads(folder.front.read_text())["points"]
    gone = before[0]
    (folder.root / gone["onnx"]["path"]).unlink()
    folder.front.unlink()
    done = typed(tmp_path / "work", "resume", folder.root.name)
    after = json.loads(folder.front.read_text())
    assert [left["trial"] for left in after["lost"]] == [gone["trial"]]
    assert f"Left out: trial {gone['trial']}" in done.stdout + done.stderr
    assert {p["trial"] for p in after["points"]} >= {p["trial"] for p in before[1:]}
    assert all(point["test_accuracy"] is not None for point in after["points"])


def test_resume_goes_on_with_trials_when_a_finished_run_gets_more_time(first: RunFolder, tmp_path: Path) -> None:
    where = tmp_path / "work"
    shutil.copytree(first.root.parent, where)
    before = json.loads(typed_here(where, "status", "first", "--json").stdout)
    refused = typed_here(where, "resume", "first", "--minutes", 0)
    assert (refused.returncode, "goes on for a time" in refused.stderr) == (2, True)
    done = typed(where, "resume", "first", "--minutes", 0.5)
    assert done.returncode == 0, done.stderr
    after = json.loads(typed_here(where, "status", "first", "--json").stdout)
    assert after["phase"] == before["phase"] == "finished"
    ended = [sum(each[name] for name in ("completed", "rejected_early", "outraced")) for each in (before, after)]
    assert ended[1] > ended[0] == 6
    assert after["finalists"] >= before["finalists"]
    assert json.loads((where / "first" / "config.json").read_text())["time"]["trials"] is None


def test_rerun_comes_to_the_recorded_figures(first: RunFolder) -> None:
    number = max(int(place.name) for place in (first.root / "trials").glob("0*"))
    before = sorted(path.name for path in first.root.rglob("*"))
    done = typed(first.root.parent, "rerun", "first", "--trial", number, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["same_bytes"]
    for name in ("val_accuracy", "macs", "size_bytes"):
        assert value["figures"][name]["recorded"] == value["figures"][name]["again"]
    assert sorted(path.name for path in first.root.rglob("*")) == before
    missing = typed_here(first.root.parent, "rerun", "first", "--trial", 99)
    assert missing.returncode == 2
    assert "0 to" in missing.stderr


def test_search_proposes_the_same_plans_when_it_replays_a_run(first: RunFolder) -> None:
    done = typed(first.root.parent, "search", "--replay", "first", "--run", "again")
    assert done.returncode == 0, done.stderr
    again = RunFolder(first.root.parent / "again")
    assert plans(again) == plans(first)
    recorded, replayed = (json.loads(run.front.read_text())["points"] for run in (first, again))
    assert [(p["trial"], p["onnx"]["sha256"], p["latency_ms"]) for p in replayed] == [
        (p["trial"], p["onnx"]["sha256"], p["latency_ms"]) for p in recorded
    ]


def test_search_takes_from_the_cache_what_an_earlier_run_found(first: RunFolder, its_cache: None) -> None:
    where = first.root.parent
    held = json.loads(typed_here(where, "cache", "--json").stdout)["kinds"]
    assert held.keys() >= {"setup", "student", "latency"}
    second = searched(where, "second")
    again = json.loads(typed_here(where, "cache", "--json").stdout)["kinds"]
    # the seeds come first, and are the same whatever the latencies were
    known, found = (
        {c.plan: c.outcome.val_accuracy for c in Records(open_study(run.journal)).trial_candidates()} for run in (first, second)
    )
    both = known.keys() & found.keys()
    assert len(both) >= 3
    assert {plan: known[plan] for plan in both} == {plan: found[plan] for plan in both}
    assert again["setup"]["entries"] == held["setup"]["entries"] == 1
    assert again["student"]["entries"] <= held["student"]["entries"] + len(found.keys() - both)
    removed = json.loads(typed_here(where, "cache", "--limit-mb", 0, "--json").stdout)
    assert removed["removed"] == sum(kind["entries"] for kind in again.values())
    assert removed["kinds"] == {}


@pytest.mark.parametrize("run", ["nowhere", "."])
def test_replay_says_what_is_wrong_when_the_folder_is_no_run(workplace: Path, run: str) -> None:
    done = typed_here(workplace, "search", "--replay", run, "--run", "again")
    assert done.returncode == 2
    assert "config.json" in done.stderr
    assert not (workplace / "again").exists()
