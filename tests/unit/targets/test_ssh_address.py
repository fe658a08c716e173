"""What may stand in the address of a target over SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.errors import ConfigError
from paretopress.targets.ssh_address import SshAddress, parse_address


@pytest.mark.parametrize(
    ("spec", "expected", "name"),
    [
        ("ssh://pi@board.local", SshAddress("board.local", "pi"), "ssh://pi@board.local"),
        ("ssh://board", SshAddress("board"), "ssh://board"),
        ("ssh://pi@10.0.0.7:2222", SshAddress("10.0.0.7", "pi", 2222), "ssh://pi@10.0.0.7:2222"),
        ("ssh://pi@[fe80::1]:22", SshAddress("fe80::1", "pi", 22), "ssh://pi@[fe80::1]:22"),
        ("ssh://pi@board?python=/opt/venv/bin/python3.12", SshAddress("board", "pi", None, "/opt/venv/bin/python3.12"), "ssh://pi@board"),
    ],
)
def test_parse_address_reads_every_part_when_given(spec: str, expected: SshAddress, name: str) -> None:
    assert parse_address(spec) == expected
    assert parse_address(spec).name == name


def test_parse_address_reads_files_when_they_exist(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "hosts").touch()
    address = parse_address(f"ssh://pi@board?key={tmp_path}/key&known_hosts={tmp_path}/hosts")
    assert (address.key, address.known_hosts) == (tmp_path / "key", tmp_path / "hosts")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ssh://pi:secret@board", "must not hold a password"),
        ("ssh://", "must be a user and a host"),
        ("ssh://pi@", "must be a user and a host"),
        ("ssh://pi@board/tmp", "must be a user and a host"),
        ("ssh://pi@board#x", "must be a user and a host"),
        ("ssh://pi@board:port", "must be a URL"),
        ("ssh://pi@board:70000", "must be a URL"),
        ("ssh://pi@-oProxyCommand=x", "host of an SSH target must match"),
        ("ssh://-l@board", "user of an SSH target must match"),
        ("ssh://pi;reboot@board", "user of an SSH target must match"),
        ("ssh://pi@board?python=python3;reboot", "python of an SSH target must match"),
        ("ssh://pi@board?python=$(reboot)", "python of an SSH target must match"),
        ("ssh://pi@board?python=-c", "python of an SSH target must match"),
        ("ssh://pi@board?python=", "python of an SSH target must match"),
        ("ssh://pi@board?threads=2", r"are key, known_hosts, python, but got threads=2"),
        ("ssh://pi@board?python", "must be name=value"),
        ("ssh://pi@board?python=a&python=b", "may be given once"),
        ("ssh://pi@board?key=/no/such/key", "key of an SSH target must be a file"),
    ],
)
def test_parse_address_says_what_is_wrong_when_malformed(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_address(spec)
    assert "secret" not in str(caught.value)
