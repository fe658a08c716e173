"""The agent as a process: it lives as long as its standard input."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paretopress.targets.agent_process import BOOTSTRAP, agent_archive
from paretopress.targets.local import LocalTarget
from paretopress.targets.lock import sole_measurement
from paretopress.targets.wire_protocol import pack_arrays, read_frame, write_frame

TOKEN = "0123"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder for the agent, which this process shares."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def agent(device: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", BOOTSTRAP, TOKEN, str(len(agent_archive()))]
    environment = os.environ | {"TMPDIR": str(device)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=device, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(agent_archive())
        yield process
        process.kill()


def ask(agent: subprocess.Popen[bytes], head: dict[str, object], payload: bytes = b"") -> None:
    assert agent.stdin is not None
    write_frame(agent.stdin.write, head, payload)
    agent.stdin.flush()


def folders(device: Path) -> list[str]:
    """Return the folders there; onnxruntime leaves a file `.ses` of its own."""
    return [path.name for path in device.iterdir() if path.is_dir()]


def test_agent_runs_from_its_archive_alone_when_started(agent: subprocess.Popen[bytes], device: Path) -> None:
    ask(agent, {"command": "environment", "remove": []})
    assert agent.stdout is not None
    frame = read_frame(agent.stdout)
    assert frame is not None
    assert frame[0]["environment"]["cores_logical"] == os.cpu_count()
    assert (device / f"paretopress-{TOKEN}").stat().st_mode & 0o777 == 0o700
    agent.communicate(timeout=60)
    assert (agent.returncode, folders(device)) == (0, [])


def test_agent_ends_in_the_middle_of_a_measurement_when_its_input_ends(
    agent: subprocess.Popen[bytes], device: Path, small_onnx: Path
) -> None:
    name = hashlib.sha256(small_onnx.read_bytes()).hexdigest()
    head = {"command": "measure_baseline", "candidate": name, "inputs": ["x"], "target": LocalTarget().to_json(), "seed": 0}
    with sole_measurement():  # so that it waits where it would measure
        ask(agent, {"command": "put", "sha256": name, "keep": []}, small_onnx.read_bytes())
        assert agent.stdout is not None
        assert read_frame(agent.stdout) == ({}, b"")
        ask(agent, head, pack_arrays([np.zeros((1, 1, 8, 8), np.float32)]))
        agent.communicate(timeout=60)
    assert agent.returncode == 0
    assert folders(device) == []


def test_agent_leaves_nothing_when_it_is_cut_off_before_it_has_its_program(device: Path) -> None:
    command = [sys.executable, "-c", BOOTSTRAP, TOKEN, str(len(agent_archive()))]
    done = subprocess.run(
        command, input=agent_archive()[:1000], env=os.environ | {"TMPDIR": str(device)}, capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert folders(device) == []
