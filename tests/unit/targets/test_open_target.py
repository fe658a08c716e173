"""From a spec to a target."""

from __future__ import annotations

import os

import pytest

from paretopress.errors import ConfigError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.local import LocalTarget
from paretopress.targets.open_target import open_target


def test_open_target_returns_this_host_when_local() -> None:
    assert open_target("local", SessionSettings(threads=1)) == LocalTarget(SessionSettings(threads=1))


@pytest.mark.parametrize("spec", ["", "here", "http://board", "ssh:board"])
def test_open_target_lists_the_forms_when_unknown(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"must be local or ssh://user@host\[:port\], but got target="):
        open_target(spec, SessionSettings())


def test_open_target_refuses_when_there_are_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    open_target("local", SessionSettings(threads=2))
    with pytest.raises(ConfigError, match="at most the 2 cores of the target, but got threads=3 at local"):
        open_target("local", SessionSettings(threads=3))
