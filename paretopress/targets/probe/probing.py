"""Open a target and find its capabilities, from a probe or from its processor's flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paretopress.errors import OutOfTimeError, RunError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.system.deadline import NO_DEADLINE, Deadline
from paretopress.targets.capabilities import detect
from paretopress.targets.environment import environment
from paretopress.targets.open_target import open_target
from paretopress.targets.probe.probe_report import ProbeReport, probe_fingerprint
from paretopress.targets.probe.report_cache import read_report, write_report
from paretopress.targets.probe.run_probe import OpenTarget, run_probe
from paretopress.targets.target import Target

LOCAL = "local"
# what a probe takes on an idle machine
PROBE_S = 60.0
Say = Callable[[str], None]


def opener(spec: str, cores: tuple[int, ...] = ()) -> OpenTarget:
    """Return threads -> the target of that name, see `open_target`; pinned to `cores` where they are enough for so many threads."""
    return lambda threads: open_target(spec, SessionSettings(threads=threads, cores=cores if len(cores) >= threads else ()))


def cached_probe(target: Target, found: Mapping[str, Any] | None = None) -> ProbeReport | None:
    """Return the probe that was made of a target as it is now, None if there was none; `found` is its environment if that is known."""
    return read_report(probe_fingerprint(target.name, target.environment() if found is None else found))


def probe_target(
    target: Target,
    open_target: OpenTarget,
    say: Say,
    *,
    refresh: bool = False,
    found: Mapping[str, Any] | None = None,
    until: Deadline = NO_DEADLINE,
) -> ProbeReport:
    """Return the probe of a target: the one in the cache, unless there is none or `refresh` asks for another.

    Args:
        open_target: threads -> the same target with sessions of so many threads.
        say: told before a probe starts, because it takes a while, and if its report could not be kept.
        found: the target's environment, if that was asked for already.
    Raises: LatencyError: the target cannot run a plain convolution. OutOfTimeError: a probe is not done by the deadline.
    """
    cached = None if refresh else cached_probe(target, found)
    if cached is not None:
        return cached
    if until.left_s < PROBE_S:
        left_s = max(until.left_s, 0.0)
        raise OutOfTimeError(f"a probe must fit into the time of the set-up, but takes about {PROBE_S:.0f} s of {left_s:.0f} s")
    say(f"probing {target.name}: about a minute, once for this target")
    report = run_probe(target, open_target, np.random.default_rng(0), until)
    try:
        write_report(report)
    except RunError as error:
        say(f"the probe could not be kept for later: {error}")
    return report


def target_facts(target: Target, open_target: OpenTarget, say: Say, *, probe: bool, until: Deadline = NO_DEADLINE) -> dict[str, Any]:
    """Return the environment that a run records: what the target is, what it can run, and the probe that found it.

    Where the target is another machine, "host" is what this one is. Without `probe` the capabilities are those that the processor's
    flags imply, and "probe" is None; so it is where the deadline leaves no time for a probe that was not made before.
    """
    here = {} if target.name == LOCAL else {"host": environment()}
    found = target.environment()
    env = {"target": target.name} | found | here
    if not probe:
        say("the target's capabilities are taken from its processor's flags, not measured")
        return env | {"capabilities": detect(env).to_json(), "probe": None}
    try:
        report = probe_target(target, open_target, say, found=found, until=until)
    except OutOfTimeError as error:
        say(f"the target's capabilities are taken from its processor's flags: {error.message}; `paretopress probe` makes one for later")
        return env | {"capabilities": detect(env).to_json(), "probe": None}
    return env | {"capabilities": report.capabilities().to_json(), "probe": {"fingerprint": report.digest(), "date": report.date}}
