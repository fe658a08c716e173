"""Limits of a search: trials, time, finalists; and the grace period of a silent worker."""

from __future__ import annotations

from dataclasses import dataclass

from paretopress.errors import ConfigError

# seconds without a heartbeat after which a worker's trial is given to another, and heartbeats within that time
GRACE_S, WORDS = 90, 4


@dataclass(frozen=True, slots=True)
class Limits:
    """When the search ends: after `trials`, or so that everything is done within `seconds`, of which `finalist_share` is theirs.

    `finalists` are planned for; where `seconds` are left after them, more follow. With `stop_early` the trials end before that when the
    hypervolume has stopped growing (see `early_stop`); finalists then get the share of time that they would have had. With
    `longer_finalists` the later ones are trained for more than the planned steps while none is within the bound on the drop.
    """

    trials: int | None = None
    seconds: float | None = None
    finalist_share: float = 0.4
    finalists: int = 6
    stop_early: bool = True
    longer_finalists: bool = True

    def __post_init__(self) -> None:
        if self.trials is None and self.seconds is None:
            raise ConfigError("a search must end, but got neither a number of trials nor a time", "Give --trials, --minutes or --hours.")
        for name in ("trials", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, but got {name}={value}")
