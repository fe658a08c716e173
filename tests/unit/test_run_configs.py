"""The committed run configurations say what a search can read, and name factories that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from paretopress.config import read_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.toml")), ids=lambda path: path.stem)
def test_read_config_takes_every_committed_run_when_read(path: Path) -> None:
    config = read_config(path)
    config.checked_budget(), config.limits()
    for spec in (config.model, config.data):
        assert spec is not None
        if ".py:" in spec:
            file, function = spec.split(":")
            tree = ast.parse((path.parent / file).read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
