"""What the agent answers, in this process."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paretopress.core.model_inputs import pieces
from paretopress.targets import agent as agent_module
from paretopress.targets.agent import OpenFiles
from paretopress.targets.local import LocalTarget
from paretopress.targets.wire_protocol import Frame, pack_arrays, unpack_arrays


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def answer(head: dict[str, Any], payload: bytes, place: Path, held: OpenFiles | None = None) -> Frame:
    return agent_module.answer(head, payload, place, held or OpenFiles())


def put(place: Path, data: bytes, *keep: str) -> Frame:
    return answer({"command": "put", "sha256": sha256(data), "keep": keep}, data, place)


def run(place: Path, name: str, x: Any) -> Frame:
    head = {"command": "run", "candidate": name, "inputs": ["x"], "target": LocalTarget().to_json()}
    return answer(head, pack_arrays([np.asarray(x, np.float32)]), place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "paretopress-0"
    folder.mkdir()
    return folder


def test_answer_returns_the_outputs_when_a_file_is_run(place: Path, doubling: Path) -> None:
    put(place, doubling.read_bytes())
    reply, payload = run(place, sha256(doubling.read_bytes()), [[1, 2, 3]])
    assert reply == {}
    assert [output.tolist() for output in unpack_arrays(payload)] == [[[2, 4, 6]]]


def test_answer_keeps_what_is_needed_alone_when_a_file_is_put(place: Path) -> None:
    put(place, b"baseline")
    put(place, b"one", sha256(b"baseline"))
    put(place, b"two", sha256(b"baseline"))
    assert {path.stem for path in place.iterdir()} == {sha256(b"baseline"), sha256(b"two")}


def test_answer_refuses_a_file_when_its_bytes_are_others(place: Path, doubling: Path) -> None:
    name = sha256(doubling.read_bytes())
    answer({"command": "put", "sha256": name, "keep": []}, doubling.read_bytes()[:-1], place)
    assert run(place, name, [[1, 2, 3]])[0]["error"].startswith("a file must lie on the target as it was sent, but got sha256=")


def test_answer_says_so_and_keeps_no_part_when_the_disk_is_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    reply, _ = put(place, b"model")
    assert reply["error"] == f"the target must be able to keep files, but got No space left on device at {place}"
    assert "TMPDIR" in reply["hint"]
    assert list(place.iterdir()) == []


def test_answer_names_the_runtimes_reason_when_the_file_is_damaged(place: Path) -> None:
    put(place, b"no protobuf")
    assert "INVALID_PROTOBUF" in run(place, sha256(b"no protobuf"), [[1, 2, 3]])[0]["error"]


def test_answer_tells_the_error_when_it_is_none_of_ours(place: Path) -> None:
    reply, _ = answer({"command": "dance"}, b"", place)
    assert reply["error"] == "the target must carry out dance, but got KeyError: 'dance'"


def test_answer_removes_the_folders_of_killed_agents_when_told(place: Path) -> None:
    for name in ("paretopress-1", "paretopress-2"):
        (place.parent / name / "inside").mkdir(parents=True)
    reply, _ = answer({"command": "environment", "remove": ["1", "3"]}, b"", place)
    assert reply["environment"]["cores_logical"] >= 1
    assert sorted(path.name for path in place.parent.iterdir() if path.is_dir()) == ["paretopress-0", "paretopress-2"]


def feed(place: Path, held: OpenFiles, name: str, x: Any) -> Any:
    head = {"command": "feed", "candidate": name, "inputs": ["x"], "target": LocalTarget().to_json(), "beside_others": False}
    reply, payload = answer(head, pack_arrays([np.asarray(x, np.float32)]), place, held)
    return reply or unpack_arrays(payload)[0].tolist()


def test_answer_opens_one_session_when_a_file_is_fed_again_and_again(place: Path, doubling: Path, sessions: list[str]) -> None:
    held, name = OpenFiles(), sha256(doubling.read_bytes())
    put(place, doubling.read_bytes())
    about = {"candidate": name, "target": LocalTarget().to_json(), "beside_others": False}
    reply, _ = answer({"command": "open", **about}, b"", place, held)
    assert reply == {"inputs": [["x", ["batch", 3]]]}
    assert [feed(place, held, name, [[k, 2, 3]])[0][0] for k in range(5)] == [0, 2, 4, 6, 8]
    assert len(sessions) == 1
    answer({"command": "shut", **about}, b"", place, held)
    assert feed(place, held, name, [[1, 2, 3]]) == [[2, 4, 6]]  # as a new agent must, whose forerunner was lost
    assert len(sessions) == 2


def test_answer_shuts_what_is_open_when_it_measures(place: Path, doubling: Path, sessions: list[str]) -> None:
    held, name = OpenFiles(), sha256(doubling.read_bytes())
    put(place, doubling.read_bytes())
    feed(place, held, name, [[1, 2, 3]])
    target = LocalTarget(blocks=2, baseline_blocks=2, max_rounds=1).to_json()
    head = {"command": "measure_baseline", "candidate": name, "inputs": ["x"], "target": target, "seed": 0}
    assert answer(head, pack_arrays([np.ones((1, 3), np.float32)]), place, held)[0]["latency"]["blocks"] == 8
    before = len(sessions)
    feed(place, held, name, [[1, 2, 3]])
    assert len(sessions) == before + 1


def test_answer_reads_a_file_once_when_it_is_used_again_and_again(place: Path, doubling: Path, hashed: list[str]) -> None:
    name = sha256(doubling.read_bytes())
    put(place, doubling.read_bytes())
    for _ in range(5):
        run(place, name, [[1, 2, 3]])
    assert hashed == [f"{name}.onnx"]


@pytest.mark.parametrize("batch", [1, 4])
def test_answer_runs_and_scores_a_file_of_fixed_batch_size(place: Path, tmp_path: Path, batch: int) -> None:
    path = tmp_path / "fixed.onnx"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "fixed", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    name = sha256(path.read_bytes())
    put(place, path.read_bytes())
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    found = [unpack_arrays(run(place, name, part)[1])[0] for (part,) in pieces([x], [batch, 3])]
    assert np.concatenate(found)[:6].tolist() == (2 * x).tolist()
    target = LocalTarget(baseline_blocks=6).to_json()
    head = {"command": "measure_baseline", "seed": 0, "candidate": name, "inputs": ["x"], "target": target}
    assert answer(head, pack_arrays([x[:1].repeat(batch, 0)]), place)[0]["latency"]["latency_ms"] > 0.0
