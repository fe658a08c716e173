"""Open a target from its spec."""

from __future__ import annotations

from typing import Protocol

from paretopress.core.registry import Registry
from paretopress.errors import ConfigError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.system.secret_masking import masked
from paretopress.targets.local import LocalTarget
from paretopress.targets.ssh import SshTarget
from paretopress.targets.ssh_address import parse_address
from paretopress.targets.target import Target


class OpenTarget(Protocol):
    """Opens the targets of one form of spec, e.g. all that begin with "ssh://"."""

    def __call__(self, spec: str, measuring: LocalTarget, /) -> Target:
        """Return the target that a spec names, in reach.

        Args:
            spec: what the user gave as the target. measuring: how a host measures: settings of its sessions, blocks, rounds.
        Raises: ConfigError: the spec is of another form. TargetLostError: the target is out of reach.
        """
        ...


# by what stands before "://" in a spec, or by the whole of it
TARGETS = Registry[OpenTarget](
    "target",
    {"local": lambda _, measuring: measuring, "ssh": lambda spec, measuring: SshTarget(parse_address(spec), measuring)},
)


def open_target(spec: str, settings: SessionSettings) -> Target:
    """Return the target that `spec` names, in reach; the caller closes it.

    Raises: ConfigError: the spec is of no known form, the target cannot measure, or has fewer cores than `settings` has threads.
        TargetLostError: it is out of reach.
    """
    target = _open(spec)(spec, LocalTarget(settings))
    cores = target.environment()["cores_logical"]
    if cores is not None and settings.threads > cores:
        target.close()
        raise ConfigError(f"threads must be at most the {cores} cores of the target, but got threads={settings.threads} at {target.name}")
    return target


def _open(spec: str) -> OpenTarget:
    scheme = spec.partition("://")[0]
    found = TARGETS.find(scheme) if "://" in spec or spec == "local" else None
    if found is None:
        others = [f"{name}://..." for name in TARGETS.names() if name not in ("local", "ssh")]
        forms = ", ".join(["local", *others]) + " or ssh://user@host[:port]"
        raise ConfigError(f"a target must be {forms}, but got target={masked(spec)}")
    return found
