from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from paretopress.core import registry
from paretopress.core.registry import Registry
from paretopress.errors import ConfigError

Installed = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Has packages offer colours: name=value."""

    def offer(**values: str) -> None:
        points = EntryPoints(EntryPoint(name, value, "paretopress.colours") for name, value in values.items())
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "paretopress.colours" else EntryPoints())

    return offer


def colours() -> Registry[str]:
    return Registry("colour", {"Red": "#f00", "green": "#0f0"})


def test_find_returns_the_thing_whatever_the_case_of_its_name() -> None:
    assert colours().find("red") == "#f00"
    assert colours().find("GREEN") == "#0f0"
    assert colours().find("blue") is None


def test_get_lists_the_valid_names_when_there_is_none() -> None:
    with pytest.raises(ConfigError, match="the colour must be one of Red, green, but got 'blue'"):
        colours().get("blue")


def test_register_raises_when_the_name_is_taken() -> None:
    known = colours()
    known.register("blue", "#00f")
    assert known.get("blue") == "#00f"
    with pytest.raises(ConfigError, match="'RED', which is taken"):
        known.register("RED", "#e00")


def test_find_loads_an_entry_point_when_a_package_offers_one(installed: Installed) -> None:
    installed(digits="string:digits", red="string:ascii_letters")
    known = colours()
    assert known.names() == ["Red", "green", "digits"]
    assert known.get("digits") == "0123456789"
    assert known.get("red") == "#f00"  # what is built in comes first
    assert known.names() == ["Red", "green", "digits"]


def test_find_says_which_package_fails_when_an_entry_point_cannot_load(installed: Installed) -> None:
    installed(blue="no_such_module:blue")
    with pytest.raises(ConfigError, match="blue = no_such_module:blue"):
        colours().find("blue")
