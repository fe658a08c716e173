"""From what the user calls a target to the target."""

from __future__ import annotations

from paretopress.errors import ConfigError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.system.secret_masking import masked
from paretopress.targets.local import LocalTarget
from paretopress.targets.ssh import SshTarget
from paretopress.targets.ssh_address import parse_address
from paretopress.targets.target import Target


def open_target(spec: str, settings: SessionSettings) -> Target:
    """Return the target that `spec` names, in reach; the caller closes it.

    Raises: ConfigError: the spec is of no known form, the target cannot measure, or has fewer cores than `settings` has threads.
        TargetLostError: it is out of reach.
    """
    target = _named(spec, LocalTarget(settings))
    cores = target.environment()["cores_logical"]
    if cores is not None and settings.threads > cores:
        target.close()
        raise ConfigError(f"threads must be at most the {cores} cores of the target, but got threads={settings.threads} at {target.name}")
    return target


def _named(spec: str, measuring: LocalTarget) -> Target:
    if spec == "local":
        return measuring
    if spec.startswith("ssh://"):
        return SshTarget(parse_address(spec), measuring)
    raise ConfigError(f"a target must be local or ssh://user@host[:port], but got target={masked(spec)}")
