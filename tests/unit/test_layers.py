"""The rooms of the package, floor by floor. An import goes down, never up, never in a circle; a breach fails here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "paretopress"

# the lowest first; rooms of one floor do not import one another
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("core",),
    ("system", "spaces", "tasks", "search", "compress.explicit"),
    ("runtimes",),
    ("targets", "search.fidelity", "compress.prune", "deploy"),
    ("targets.probe", "search.storage", "search.samplers", "compress"),
    ("search.study", "compress.recover", "intake.recording", "intake.flow"),
    ("compress.sensitivity", "intake.datasets", "intake.groups", "report", "config"),
    ("intake",),
    ("lower", "evaluators"),
    ("trial",),
    ("run",),
    ("distributed",),
    ("api",),
    ("__init__",),
    ("commands",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# these know a module's tensors; the other values do not
WITH_TORCH = {"core/model_inputs.py", "core/model_outputs.py", "core/layer_types.py"}
NO_TORCH = ("core", "search", "spaces", "deploy", "report", "runtimes", "targets")
TORCH = {"torch", "torchvision"}
WHOLE_CONFIG = {"__init__", "commands", "api", "run", "distributed", "config"}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in FILES}


def room_of(module: str) -> str:
    """Return the room of a module that is named from the package on: "search.study.create" lies in "search.study"."""
    if f"{module}.__init__" in MODULES:
        return module
    return module.rpartition(".")[0] or module


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports, its own package's named from the package on with a dot before them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paretopress"):
            base = (node.module or "").removeprefix("paretopress")
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}"[1:] in MODULES else base or ".__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def at(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=at)
def test_imports_go_down_when_first_party(path: Path) -> None:
    room = room_of(at(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    others = {room_of(module[1:]) for module in imports_of(path) if module.startswith(".")} - {room}
    assert not {other for other in others if FLOOR_OF[other] >= FLOOR_OF[room]}


@pytest.mark.parametrize("path", FILES, ids=at)
def test_torch_is_imported_by_rooms_that_know_modules(path: Path) -> None:
    if at(path).partition("/")[0] in NO_TORCH and at(path) not in WITH_TORCH:
        assert not {module.partition(".")[0] for module in imports_of(path)} & TORCH


@pytest.mark.parametrize("path", FILES, ids=at)
def test_whole_configuration_is_seen_at_the_top_alone(path: Path) -> None:
    if at(path).partition("/")[0].removesuffix(".py") not in WHOLE_CONFIG:
        assert ".config" not in imports_of(path)


@pytest.mark.parametrize("path", FILES, ids=at)
def test_imports_are_at_module_level_when_first_party(path: Path) -> None:
    inner = [
        node.lineno
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paretopress")
    ]
    assert inner == []


def test_every_room_is_on_a_floor() -> None:
    rooms = {room_of(at(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")) for path in FILES}
    assert rooms == set(FLOOR_OF)


TESTS = sorted(Path(__file__).resolve().parents[1].rglob("test_*.py"))
LONGEST_NAME = 70


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_names_of_tests_are_different_and_of_70_letters_at_most(path: Path) -> None:
    names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [name for name in names if len(name) > LONGEST_NAME] == []
    assert len(set(names)) == len(names)
