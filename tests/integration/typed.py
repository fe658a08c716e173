"""What a user types, in a process of its own or in this one, and a search that ends in seconds."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from paretopress.commands.app import main

_QUICK = """
schema = 1
model = "user.py:make"
data = "user.py:{data}"
[budget]
speedup = 1.05
[time]
trials = {trials}
finalists = {finalists}
[recovery]
features = {features}
learning_rate = 0.01
short_steps = {steps}
final_steps = {steps}
batch_size = 32
[target]
probe = false
[space]
channel_step = 16
"""


def quick(
    path: Path, *, trials: int = 5, finalists: int = 1, steps: int = 1, data: str = "data", features: Sequence[str] = (), more: str = ""
) -> Path:
    """Write the configuration of a short search on the models of user.py, with `more` sections, and return its path."""
    path.write_text(_QUICK.format(trials=trials, finalists=finalists, steps=steps, data=data, features=json.dumps(list(features))) + more)
    return path


def command(*arguments: object) -> list[str]:
    """Return the command line that runs paretopress."""
    return [sys.executable, "-m", "paretopress", *map(str, arguments)]


def typed(where: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run paretopress in a folder, and return what it said."""
    return subprocess.run(command(*arguments), cwd=where, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload, no-any-return]


def typed_here(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run paretopress in a folder within this process, which spares the seconds of its imports, and return what it said."""
    typed, out, err, code = ["paretopress", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", typed)
        patch.chdir(where)
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
    return subprocess.CompletedProcess(typed, code, out.getvalue(), err.getvalue())
