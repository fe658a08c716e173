"""Slots of a limited number of trials: taken by finished trials, by those under way, and by queued retries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

# attributes of a trial: its plan, which it has once its evaluation began; why it failed; the trial whose parameters it tries once more;
# that it was cut off by the end of the run
PLAN, ERROR, RETRY_OF, CUT_OFF = "plan", "error", "retry_of", "cut_off"
_FIXED = "fixed_params"  # Optuna's system attribute of a trial that was queued


def retry_once(study: optuna.Study, trial: Trial | FrozenTrial) -> bool:
    """Queue an interrupted trial's parameters once more; return whether that was done."""
    if RETRY_OF in trial.user_attrs:
        return False
    queued(study, trial, {RETRY_OF: trial.number})
    return True


def queued(study: optuna.Study, trial: Trial | FrozenTrial, user_attrs: Mapping[str, object]) -> None:
    """Queue a trial's parameters; those that it was queued with count where it was ended before it had them all."""
    fixed = trial.system_attrs.get(_FIXED, {}) if isinstance(trial, FrozenTrial) else {}
    study.enqueue_trial({**fixed, **trial.params}, user_attrs=dict(user_attrs))


def rank(trial: Trial | FrozenTrial) -> int:
    """Return the slot of a trial, by the number of the trial that took it first: a retry has the slot of what it retries."""
    return int(trial.user_attrs.get(RETRY_OF, trial.number))


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots that are taken.

    A retry has the place of the trial that it retries from the moment at which that one ends, so a limited number of trials neither loses
    it nor is exceeded by it, whoever asks for trials meanwhile.

    Attributes:
        ended: completed, or failed for good: for a reason, or cut off a second time. begun: ranks of the trials under way.
        retries: queued, the first to be taken first. others: how many others are queued.
    """

    ended: Sequence[FrozenTrial]
    begun: frozenset[int]
    retries: Sequence[FrozenTrial]
    others: int

    @classmethod
    def of(cls, trials: Mapping[TrialState, Sequence[FrozenTrial]]) -> Self:
        """Return the places of the trials of a study, by their state."""
        complete, running, waiting = (trials.get(state, ()) for state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING))
        retried = {t.user_attrs[RETRY_OF] for several in trials.values() for t in several if RETRY_OF in t.user_attrs}
        failed = [t for t in trials.get(TrialState.FAIL, ()) if _failed_for_good(t, retried)]
        retries = [t for t in waiting if RETRY_OF in t.user_attrs]
        return cls([*complete, *failed], frozenset(map(rank, running)), retries, len(waiting) - len(retries))

    def open(self, below: float = math.inf) -> int:
        """Return how many places with a lower rank are taken by trials under way, or queued retries."""
        return sum(place < below for place in self.begun | set(map(rank, self.retries)))


def _failed_for_good(trial: FrozenTrial, retried: set[int]) -> bool:
    """Return whether a failed trial counts; one that was given up before it began, or whose retry has its place, does not.

    One that began and has neither a reason nor a retry counts: its retry is about to be queued, or it was the retry and was cut off too.
    """
    attributes = trial.user_attrs
    return ERROR in attributes or (PLAN in attributes and CUT_OFF not in attributes and trial.number not in retried)
