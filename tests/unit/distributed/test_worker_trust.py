"""What a worker loads: what its own user named, and what the study names with --trust alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from typer.testing import CliRunner

import paretopress.distributed.worker as worker_module
from paretopress.commands.app import app
from paretopress.config import confirmed, parse_config, read_config
from paretopress.distributed.ray_workers import flags_of
from paretopress.distributed.worker import WorkerFlags, own_config, run_worker
from paretopress.errors import ConfigError, ForeignDataError, TrustError
from paretopress.report.live import SilentReporter
from paretopress.run.handshake import publish, published_config
from paretopress.run.lookup import confirmed_config, store_config, stored_config, study_place
from paretopress.search.storage.places import StudyPlace
from paretopress.system.run_folder import RunFolder
from paretopress.trial.subprocess_evaluator import evaluator_command

PLACE = StudyPlace("postgresql://press@db/press", "night")
ALL = {"model": "m.py:f", "data": "d.py:f", "artifacts": "/mnt/press"}
OURS = WorkerFlags("mine.py:m", "mine.py:d", artifacts="/here", base="/home/me")


class Writes:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def published(**changed: Any) -> dict[str, Any]:
    workers = {"storage": "postgresql://evil/x", "study": "other", "artifacts": "/mnt/press"}
    value = {"model": "m.py:f", "data": "d.py:f", "base": "/evil", "workers": workers, "budget": {"speedup": 2}, "time": {"trials": 1}}
    return parse_config(value | changed, "a test").to_json()


def test_own_config_names_every_spec_and_option_when_no_option_was_given() -> None:
    value = published(metric={"name": "score.py:f"}, target={"spec": "ssh://pi@board"})
    with pytest.raises(TrustError) as caught:
        own_config(value, PLACE, WorkerFlags())
    for spec in ("model='m.py:f'", "data='d.py:f'", "metric='score.py:f'", "target='ssh://pi@board'", "artifacts='/mnt/press'"):
        assert spec in caught.value.message
    for option in ("--model", "--data", "--metric", "--target", "--artifacts", "--trust"):
        assert option in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("left_out", ["model", "data", "artifacts"])
def test_own_config_refuses_when_one_option_is_left_out(left_out: str) -> None:
    flags = WorkerFlags(**{name: spec for name, spec in ALL.items() if name != left_out})
    with pytest.raises(TrustError, match=f"names {left_out}="):
        own_config(published(), PLACE, flags)


@pytest.mark.parametrize(
    "section", [{"metric": {"name": "score.py:f"}}, {"target": {"spec": "ssh://pi@board?python=/tmp/evil&key=~/.ssh/id_rsa"}}]
)
def test_own_config_refuses_what_only_the_study_names(section: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match=f"names {next(iter(section))}="):
        own_config(published(**section), PLACE, OURS)


def test_own_config_takes_the_options_when_all_are_given() -> None:
    config = own_config(published(trust=True, replay="/evil/run"), PLACE, OURS)
    assert (config.model, config.data, config.base, config.workers.artifacts) == ("mine.py:m", "mine.py:d", "/home/me", "/here")
    assert (config.workers.storage, config.workers.study) == (PLACE.url, PLACE.name)
    assert (config.trust, config.replay) == (False, None)
    assert config.budget.speedup == 2


def test_own_config_takes_what_the_study_names_when_trusted() -> None:
    config = own_config(published(), PLACE, WorkerFlags(data="mine.py:d", base="/home/me", trust=True))
    assert (config.model, config.data, config.workers.artifacts, config.trust) == ("m.py:f", "mine.py:d", "/mnt/press", True)


def test_own_config_raises_when_the_study_holds_no_configuration() -> None:
    with pytest.raises(ConfigError, match="must be a valid configuration"):
        own_config({"model": 7}, PLACE, OURS)


def test_run_worker_runs_no_pickle_when_the_database_names_and_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Writes(tmp_path / "ran"), tmp_path / "evil.pt")
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    study.set_user_attr("run/config.json", published(model=str(tmp_path / "evil.pt"), data="digits", trust=True))
    study.set_user_attr("run/identity", {})
    monkeypatch.setattr(worker_module, "open_study", lambda _: study)
    with pytest.raises(TrustError):
        run_worker(str(PLACE), SilentReporter())
    artifacts = str(tmp_path / "artifacts")
    with pytest.raises(TrustError, match="is a pickle"):  # naming it is not trusting it
        run_worker(str(PLACE), SilentReporter(), WorkerFlags(str(tmp_path / "evil.pt"), "digits", artifacts=artifacts))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [None, 7, ["run"], "text"])
def test_published_config_raises_when_it_is_no_object(value: object) -> None:
    study = optuna.create_study()
    study.set_user_attr("run/config.json", value)
    study.set_user_attr("run/identity", {})
    with pytest.raises(ForeignDataError, match="must publish a configuration"):
        published_config(study)


def test_flags_of_hands_the_drivers_own_specs_to_workers_on_ray() -> None:
    config = parse_config(published(trust=True) | {"workers": {"artifacts": "/mnt", "ray": "local"}}, "a test")
    assert flags_of(config) == WorkerFlags("m.py:f", "d.py:f", "top-1", "local", "/mnt", base="/evil", trust=True)


def toml(folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text('schema = 1\nmodel = "evil.pt"\ndata = "digits"\ntrust = true\n[budget]\nspeedup = 2.0\n[time]\ntrials = 1\n')
    return path


def test_read_config_asks_for_the_flag_when_a_file_trusts_itself(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"--trust.*run\.toml") as caught:
        read_config(toml(tmp_path))
    assert "--trust" in caught.value.hint
    assert read_config(toml(tmp_path), trust=True).trust


def test_search_runs_no_pickle_when_only_the_toml_file_trusts_it(tmp_path: Path) -> None:
    torch.save(Writes(tmp_path / "ran"), tmp_path / "evil.pt")
    done = CliRunner().invoke(app, ["search", str(toml(tmp_path)), "--run", str(tmp_path / "run")])
    assert isinstance(done.exception, TrustError)
    assert not (tmp_path / "ran").exists()


def test_confirmed_takes_trust_from_the_command_alone() -> None:
    plain, trusting = parse_config({}, "a test"), parse_config({"trust": True}, "a test")
    assert confirmed(plain, trust=True, source="x").trust
    assert not confirmed(plain, trust=False, source="x").trust
    assert confirmed(trusting, trust=True, source="x").trust


def run_folder(folder: Path, **more: Any) -> RunFolder:
    root = folder / "run"
    root.mkdir()
    store_config(RunFolder(root), parse_config(published() | more, "a test"))
    return RunFolder(root)


@pytest.mark.parametrize("command", [["resume"], ["rerun", "--trial", "0"], ["search", "--replay"]])
def test_a_run_that_trusted_asks_for_the_flag_again_when_it_goes_on(tmp_path: Path, command: list[str]) -> None:
    torch.save(Writes(tmp_path / "ran"), tmp_path / "evil.pt")
    folder = run_folder(tmp_path, trust=True, model=str(tmp_path / "evil.pt"), data="digits", workers={})
    done = CliRunner().invoke(app, [*command, str(folder.root)])
    assert isinstance(done.exception, TrustError)
    assert "--trust" in done.exception.hint
    assert not (tmp_path / "ran").exists()


def test_stored_config_trusts_nothing_when_the_runs_folder_does(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, trust=True)
    assert not stored_config(folder).trust
    assert confirmed_config(folder, trust=True).trust


def test_evaluator_command_hands_trust_down_when_this_process_was_given_it(tmp_path: Path) -> None:
    assert "--trust" in evaluator_command(tmp_path, 1, trust=True)
    assert "--trust" not in evaluator_command(tmp_path, 1)


def test_store_config_keeps_a_password_out_of_what_is_written(tmp_path: Path) -> None:
    url = "postgresql+psycopg://press:hunter2@db/press"
    folder = run_folder(tmp_path, trust=True, workers={"storage": url, "study": "night", "artifacts": "/mnt"})
    assert "hunter2" not in folder.config.read_text()
    assert (folder.storage_url.stat().st_mode & 0o777) == 0o600
    place = study_place(folder)
    assert isinstance(place, StudyPlace)
    assert place.url == url
    assert "hunter2" not in repr(place) + repr(stored_config(folder)) + str(place)
    for name in ("state", "tables", "graph"):
        (folder.root / f"{name}.json").write_text("{}")
    study = optuna.create_study()
    publish(study, folder, _NoShelf(), {})  # type: ignore[arg-type]  # what it is pushed is not of interest here
    assert "hunter2" not in json.dumps(study.user_attrs)
    config = published_config(study)
    assert (config["trust"], config["workers"]["storage"]) == (False, None)


def test_study_place_says_what_is_missing_when_a_copy_lacks_the_password(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, workers={"storage": "postgresql://press:hunter2@db/press", "study": "night", "artifacts": "/mnt"})
    folder.storage_url.unlink()
    with pytest.raises(Exception, match="storage-url"):
        study_place(folder)


class _NoShelf:
    def push(self, name: str, path: Path) -> None:
        pass
