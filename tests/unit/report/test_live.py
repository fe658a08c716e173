"""The live view: its arithmetic, its lines without a terminal, its panel on one."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from paretopress.report.live import LiveView, Progress, Reporter, SilentReporter, panel, plain_line

PROGRESS = Progress(
    phase="search",
    done=12,
    planned=None,
    elapsed_s=60.0,
    phase_s=60.0,
    budget_s=240.0,
    completed=9,
    rejected_early=2,
    outraced=1,
    failed=1,
    best="98.1 % at 0.21 ms (2.4x)",
    front_size=5,
    hypervolume=0.12345,
    last="trial 11: 97.2 % at 0.19 ms",
)


def recorded(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, legacy_windows=False, _environ={"TERM": "xterm"}
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("planned", "budget_s", "fraction", "remaining_s"),
    [
        (None, 240.0, 0.25, 180.0),  # 60 of 240 s
        (48, None, 0.25, 180.0),  # 5 s a trial, 36 to go
        (16, 240.0, 0.75, 20.0),  # the trials run out first
        (120, 80.0, 0.75, 20.0),  # the time runs out first
        (None, 50.0, 1.0, 0.0),  # over time
        (None, None, None, None),
    ],
)
def test_progress_takes_the_nearer_bound_when_there_are_two(
    planned: int | None, budget_s: float | None, fraction: float | None, remaining_s: float | None
) -> None:
    progress = replace(PROGRESS, planned=planned, budget_s=budget_s)
    assert progress.fraction() == fraction
    assert progress.remaining_s() == remaining_s


def test_progress_does_not_guess_when_no_trial_has_finished() -> None:
    assert replace(PROGRESS, done=0, planned=10, budget_s=None).remaining_s() is None


def test_plain_line_says_everything_when_a_trial_has_finished() -> None:
    assert plain_line(replace(PROGRESS, planned=48)) == (
        "search 12/48, 1:00 of 4:00, about 3:00 left | trial 11: 97.2 % at 0.19 ms | "
        "best 98.1 % at 0.21 ms (2.4x) | front 5, hypervolume 0.1235"
    )


def test_plain_line_says_so_when_nothing_is_feasible() -> None:
    line = plain_line(replace(PROGRESS, best="", last="", elapsed_s=3_725.0, budget_s=None))
    assert line == "search 12, 1:02:05 | best none yet | front 5, hypervolume 0.1235"


def test_live_view_prints_one_line_per_trial_when_there_is_no_terminal() -> None:
    console = recorded(terminal=False)
    with LiveView(console) as view:
        view.update(replace(PROGRESS, done=0))
        view.update(replace(PROGRESS, done=1, last="trial 0"))
        view.update(replace(PROGRESS, done=1, last="trial 0", elapsed_s=61.0))
        view.update(replace(PROGRESS, done=2, last="trial 1"))
        view.update(replace(PROGRESS, phase="finalists", done=2, last="trial 0 again"))
    lines = text_of(console).splitlines()
    assert [line.split(" | ")[1] for line in lines] == ["trial 0", "trial 1", "trial 0 again"]


def test_live_view_prints_the_text_as_it_is_when_it_looks_like_markup() -> None:
    console = recorded(terminal=False)
    with LiveView(console) as view:
        view.message("interval [0.1, 0.2] [bold]" + "x" * 120)
    assert text_of(console) == "interval [0.1, 0.2] [bold]" + "x" * 120 + "\n"


def test_live_view_draws_only_on_update_when_on_a_terminal() -> None:
    console = recorded(terminal=True)
    with LiveView(console) as view:
        started = text_of(console)
        view.update(PROGRESS)
        drawn = text_of(console)
        view.message("exported trial 11")
    assert "98.1 %" not in started
    assert "98.1 % at 0.21 ms (2.4x)" in drawn
    assert "exported trial 11" in text_of(console)
    assert text_of(console).endswith("\x1b[?25h")  # the cursor is back


def test_live_view_restores_the_terminal_when_the_search_raises() -> None:
    console = recorded(terminal=True)

    def search() -> None:
        with LiveView(console) as view:
            view.update(PROGRESS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    assert text_of(console).endswith("\x1b[?25h")


def test_panel_shows_all_facts_when_80_columns_wide() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(panel(PROGRESS))
    text = text_of(console)
    time, front = "1:00 of 4:00, about 3:00 left", "5 points, hypervolume 0.1235"
    facts = ("search 12", time, PROGRESS.best, front, "9 completed, 2 over the budget, 1 out of the race, 1 failed", PROGRESS.last)
    assert [fact for fact in facts if fact not in text] == []


def test_panel_fills_a_quarter_of_the_bar_when_a_quarter_is_done() -> None:
    # off a terminal rich draws the done part of the bar alone
    quarter, half = (io.StringIO(), io.StringIO())
    for file, elapsed_s in ((quarter, 60.0), (half, 120.0)):
        Console(file=file, width=100, color_system=None).print(panel(replace(PROGRESS, elapsed_s=elapsed_s)))
    assert half.getvalue().splitlines()[1].count("━") == pytest.approx(2 * quarter.getvalue().splitlines()[1].count("━"), abs=1)


def test_silent_reporter_prints_nothing_when_updated(capsys: pytest.CaptureFixture[str]) -> None:
    reporter: Reporter = SilentReporter()
    reporter.update(PROGRESS)
    reporter.message("hello")
    assert capsys.readouterr() == ("", "")
