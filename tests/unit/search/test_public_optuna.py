"""What of Optuna a run needs: its public interface, and more only where a run is shared."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "paretopress"
# what is loaded by name for a shared run, and by nothing else
SHARED_ALONE = {"rdb", "grpc_proxy", "buffered", "shared"}
STORAGE = Path("search", "storage")

WITHOUT_PRIVATE_MODULES = """
import builtins, sys
from pathlib import Path

plain = builtins.__import__

def without(name, globals=None, *rest):
    asks = (globals or {}).get("__name__", "")
    if asks.startswith("paretopress") and name.startswith("optuna.") and "._" in name:
        raise ImportError(f"no module {name!r} for {asks}")
    return plain(name, globals, *rest)

builtins.__import__ = without
sys.path[:0] = [sys.argv[1]]
import optuna
from four_layers import BOUNDS, SPACE, made_up
from paretopress.errors import ConfigError
from paretopress.search.study.create import create_study
from paretopress.search.limits import Limits
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.search.study.search import Search

optuna.logging.set_verbosity(optuna.logging.WARNING)
journal = Path(sys.argv[2])
run = Search(create_study(journal, "guided", SPACE, 0), SPACE, made_up, BOUNDS, Limits(trials=3, finalists=1), 1_000, workers=2)
run.run([])
print(run.counts().completed, len(run.finals()))
try:
    open_storage(StudyPlace("postgresql://host/db", "night"))
except ConfigError as error:
    print(error)
"""


def private_modules(path: Path) -> set[str]:
    """Return the modules of Optuna with an underscore that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        found |= {name for name in names if name.startswith("optuna.") and "._" in name}
    return found


def test_private_modules_are_imported_by_those_of_shared_runs_alone() -> None:
    having = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if private_modules(path)}
    assert having == {STORAGE / "rdb.py", STORAGE / "grpc_proxy.py"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_of_shared_runs_are_imported_by_one_another_alone(path: Path) -> None:
    if path.parent == PACKAGE / STORAGE and path.stem in SHARED_ALONE:
        return
    tree = ast.parse(path.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not modules & {f"paretopress.search.storage.{name}" for name in SHARED_ALONE}


def test_journal_run_works_when_optuna_has_no_private_modules(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PRIVATE_MODULES, str(Path(__file__).parent), str(tmp_path / "journal.log")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted, refused = done.stdout.splitlines()
    assert counted == "3 1"
    assert refused.startswith("a shared run needs the storages of Optuna 5, but got")
