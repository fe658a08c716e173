"""The view of a running search: a redrawn panel on a terminal, one plain line per finished trial anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from paretopress.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands.

    Attributes:
        done, planned: trials finished in this phase and to be run in it, None where only time bounds it.
        elapsed_s, budget_s: seconds spent on the run, and when it ends, None where only the number of trials bounds it.
        phase_s: seconds spent in this phase: they set the pace.
        completed, rejected_early, outraced, failed: the search's trials by how they ended.
        best: the best feasible point in words, or "".
        last: the line of the trial that finished last, or "".
    """

    phase: str
    done: int
    planned: int | None
    elapsed_s: float
    phase_s: float
    budget_s: float | None
    completed: int
    rejected_early: int
    outraced: int
    failed: int
    best: str
    front_size: int
    hypervolume: float
    last: str

    def fraction(self) -> float | None:
        """Return the share in [0, 1] of the bound that is nearer to being used up, or None without a bound."""
        shares = []
        if self.planned:
            shares.append(self.done / self.planned)
        if self.budget_s:
            shares.append(self.elapsed_s / self.budget_s)
        return min(1.0, max(shares)) if shares else None

    def remaining_s(self) -> float | None:
        """Return the estimated seconds to the nearer bound, the planned trials at the pace so far; None where unknown."""
        bounds = []
        if self.planned is not None and self.done > 0:
            bounds.append(self.phase_s / self.done * (self.planned - self.done))
        if self.budget_s is not None:
            bounds.append(self.budget_s - self.elapsed_s)
        return max(0.0, min(bounds)) if bounds else None


class Reporter(Protocol):
    """Receives the progress of a search."""

    def update(self, progress: Progress) -> None:
        """Take the newest state; called after every trial, and as often as the caller likes in between."""

    def message(self, text: str) -> None:
        """Take one line that should stay readable after the search."""


class SilentReporter:
    """A `Reporter` that drops everything."""

    def update(self, progress: Progress) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""


REPORTERS = Registry[Callable[[], Reporter]]("reporter", {"silent": SilentReporter})


class Reporters:
    """A `Reporter` that forwards to several."""

    def __init__(self, *told: Reporter) -> None:
        """Take the reporters, in the order in which they are called."""
        self._told = told

    def update(self, progress: Progress) -> None:
        """Forward to all."""
        for reporter in self._told:
            reporter.update(progress)

    def message(self, text: str) -> None:
        """Forward to all."""
        for reporter in self._told:
            reporter.message(text)


class LiveView:
    """A `Reporter` for people; use it as a context manager.

    On a terminal it redraws one panel, elsewhere (a log, a pipe, CI) it prints one line per finished trial. It draws when
    `update` is called and never from a thread of its own, because latency may be being measured at that moment.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._printed: tuple[str, int] | None = None
        redraws = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False) if redraws else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show the state; without a terminal only if a trial has finished since the last line."""
        if self._live is not None:
            self._live.update(panel(progress), refresh=True)
        elif progress.done > 0 and self._printed != (progress.phase, progress.done):
            self._printed = (progress.phase, progress.done)
            self.message(plain_line(progress))

    def message(self, text: str) -> None:
        """Print one line, above the panel if there is one."""
        self._console.print(Text(text), soft_wrap=True)


def plain_line(progress: Progress) -> str:
    """Return the state as one line of text."""
    parts = [f"{progress.phase} {_count(progress)}, {_time(progress)}"]
    parts += [progress.last] if progress.last else []
    parts += [f"best {progress.best or 'none yet'}", f"front {progress.front_size}, hypervolume {progress.hypervolume:.4g}"]
    return " | ".join(parts)


def panel(progress: Progress) -> RenderableType:
    """Return the state as a panel: bar with the time left, best point, front, counts, last trial."""
    fraction = progress.fraction()
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    # without a bound the bar pulses; its time is the search's, so that it moves only when something happened
    total = None if fraction is None else 1.0
    bar.add_row(ProgressBar(total=total, completed=fraction or 0.0, animation_time=progress.elapsed_s), Text(_time(progress)))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    counts = (
        f"{progress.completed} completed, {progress.rejected_early} over the budget, {progress.outraced} out of the race, "
        f"{progress.failed} failed"
    )
    for name, fact, style in (
        ("best", progress.best or "none within the budget yet", "bold green" if progress.best else "dim"),
        ("front", f"{_points(progress.front_size)}, hypervolume {progress.hypervolume:.4g}", ""),
        ("trials", counts, ""),
        ("last", progress.last or "-", ""),
    ):
        facts.add_row(name, Text(fact, style=style))
    return Panel(Group(bar, facts), title=Text(f"{progress.phase} {_count(progress)}", style="bold"), title_align="left")


def _points(number: int) -> str:
    return "1 point" if number == 1 else f"{number} points"


def _count(progress: Progress) -> str:
    return f"{progress.done}" if progress.planned is None else f"{progress.done}/{progress.planned}"


def _time(progress: Progress) -> str:
    spent = _clock(progress.elapsed_s)
    if progress.budget_s is not None:
        spent += f" of {_clock(progress.budget_s)}"
    remaining = progress.remaining_s()
    return spent if remaining is None else f"{spent}, about {_clock(remaining)} left"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
