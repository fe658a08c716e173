"""What is counted of a target's files: sessions opened, and files read to be hashed."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretopress.runtimes import onnx_runtime
from paretopress.targets import file_facts as facts


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that sessions were opened of."""
    opened, real = list[str](), onnx_runtime.open_session

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.name)
        return real(path, *args, **options)

    monkeypatch.setattr(onnx_runtime, "open_session", counted)
    return opened


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be hashed; the clock stands ten seconds after what the test writes."""
    names, real = list[str](), facts._read

    def counted(path: Path) -> tuple[int, str]:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(facts, "_read", counted)
    monkeypatch.setattr(facts, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10))
    return names
