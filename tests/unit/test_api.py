"""What is handed to `compress` becomes one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretopress import api
from paretopress.config import RunConfig
from paretopress.core.outcome import Budget
from paretopress.errors import ConfigError
from paretopress.run import result
from paretopress.run.callbacks import NO_CALLBACKS
from paretopress.run.result import Result


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations and callbacks that runs were started with."""
    asked: list[Any] = []

    def start(config: RunConfig, run: Path, reporter: object, **rest: Any) -> Result:
        asked.extend([config, rest["callbacks"]])
        return Result(run, {})

    monkeypatch.setattr(api, "start_run", start)
    return asked


def test_compress_takes_a_configuration_of_any_form_when_it_is_given(started: list[Any], tmp_path: Path) -> None:
    sections = {"budget": {"speedup": 2.0}, "time": {"trials": 3}, "recovery": {"batch_size": 64}}
    path = tmp_path / "run.toml"
    path.write_text("schema = 1\n[budget]\nspeedup = 2.0\n[time]\ntrials = 3\n[recovery]\nbatch_size = 64\n")
    for config in (sections, RunConfig.model_validate(sections), path, str(path)):
        api.compress(None, None, run="run", config=config)  # type: ignore[arg-type]
    found = [config.model_copy(update={"base": None}) for config in started[::2]]
    assert found == [RunConfig.model_validate(sections)] * 4
    assert started[1] == NO_CALLBACKS


def test_compress_puts_its_arguments_over_the_configuration(started: list[Any]) -> None:
    sections = {"seed": 3, "budget": {"latency_ms": 2.0, "max_drop": 1.0}, "time": {"minutes": 5.0, "trials": 9, "finalists": 2}}
    api.compress(None, None, run="run", config=sections, budget=Budget(speedup=4.0), hours=2.0, seed=7)  # type: ignore[arg-type]
    config = started[0]
    assert config.checked_budget() == Budget(speedup=4.0)
    assert (config.time.minutes, config.time.hours, config.time.trials, config.time.finalists, config.seed) == (None, 2.0, 9, 2, 7)


def test_compress_hands_its_callbacks_on(started: list[Any]) -> None:
    told: list[str] = []
    arguments: dict[str, Any] = {"on_event": lambda name, fields: told.append(name), "should_stop": lambda: True}
    api.compress(None, None, run="run", budget=Budget(speedup=2.0), trials=1, **arguments)  # type: ignore[arg-type]
    started[1].on_event("trial", {})
    assert told == ["trial"]
    assert started[1].should_stop()


def test_to_dataframe_says_what_to_install_when_pandas_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(result, "import_module", missing)
    with pytest.raises(ConfigError) as refused:
        Result(Path("run"), {"points": []}).to_dataframe()
    assert "pip install pandas" in refused.value.hint
