"""The knobs of a search: kinds of decisions, each of which a configuration can freeze."""

from __future__ import annotations

from enum import StrEnum


class Knob(StrEnum):
    """One kind of decision; a frozen one stays as in the unchanged model, the distillation at its defaults.

    `PRUNE` is the share of channels removed from a group, `BRANCHES` the removal of a whole residual branch; both are values of the
    same variables.
    """

    PRUNE = "prune"
    BITS = "bits"
    RANK = "rank"
    BRANCHES = "branches"
    DISTILLATION = "distillation"
