"""The address of a target over SSH, read from `ssh://user@host[:port][?python=PATH&key=PATH&known_hosts=PATH]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from paretopress.errors import ConfigError
from paretopress.system.secret_masking import masked

OPTIONS = ("key", "known_hosts", "python")
_FORM = f"Give ssh://user@host[:port], with ?{'=...&'.join(OPTIONS)}=... where needed."
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_PYTHON = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*")


@dataclass(frozen=True, slots=True)
class SshAddress:
    """Where a target is and how it is entered.

    Attributes:
        user, port: None is what ~/.ssh/config says, else this user and port 22.
        python: the interpreter there.
        key: private key; None is the agent's and the user's own keys.
        known_hosts: file of host keys; None is ~/.ssh/known_hosts.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    key: Path | None = None
    known_hosts: Path | None = None

    @property
    def name(self) -> str:
        """The address without its options."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def parse_address(spec: str) -> SshAddress:
    """Return the address in `spec`. Raises ConfigError: a part is missing, malformed or unknown, or a file named in it is not there."""
    try:
        parts = urlsplit(spec)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"an SSH target must be a URL, but got: {masked(str(error), spec)} in {masked(spec)}", _FORM) from None
    if parts.password is not None:
        raise ConfigError("an SSH target must not hold a password, but got one before the @", "Use a key: `ssh-copy-id` puts it there.")
    if parts.scheme != "ssh" or not parts.hostname or parts.path or parts.fragment:
        raise ConfigError(f"an SSH target must be a user and a host, but got target={masked(spec)}", _FORM)
    options = _options(parts)
    return SshAddress(
        _checked("host", parts.hostname, _HOST),
        None if parts.username is None else _checked("user", parts.username, _NAME),
        port,
        _checked("python", options.get("python", "python3"), _PYTHON),
        _existing("key", options.get("key")),
        _existing("known_hosts", options.get("known_hosts")),
    )


def _options(parts: SplitResult) -> dict[str, str]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise ConfigError(f"options of an SSH target must be name=value, but got {parts.query!r}", _FORM) from error
    options = dict(pairs)
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"options of an SSH target are {', '.join(OPTIONS)}, but got {name}={options[name]}")
    if len(options) < len(pairs):
        raise ConfigError(f"an option of an SSH target may be given once, but got {parts.query!r}")
    return options


def _checked(name: str, value: str, allowed: re.Pattern[str]) -> str:
    if not allowed.fullmatch(value):
        raise ConfigError(f"{name} of an SSH target must match {allowed.pattern}, but got {name}={value!r}")
    return value


def _existing(name: str, value: str | None) -> Path | None:
    if value is None:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise ConfigError(f"{name} of an SSH target must be a file, but got {name}={value}")
    return path
