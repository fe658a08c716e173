"""Extension points: things of one kind by name, built in or offered by installed packages as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from paretopress.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by names that differ in more than their case.

    An installed package offers one by an entry point of the group "paretopress.KINDs", e.g. "paretopress.samplers"; it is loaded when it is
    asked for. What is built in or registered comes before an entry point of the same name.
    Source: Python Packaging User Guide, "Entry points specification".
    """

    def __init__(self, kind: str, built_in: Mapping[str, T]) -> None:
        """Take what is built in; `kind` is its name in the singular."""
        self.kind = kind
        self._named = {name.lower(): (name, thing) for name, thing in built_in.items()}

    def register(self, name: str, thing: T) -> None:
        """Add a thing for this process; raises ConfigError if the name is taken."""
        if name.lower() in self._named:
            raise ConfigError(f"a {self.kind} needs a name of its own, but got {name!r}, which is taken", f"Taken are {self.listed()}.")
        self._named[name.lower()] = name, thing

    def names(self) -> list[str]:
        """Return all names: those that are built in or registered in their order, then those of installed packages."""
        known = [name for name, _ in self._named.values()]
        return known + sorted(point.name for point in self._points() if point.name.lower() not in self._named)

    def listed(self) -> str:
        """Return all names as one text, or "none"."""
        return ", ".join(self.names()) or "none"

    def find(self, name: str) -> T | None:
        """Return the thing of that name, None if there is none; raises ConfigError: an installed package offers it and cannot load it."""
        if name.lower() in self._named:
            return self._named[name.lower()][1]
        point = next((point for point in self._points() if point.name.lower() == name.lower()), None)
        if point is None:
            return None
        try:
            thing: T = point.load()
        except Exception as error:
            raise ConfigError(
                f"an installed {self.kind} must load, but got {type(error).__name__}: {error} at {point.name} = {point.value}",
                "Mend or remove the package that offers it.",
            ) from error
        self._named[name.lower()] = point.name, thing
        return thing

    def get(self, name: str) -> T:
        """Return the thing of that name; raises ConfigError with the valid names if there is none, else as `find`."""
        found = self.find(name)
        if found is None:
            raise ConfigError(f"the {self.kind} must be one of {self.listed()}, but got {name!r}")
        return found

    def _points(self) -> tuple[EntryPoint, ...]:
        return tuple(entry_points(group=f"paretopress.{self.kind}s"))
