"""The command line's verbs are listed without being loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from paretopress.commands.app import VERBS, app, loaded

SLOW = ("torch", "matplotlib", "scipy")
# runs the command line in a process of its own and prints what of SLOW it loaded
LOADED = f"""
import sys
from paretopress.commands.app import main
try:
    main()
except SystemExit:
    pass
print("loaded", [name for name in {SLOW} if name in sys.modules])
"""


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_listed_with_the_first_line_of_its_help(verb: str) -> None:
    help_text = loaded(verb).help or ""
    assert help_text.splitlines()[0] == VERBS[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"]).stdout
    assert f"Example: paretopress {verb}" in " ".join(shown.split())
    assert f"{verb} [OPTIONS]" in shown


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["status", "none"], ["front", "none"], ["verify", "none"], ["cache"], ["search", "--help"]],
    ids=" ".join,
)
def test_command_loads_nothing_slow_when_it_needs_none(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_package_offers_its_names_without_loading_torch() -> None:
    code = "import sys, paretopress; print('torch' in sys.modules, paretopress.Budget(speedup=2.0).speedup, 'compress' in dir(paretopress))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "2.0", "True"]


def test_compress_is_the_function_when_the_package_of_that_name_is_loaded() -> None:
    code = "import paretopress, paretopress.compress.recover.recipe; print(paretopress.compress.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "paretopress.api"


def test_unknown_verb_is_answered_with_the_nearest() -> None:
    done = CliRunner().invoke(app, ["serch"])
    assert done.exit_code == 2
    assert "'search'" in done.stderr
