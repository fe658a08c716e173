"""Tests that need a server: skipped in one line where it is missing, failed where nothing may be skipped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import loopback_database
import loopback_sshd
import pytest
from skips import NO_SKIPS

TESTS = Path(__file__).resolve().parents[1]
NEEDING = """
import pytest
from skips import need

@pytest.fixture(scope="module")
def server():
    need("a server is not installed: apt-get install server")

@pytest.fixture
def other(server):
    pass

@pytest.mark.parametrize("k", range(3))
def test_one(server, k):
    pass

def test_two(other):
    pass

@pytest.mark.xfail(strict=True)
def test_known():
    assert False

def test_alone():
    pass
"""


def run_tests(folder: Path, text: str, no_skips: str) -> tuple[int, str]:
    """Return the exit status and the output of tests that load the plugin."""
    (folder / "test_needing.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(TESTS), NO_SKIPS: no_skips, "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-ra", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_need_skips_with_one_line_when_several_tests_need_what_is_missing(tmp_path: Path) -> None:
    status, output = run_tests(tmp_path, NEEDING, "0")
    assert status == 0
    lines = [line for line in output.splitlines() if line.startswith("SKIPPED")]
    assert len(lines) == 1
    assert re.fullmatch(r"SKIPPED \[4\] .*skips\.py:\d+: a server is not installed: apt-get install server", lines[0])
    assert "1 passed, 4 skipped, 1 xfailed" in output


def test_need_fails_when_nothing_may_be_skipped(tmp_path: Path) -> None:
    status, output = run_tests(tmp_path, NEEDING, "1")
    assert status == 1
    assert "1 passed, 1 xfailed, 4 errors" in output
    assert "nothing may be skipped where PARETOPRESS_NO_SKIPS=1, but got: Skipped: a server is not installed" in output


def test_importorskip_fails_when_nothing_may_be_skipped(tmp_path: Path) -> None:
    text = "import pytest\npytest.importorskip('no_such_package')\ndef test_one(): pass\n"
    assert run_tests(tmp_path, text, "0")[0] == 5  # no test is left, and none failed
    status, output = run_tests(tmp_path, text, "1")
    assert status == 2
    assert "could not import 'no_such_package'" in output


def programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_missing_says_what_to_install_when_there_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(loopback_sshd, "PLACES", (str(tmp_path / "sbin"),))
    monkeypatch.setattr(loopback_database, "DEBIAN", tmp_path / "postgresql")
    assert loopback_sshd.missing() == "an SSH server is not installed: apt-get install openssh-server"
    assert loopback_database.missing() == "a PostgreSQL server is not installed: apt-get install postgresql"
    programs(tmp_path / "sbin", "sshd")
    assert loopback_sshd.missing()  # keys cannot be made
    (tmp_path / "ssh-keygen").touch(mode=0o755)
    assert loopback_sshd.missing() == ""


def test_binaries_are_the_newest_whole_ones_when_there_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_database, "DEBIAN", tmp_path / "postgresql")
    all_of_them = loopback_database.PROGRAMS
    elsewhere = programs(tmp_path / "bin", *all_of_them)
    monkeypatch.setenv("PATH", str(elsewhere))
    assert loopback_database.binaries() == elsewhere
    nine, fifteen = (programs(tmp_path / "postgresql" / version / "bin", *all_of_them) for version in ("9", "15"))
    programs(tmp_path / "postgresql" / "17" / "bin", "initdb")  # what its client package leaves
    assert loopback_database.binaries() == fifteen != nine


def test_missing_says_what_to_do_when_root_has_no_account_for_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs(tmp_path / "bin", *loopback_database.PROGRAMS)))
    monkeypatch.setattr(loopback_database, "ACCOUNT", "no-such-account")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert loopback_database.missing().startswith("PostgreSQL does not run as root, and there is no account no-such-account")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert loopback_database.missing() == ""
