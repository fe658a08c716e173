from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from paretopress.commands.option_groups import grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(help="How wide.")] = 3
    tall: Annotated[bool, typer.Option("--tall", help="Whether it is tall.")] = False


@dataclass(frozen=True)
class Colour:
    colour: Annotated[str | None, typer.Option(help="Which colour.")] = None


def run(*arguments: str) -> str:
    app = typer.Typer()

    @app.command()
    @grouped
    def paint(size: Size, colour: Colour, name: Annotated[str, typer.Argument()] = "it") -> None:
        """Paint."""
        print(name, size, colour)

    return CliRunner().invoke(app, list(arguments)).output


def test_grouped_gives_each_group_its_options() -> None:
    assert run("box", "--width", "5", "--colour", "red").strip() == "box Size(width=5, tall=False) Colour(colour='red')"
    assert run("--tall").strip() == "it Size(width=3, tall=True) Colour(colour=None)"


def test_grouped_shows_the_help_of_every_option() -> None:
    shown = run("--help")
    for text in ("How wide.", "Whether it is tall.", "Which colour.", "Paint."):
        assert text in shown


def test_grouped_raises_when_two_groups_have_an_option_of_one_name() -> None:
    def twice(size: Size, other: Size) -> None:
        """Never called."""

    with pytest.raises(ValueError, match="width twice in twice"):
        grouped(twice)
