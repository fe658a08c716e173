"""What a run knows of its target: opens it, and takes its capabilities from a probe or from its processor's flags."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from paretopress.errors import ConfigError, RunError
from paretopress.targets.capabilities import detect
from paretopress.targets.local import LocalTarget, SessionSettings
from paretopress.targets.probe import OpenTarget, run_probe
from paretopress.targets.probe_cache import read_report, write_report
from paretopress.targets.probe_report import ProbeReport, probe_fingerprint
from paretopress.targets.target import Target

LOCAL = "local"
Say = Callable[[str], None]


def opener(spec: str) -> OpenTarget:
    """Return threads -> the target of that name, each of which is opened once.

    It raises ConfigError for an unknown name or more threads than cores.
    """
    return functools.cache(functools.partial(_open, spec))


def _open(spec: str, threads: int) -> Target:
    if spec != LOCAL:
        raise ConfigError(f"the target must be {LOCAL!r}, but got {spec!r}")
    target = LocalTarget(SessionSettings(threads=threads))
    cores = target.environment()["cores_logical"]
    if cores is not None and threads > cores:
        raise ConfigError(f"threads must be at most the {cores} cores of the target, but got threads={threads} at {spec}")
    return target


def cached_probe(target: Target) -> ProbeReport | None:
    """Return the probe that was made of a target as it is now, None if there was none."""
    return read_report(probe_fingerprint(target.name, target.environment()))


def probe_target(open_target: OpenTarget, threads: int, say: Say, *, refresh: bool = False) -> ProbeReport:
    """Return the probe of a target: the one in the cache, unless there is none or `refresh` asks for another.

    Args:
        say: told before a probe starts, because it takes a while, and if its report could not be kept.
    Raises: LatencyError: the target cannot run a plain convolution.
    """
    target = open_target(threads)
    cached = None if refresh else cached_probe(target)
    if cached is not None:
        return cached
    say(f"probing {target.name} at {threads} thread(s): about a minute, once for this target")
    report = run_probe(open_target, threads, np.random.default_rng(0))
    try:
        write_report(report)
    except RunError as error:
        say(f"the probe could not be kept for later: {error}")
    return report


def target_facts(open_target: OpenTarget, threads: int, say: Say, *, probe: bool) -> dict[str, Any]:
    """Return the environment that a run records: the target's, with its capabilities and the probe that found them.

    Without `probe` the capabilities are those that the processor's flags imply, and "probe" is None.
    """
    env = open_target(threads).environment()
    if not probe:
        say("the target's capabilities are taken from its processor's flags, not measured")
        return env | {"capabilities": detect(env).to_json(), "probe": None}
    report = probe_target(open_target, threads, say)
    return env | {"capabilities": report.capabilities().to_json(), "probe": {"fingerprint": report.digest(), "date": report.date}}
