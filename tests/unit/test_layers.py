"""The layer table: who may import whom. A breach fails here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "paretopress"

# Lower parts first; a part may import itself, what is named beside it, and the values at the bottom.
VALUES = {"errors", "plan", "graph", "measurement", "pareto", "atomic", "cache", "event_log", "fetch", "fvcore_import", "inputs"}
VALUES |= {"content_hash", "kept", "onnx_graph", "quiet_logger", "repeating", "same_run", "seeding", "stopwatch", "weighted", "worked"}
VALUES |= {"masking", "confined", "deadline", "received"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "deadline": set(),
    "fetch": {"inputs"},
    "inputs": {"graph"},
    "content_hash": set(),
    "kept": set(),
    "masking": set(),
    "confined": {"errors"},
    "received": {"confined", "errors", "measurement", "plan"},
    "repeating": set(),
    "same_run": {"errors"},
    "seeding": set(),
    "onnx_graph": {"errors", "graph", "inputs"},
    "stopwatch": set(),
    "weighted": set(),
    "worked": {"repeating"},
    "fvcore_import": set(),
    "quiet_logger": set(),
    "pareto": set(),
    "atomic": {"errors"},
    "cache": {"errors"},
    "event_log": {"masking"},
    "plan": {"errors"},
    "graph": {"errors"},
    "measurement": {"errors"},
    "spaces": VALUES,
    "compress": VALUES | {"tasks"},
    "lower": VALUES,
    "targets": VALUES,
    "evaluators": VALUES | {"lower", "targets", "tasks"},
    "intake": VALUES | {"compress", "tasks"},
    "tasks": VALUES,
    "search": VALUES | {"spaces"},
    "deploy": VALUES,
    "report": VALUES | {"search"},
    "config": VALUES | {"compress", "search", "spaces", "tasks"},
    "run_folder": VALUES,
    "demo_model": VALUES | {"intake"},
    "pipeline": VALUES | {"evaluators", "intake", "lower", "run_folder", "search", "targets", "tasks"},
    "plan_evaluator": VALUES | {"compress", "evaluators", "intake", "pipeline", "run_folder", "search"},
    "probing": VALUES | {"targets"},
    "run_tables": VALUES | {"compress", "evaluators", "pipeline", "search", "spaces", "targets"},
    "findings": VALUES | {"compress", "config", "intake", "pipeline", "run_tables", "search", "spaces", "targets"},
    "setup_run": VALUES
    | {"findings"}
    | {"compress", "config", "intake", "pipeline", "plan_evaluator", "run_tables", "search", "spaces", "targets"},
    "run_parts": VALUES
    | {
        "compress",
        "config",
        "intake",
        "lower",
        "pipeline",
        "plan_evaluator",
        "probing",
        "run_folder",
        "search",
        "setup_run",
        "spaces",
        "targets",
    }
    | {"tasks"},
    "isolation": VALUES | {"targets"},
    "evaluator_process": VALUES
    | {"compress", "isolation", "plan_evaluator", "run_folder", "run_parts", "run_study", "setup_run", "targets"},
    "run_study": VALUES | {"config", "run_folder", "search"},
    "folder_store": VALUES,
    "artifact_shelf": VALUES | {"deploy", "folder_store", "plan_evaluator", "run_folder"},
    "shared_run": VALUES | {"artifact_shelf", "config", "run_folder", "run_study"},
    "worker": VALUES
    | {"config", "report", "run_parts", "run_search", "search", "setup_run", "shared_run", "targets"}
    | {"intake", "run_folder"},
    "ray_workers": VALUES | {"config", "report", "worker"},
    "housekeeping": VALUES | {"run_folder", "search"},
    "run_search": VALUES
    | {"artifact_shelf", "config", "housekeeping", "isolation", "pipeline", "report", "run_folder", "run_parts", "run_study", "search"}
    | {"intake", "probing", "setup_run", "shared_run", "spaces"},
    "predicted_plan": VALUES | {"config", "run_folder", "run_study", "search", "setup_run", "spaces", "targets"},
    "rerun": VALUES | {"config", "plan_evaluator", "run_folder", "run_parts", "run_study", "search", "setup_run", "targets"},
    "status": VALUES | {"config", "run_folder", "run_study", "search", "setup_run"},
    "export": VALUES | {"deploy", "run_folder"},
    "profile_model": VALUES | {"compress", "evaluators", "intake", "lower", "report", "spaces", "targets"},
    "explain_file": VALUES | {"config", "evaluators", "run_folder", "run_study", "search", "targets"},
    "api": VALUES
    | {
        "config",
        "export",
        "intake",
        "probing",
        "ray_workers",
        "report",
        "run_folder",
        "run_parts",
        "run_search",
        "run_study",
        "search",
        "setup_run",
        "spaces",
        "targets",
    },
    "demo": VALUES | {"api", "compress", "demo_model", "intake", "probing", "report", "targets"},
    "cli": VALUES
    | {"api", "compress", "config", "demo", "deploy", "explain_file", "predicted_plan", "probing", "profile_model", "report"}
    | {"rerun", "run_parts", "search", "status", "worker"},
    "__init__": VALUES | {"api", "deploy", "intake"},
    "__main__": {"cli"},
}
NO_TORCH = {"search", "spaces", "deploy", "report", "targets"}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(path: Path) -> list[tuple[ast.AST, str]]:
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node, node.module or ""))
        elif isinstance(node, ast.Import):
            found.extend((node, alias.name) for alias in node.names)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_in_layer_when_read(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for _, module in imports_of(path):
        if module.startswith("paretopress"):
            assert part_of(module) in ALLOWED[part] | {part}, f"{part} may not import {module}"
        if part in NO_TORCH:
            assert module.split(".")[0] not in ("torch", "torchvision", "torch_pruning"), f"{part} may not import torch"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_are_at_module_level_when_first_party(path: Path) -> None:
    tree = ast.parse(path.read_text())
    inner = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paretopress")
    ]
    assert inner == []


def test_parts_form_no_cycle_when_followed() -> None:
    done: set[str] = set()

    def visit(part: str, above: tuple[str, ...]) -> None:
        assert part not in above, f"cycle: {' -> '.join((*above, part))}"
        if part not in done:
            for lower in ALLOWED[part]:
                visit(lower, (*above, part))
            done.add(part)

    for part in ALLOWED:
        visit(part, ())
    assert done == set(ALLOWED)


def test_every_part_is_in_the_table_when_listed() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert parts == set(ALLOWED)
