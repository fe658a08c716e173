from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.core.registry import Registry
from paretopress.errors import ConfigError, RunError
from paretopress.evaluators import registry
from paretopress.evaluators.registry import Evaluator, further_figures


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluators: dict[str, Evaluator] = {
        "letters": lambda path, feed: len(path.name) + len(feed),
        "nan": lambda path, feed: float("nan"),
        "broken": lambda path, feed: 1 / 0,
    }
    monkeypatch.setattr(registry, "EVALUATORS", Registry[Evaluator]("evaluator", evaluators))


def test_further_figures_returns_what_evaluators_measure() -> None:
    assert further_figures(["letters"], Path("a/model.onnx"), {}) == {"letters": 10.0}
    assert further_figures([], Path("model.onnx"), {}) == {}


@pytest.mark.parametrize(("name", "says"), [("nan", "finite number, but got nan=nan"), ("broken", "broken got ZeroDivisionError")])
def test_further_figures_names_the_evaluator_when_it_fails(name: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        further_figures([name], Path("model.onnx"), {})


def test_further_figures_lists_the_names_when_there_is_no_such_evaluator() -> None:
    with pytest.raises(ConfigError, match="letters, nan, broken, but got 'watts'"):
        further_figures(["watts"], Path("model.onnx"), {})
