"""What a run was started with is what goes on with it: model, data, metric, settings, versions and machine."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typed import typed_here

from paretopress.run.evaluator_main import serve
from paretopress.system.run_folder import RunFolder
from paretopress.targets.wire_protocol import read_frame


@pytest.fixture
def copied(first: RunFolder, tmp_path: Path) -> Iterator[Path]:
    """A folder with a copy of a finished run and of the user's file; the threads of this process are left as they were."""
    shutil.copytree(first.root, tmp_path / "run")
    shutil.copy(first.root.parent / "user.py", tmp_path / "user.py")
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(config | {"base": str(tmp_path)}))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def rewritten(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def changed(path: Path, keys: tuple[str, ...], value: Any) -> None:
    whole = json.loads(path.read_text())
    place = whole
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(whole))


USER, STATE, CONFIG = "user.py", "run/state.json", "run/config.json"
CHANGES: dict[str, tuple[str, Any, Any]] = {
    "model code (": (USER, "torch.relu(x +", "torch.sigmoid(x +"),
    "model weights (": (USER, "torch.manual_seed(0)\n", "torch.manual_seed(1)\n"),
    "data items (": (USER, "torch.randint(0, label", "torch.randint(1, label"),
    "metric (": (CONFIG, ("metric", "name"), "top-5"),
    "settings: budget: speedup (1.05 there, 1.5 here)": (CONFIG, ("budget", "speedup"), 1.5),
    "versions: torch (1.0 there": (STATE, ("identity", "versions", "torch"), "1.0"),
    'target: microcode (["x"] there': (STATE, ("identity", "target", "microcode"), ["x"]),
    "code (0 there": (STATE, ("identity", "code"), "0"),
    "named model and data in another way, format=1": (STATE, ("identity",), {}),
}


@pytest.mark.parametrize(("says", "change"), CHANGES.items(), ids=CHANGES.keys())
def test_a_run_goes_on_only_with_what_it_was_started_with(copied: Path, says: str, change: tuple[str, Any, Any]) -> None:
    file, old, new = change
    (rewritten if file == USER else changed)(copied / file, old, new)
    for verb in (("resume", "run"), ("rerun", "run", "--trial", 0)):
        done = typed_here(copied, *verb)
        assert done.returncode == 2
        assert says in " ".join(done.stderr.split())


def test_evaluator_process_is_refused_when_the_users_file_changed(copied: Path) -> None:
    rewritten(copied / USER, "torch.relu(x +", "torch.sigmoid(x +")
    replies = io.BytesIO()
    serve(copied / "run", 1, iter(()), replies)
    replies.seek(0)
    frame = read_frame(replies)
    assert frame is not None
    assert "model code (" in frame[0]["error"]["message"]
    assert read_frame(replies) is None


def test_a_replay_is_refused_when_the_model_is_another(copied: Path) -> None:
    rewritten(copied / USER, "torch.relu(x +", "torch.sigmoid(x +")
    done = typed_here(copied, "search", "--replay", "run", "--run", "again")
    assert done.returncode == 2
    assert "model code (" in " ".join(done.stderr.split())
    assert not (copied / "again").exists()
