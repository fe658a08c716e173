"""No password of a URL in what is shown, logged or raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretopress.config import parse_config
from paretopress.errors import ConfigError
from paretopress.search.storage.places import StudyPlace, open_storage
from paretopress.system.event_log import EventLog
from paretopress.system.secret_masking import masked
from paretopress.targets.ssh_address import parse_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://u:hunter2@h/db#n", "postgresql+psycopg://u:***@h/db#n"),
        ("postgresql://u:hunter%402%2F@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:hunter2@x@h/db?x=a@b", "postgresql://u:***@h/db?x=a@b"),
        ("postgresql://u:hunter/2@h/db", "postgresql://u:***@h/db"),
        ("postgresql://:hunter2@h/db", "postgresql://:***@h/db"),
        ("postgresql://h/db?user=u&password=hunter2#n", "postgresql://h/db?user=u&password=***#n"),
        ("postgresql://h/db?sslpassword=hunter2&sslmode=require", "postgresql://h/db?sslpassword=***&sslmode=require"),
        ("postgresql://h/db?pass%77ord=hunter2", "postgresql://h/db?pass%77ord=***"),
        ("mysql://u:hunter2@h/db and grpc://u:hunter2@g:1", "mysql://u:***@h/db and grpc://u:***@g:1"),
        ("s3://AKIA:hunter2@bucket", "s3://AKIA:***@bucket"),
        ("s3://bucket?aws_secret_access_key=hunter2", "s3://bucket?aws_secret_access_key=***"),
        ("https://b.s3.aws/x?X-Amz-Signature=hunter2&n=1", "https://b.s3.aws/x?X-Amz-Signature=***&n=1"),
        ("could not connect: host=h password=hunter2 port=1", "could not connect: host=h password=*** port=1"),
        ("{'aws_secret_access_key': 'hunter2'}", "{'aws_secret_access_key': '***'}"),
    ],
)
def test_masked_hides_a_password_when_it_stands_in(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://press@db.local:5432/press#night-3f2a91",
        "grpc://127.0.0.1:13000",
        "ssh://pi@board.local:2222?python=/opt/venv/bin/python&key=~/.ssh/board&known_hosts=~/.ssh/boards",
        "model.py:make must be a torch.nn.Module, but got int at layer 3",
        "torchvision:resnet18?weights=FILE.safetensors&num_classes=10",
        "5 tokens per second: fine",
    ],
)
def test_masked_leaves_a_text_as_it_is_when_it_holds_no_password(text: str) -> None:
    assert masked(text) == text


def test_masked_hides_the_passwords_of_a_url_when_they_stand_alone() -> None:
    url = "postgresql://u:hunter%402@h/db"
    assert masked("FATAL: hunter@2 is not the password, nor is hunter%402", url) == "FATAL: *** is not the password, nor is ***"


def test_event_log_writes_no_password_when_an_error_quotes_a_url(tmp_path: Path) -> None:
    EventLog(tmp_path / "log.jsonl")("failed", {"error": "no answer from postgresql://u:hunter2@h/db", "trial": 3})
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert (line["error"], line["trial"]) == ("no answer from postgresql://u:***@h/db", 3)


@pytest.mark.parametrize("spec", ["ssh://pi:hunter2@board", "ssh://pi:hunter2@board:port", "ssh://pi:hunter2@board/path"])
def test_parse_address_shows_no_password_when_it_refuses_one(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(spec)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["nodriver://u:hunter2@h/db", "postgresql+psycopg://u:hunter2@127.0.0.1:1/db", "sqlite://u:hunter2@h/x"])
def test_open_storage_shows_no_password_when_it_fails(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_storage(StudyPlace(url, "night"))
    assert "hunter2" not in str(caught.value) + repr(StudyPlace(url, "night"))


def test_study_place_leaves_a_masked_password_to_the_driver() -> None:
    printed = str(StudyPlace("postgresql://u:hunter2@h/db", "night"))
    assert StudyPlace.parse(printed) == StudyPlace("postgresql://u@h/db", "night")


def test_study_place_shows_no_password_when_the_text_is_no_place() -> None:
    with pytest.raises(ConfigError) as caught:
        StudyPlace.parse("postgresql://u:hunter2@h/db")
    assert "hunter2" not in str(caught.value)


def test_parse_config_shows_no_password_when_a_key_is_unknown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"workers": {"storages": "postgresql://u:hunter2@h/db"}}, "postgresql://u:hunter2@h/db#n")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
