"""Specs: one line that names a model or data, `kind:argument?key=value&key=value`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paretopress.errors import ConfigError


def resolve(path: str, base: Path | None) -> Path:
    """Return `path` with ~ expanded, taken from the folder `base` (default: the working folder) where it is relative."""
    return (base or Path.cwd()) / Path(path).expanduser()


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec: `folder:photos?size=224` has kind "folder", argument "photos" and options {"size": "224"}."""

    text: str
    kind: str
    argument: str
    options: Mapping[str, str]
    base: Path | None = None

    def allow(self, *keys: str, argument: str = "") -> None:
        """Raise ConfigError for an option that is not in `keys`, and for an argument too many or missing (`argument`: its name)."""
        unknown = sorted(self.options.keys() - set(keys))
        if unknown:
            raise ConfigError(f"{self.kind} has no option {unknown[0]!r} in the spec {self.text!r}", f"Valid keys: {', '.join(keys)}.")
        if argument and not self.argument:
            raise ConfigError(f"{self.kind} needs a {argument}, but got {self.text!r}", f"Write {self.kind}:{argument}.")
        if self.argument and not argument:
            raise ConfigError(
                f"{self.kind} takes no argument, but got {self.text!r}", f"Options follow a question mark: {self.kind}?key=value."
            )

    def integer(self, key: str, default: int, *, minimum: int) -> int:
        """Return the option as an integer of at least `minimum`. Raises: ConfigError."""
        text = self.options.get(key, str(default))
        if not text.isdecimal() or int(text) < minimum:
            raise ConfigError(f"{key} must be an integer of at least {minimum}, but got {key}={text} in the spec {self.text!r}")
        return int(text)

    def switch(self, key: str, *, default: bool) -> bool:
        """Return an option that is 0 or 1. Raises: ConfigError."""
        text = self.options.get(key, str(int(default)))
        if text not in ("0", "1"):
            raise ConfigError(f"{key} must be 0 or 1, but got {key}={text} in the spec {self.text!r}")
        return text == "1"

    def path(self, key: str) -> Path | None:
        """Return the option as a path (see `resolve`), or None where it is not given."""
        return resolve(self.options[key], self.base) if self.options.get(key) else None


def parse_spec(text: str, base: Path | None = None) -> Spec:
    """Return the parts of `text`. Raises: ConfigError: an option without a value, or given twice."""
    head, _, query = text.partition("?")
    kind, _, argument = head.partition(":")
    options: dict[str, str] = {}
    for option in query.split("&") if query else []:
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"an option must be key=value, but got {option!r} in the spec {text!r}")
        if key in options:
            raise ConfigError(f"an option must be given once, but got {key!r} twice in the spec {text!r}")
        options[key] = value
    return Spec(text, kind.strip(), argument, options, base)
