"""Callbacks of a run into the user's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions of the user's that a run calls; one that raises ends the run, which can be resumed.

    Attributes:
        on_event: called with the name and the fields of every event of log.jsonl, as it is written there.
        should_stop: asked before each trial, finalist and repeated latency. Once it returns true, what is under way is completed and the
            run ends with the front that it has; `resume` goes on from there.
    """

    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _, __: None
    should_stop: Callable[[], bool] = lambda: False


NO_CALLBACKS = Callbacks()
