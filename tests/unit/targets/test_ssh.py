"""Files, retries and errors of a target over SSH, with agents that answer in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretopress.errors import ConfigError, LatencyError, ParetopressError, TargetLostError
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.agent import OpenFiles, answer
from paretopress.targets.local import LocalTarget
from paretopress.targets.ssh import SshTarget
from paretopress.targets.ssh_address import SshAddress
from paretopress.targets.target import Target
from paretopress.targets.wire_protocol import Frame

LOST = TargetLostError("the connection must hold, but got: nothing")
DIED = LatencyError("the agent must live through its work, but it ended")
FEED = {"x": np.ones((1, 3), np.float32)}


class Device:
    """Starts agents; each failure in `at_start` and `at_work` happens once, in turn, None being a success."""

    def __init__(self, folder: Path, at_start: Sequence[Any] = (), at_work: Sequence[Any] = ()) -> None:
        self.folder, self.at_start, self.at_work = folder, list(at_start), list(at_work)
        self.commands: list[str] = []
        self.removed: list[str] = []
        self.started = self.closed = 0

    def start(self, _: SshAddress, remove: Sequence[str]) -> Any:
        failure = self.at_start.pop(0) if self.at_start else None
        if failure is not None:
            raise failure
        self.started += 1
        self.removed += remove
        return Agent(self, str(self.started))


class Agent:
    def __init__(self, device: Device, token: str) -> None:
        self.device, self.token, self.files = device, token, set[str]()
        self.place = device.folder / f"paretopress-{token}"
        self.place.mkdir()
        self.held = OpenFiles()

    def ask(self, head: dict[str, Any], payload: bytes = b"") -> Frame:
        failure = self.device.at_work.pop(0) if self.device.at_work and head["command"] != "put" else None
        if failure is not None:
            raise failure
        self.device.commands.append(head["command"])
        reply, data = answer(json.loads(json.dumps(head)), payload, self.place, self.held)
        return json.loads(json.dumps(reply)), data

    def close(self) -> None:
        self.device.closed += 1


def target_on(device: Device) -> SshTarget:
    measuring = LocalTarget(SessionSettings(threads=1), blocks=2, baseline_blocks=2, max_rounds=1)
    return SshTarget(SshAddress("board", "pi"), measuring, start=device.start, backoff_s=(0.0, 0.0))


def another(file: Path) -> Path:
    """Return a copy with other bytes that means the same."""
    path = file.with_name("another.onnx")
    path.write_bytes(file.read_bytes() + b"\x12\x01z")  # the producer's name, once more
    return path


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_measure_sends_the_baseline_once_when_candidates_follow(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path)
    target: Target = target_on(device)
    baseline = target.measure_baseline(doubling, feed=FEED, rng=rng())
    latency = target.measure(another(doubling), doubling, baseline_ms=4.0, limit_ms=None, feed=FEED, rng=rng())
    target.run(another(doubling), FEED)
    target.measure(doubling, doubling, baseline_ms=4.0, limit_ms=None, feed=FEED, rng=rng())
    assert device.commands == ["put", "measure_baseline", "put", "measure", "run", "measure"]
    assert (baseline.blocks, latency.blocks) == (8, 8)
    assert latency.latency_ms == pytest.approx(4.0 * latency.ratio)


def test_run_returns_the_outputs_when_the_agent_answers(tmp_path: Path, doubling: Path) -> None:
    (output,) = target_on(Device(tmp_path)).run(doubling, FEED)
    assert output.tolist() == [[2.0, 2.0, 2.0]]


def test_opened_sends_and_opens_a_file_once_when_many_batches_are_run(tmp_path: Path, doubling: Path, sessions: list[str]) -> None:
    device = Device(tmp_path)
    target: Target = target_on(device)
    with target.opened(doubling) as file:
        assert file.inputs == (("x", ("batch", 3)),)
        outputs = [file.run({"x": np.full((1, 3), k, np.float32)})[0][0, 0] for k in range(4)]
    assert outputs == [0.0, 2.0, 4.0, 6.0]
    assert device.commands == ["put", "open", "feed", "feed", "feed", "feed", "shut"]
    assert len(sessions) == 1


def test_opened_goes_on_with_another_agent_when_the_first_is_lost(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path, at_work=[None, None, LOST])
    with target_on(device).opened(doubling) as file:
        assert [file.run(FEED)[0].tolist() for _ in range(2)] == [[[2.0, 2.0, 2.0]]] * 2
    assert device.commands == ["put", "open", "feed", "put", "feed", "shut"]


def test_opened_keeps_the_files_that_are_open_when_others_are_sent(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path)
    target = target_on(device)
    with target.opened(doubling, beside_others=True) as one, target.opened(another(doubling), beside_others=True) as two:
        target.measure_baseline(another(doubling), feed=FEED, rng=rng())  # which shuts both there
        assert one.run(FEED)[0].tolist() == two.run(FEED)[0].tolist() == [[2.0, 2.0, 2.0]]
    assert device.commands.count("put") == 2


def test_opened_says_so_when_the_runtime_cannot_load_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    with pytest.raises(LatencyError, match=r"INVALID_PROTOBUF.*broken\.onnx on ssh://pi@board"), target_on(Device(tmp_path)).opened(broken):
        pass


def test_measure_reads_the_baseline_once_when_candidates_follow(tmp_path: Path, doubling: Path, hashed: list[str]) -> None:
    target = target_on(Device(tmp_path))
    candidate = another(doubling)
    target.measure_baseline(doubling, feed=FEED, rng=rng())
    for _ in range(3):
        target.measure(candidate, doubling, baseline_ms=4.0, limit_ms=None, feed=FEED, rng=rng())
    here = [name for name in hashed if name in (doubling.name, candidate.name)]
    assert here == [doubling.name, candidate.name]


def test_environment_tells_the_threads_when_asked(tmp_path: Path) -> None:
    found = target_on(Device(tmp_path)).environment()
    assert found["threads"] == 1
    assert found["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("failure", [LOST, DIED], ids=["lost", "died"])
def test_run_is_asked_again_with_its_files_when_a_request_breaks(tmp_path: Path, doubling: Path, failure: ParetopressError) -> None:
    device = Device(tmp_path, at_work=[failure, None])
    assert target_on(device).run(doubling, FEED)[0].tolist() == [[2.0, 2.0, 2.0]]
    assert device.commands == ["put", "put", "run"]
    assert device.removed == (["1"] if failure is DIED else [])  # what a killed agent could not remove


def test_run_says_the_target_is_lost_when_every_attempt_breaks(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path, at_work=[LOST] * 3)
    with pytest.raises(TargetLostError, match=r"the connection must hold.*\(3 attempts\)"):
        target_on(device).run(doubling, FEED)
    assert (device.started, device.closed) == (3, 3)


def test_run_says_the_target_is_lost_when_it_was_reached_once(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path, at_start=[None, LOST, ConfigError("the host key must be the known one")], at_work=[LOST])
    with pytest.raises(TargetLostError, match="host key"):
        target_on(device).run(doubling, FEED)


def test_run_fails_the_candidate_alone_when_it_kills_every_agent(tmp_path: Path, doubling: Path) -> None:
    device = Device(tmp_path, at_work=[DIED] * 3)
    target = target_on(device)
    with pytest.raises(LatencyError, match="must live"):
        target.run(doubling, FEED)
    target.close()
    assert device.removed == ["1", "2", "3"]  # the last one's folder by an agent started for that
    assert device.closed == 4


@pytest.mark.parametrize("failure", [ConfigError("no numpy"), TargetLostError("no route")], ids=["config", "unreachable"])
def test_environment_tries_once_when_it_fails_from_the_start(tmp_path: Path, failure: ParetopressError) -> None:
    device = Device(tmp_path, at_start=[failure])
    with pytest.raises(type(failure)):
        target_on(device).environment()
    assert device.started == 0


def test_run_names_the_hosts_file_when_the_agent_refuses_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no protobuf")
    device = Device(tmp_path)
    with pytest.raises(LatencyError, match=r"INVALID_PROTOBUF.*at broken\.onnx on ssh://pi@board"):
        target_on(device).run(broken, FEED)
    assert device.started == 1


def test_run_raises_when_the_file_is_missing_here(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"must be readable, but got No such file.*at absent\.onnx"):
        target_on(Device(tmp_path)).run(tmp_path / "absent.onnx", FEED)


def test_close_ends_the_agent_when_there_is_one(tmp_path: Path) -> None:
    device = Device(tmp_path)
    target = target_on(device)
    target.close()
    assert (device.started, device.closed) == (0, 0)
    target.environment()
    target.close()
    assert (device.started, device.closed) == (1, 1)
