"""What the README and the guide tell to type is there: verbs, options, and the keys of configuration files."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from paretopress.commands.app import VERBS, loaded
from paretopress.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted((ROOT / "docs").glob("*.md"))]
# up to the end of an inline code, of a comment, or of a line that no backslash continues
COMMAND = re.compile(r"(?:^ {4}|`)paretopress (?P<verb>[a-z]+)(?P<rest>(?:\\\n|[^`#|\n])*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def commands() -> list[tuple[str, str, str]]:
    """Return (page, verb, what follows it) of every command that a page shows."""
    return [(page.name, found["verb"], found["rest"]) for page in PAGES for found in COMMAND.finditer(page.read_text())]


def code_blocks(page: Path) -> list[str]:
    """Return the indented blocks of a page, without their indentation; blank lines inside belong to them."""
    return [textwrap.dedent(block).strip() for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("verb", sorted({verb for _, verb, _ in commands()}))
def test_documented_commands_have_the_options_that_pages_show(verb: str) -> None:
    assert verb in VERBS
    known = {option for parameter in loaded(verb).params for option in (*parameter.opts, *parameter.secondary_opts)}
    for page, typed, rest in commands():
        if typed == verb:
            unknown = set(OPTION.findall(rest)) - known
            assert not unknown, f"{page} shows {sorted(unknown)} for paretopress {verb}"


def test_pages_show_every_verb_but_those_for_development() -> None:
    shown = {verb for _, verb, _ in commands()}
    assert len(shown) >= 12
    assert {"search", "resume", "status", "front", "export", "verify", "explain", "profile", "probe", "plan", "rerun", "worker"} <= shown


def test_the_guides_configurations_are_valid() -> None:
    sections = [block for block in code_blocks(ROOT / "docs" / "guide.md") if re.match(r"schema = 1\n|\[", block)]
    assert len(sections) >= 3
    for block in sections:
        value: dict[str, Any] = {"schema": 1, "model": "mymodel.py:make", "data": "mydata.py:splits", "budget": {"speedup": 2.0}}
        parse_config(value | tomllib.loads(block), "guide.md")
