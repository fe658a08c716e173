"""`paretopress explain` as a user types it: for a file, for a trial of a run, and with what cannot be explained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import optuna
import pytest
from onnx import TensorProto, helper, numpy_helper
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from typed import typed_here

from paretopress.config import parse_config
from paretopress.search.storage.studies import STUDY_NAME
from paretopress.system.atomic_files import write_json
from paretopress.system.run_folder import MODEL_FILE, RunFolder


def write(path: Path, channels: int = 32, op: str = "Conv") -> Path:
    """Write two 3x3 convolutions of (n, channels, 16, 16) with a ReLU each; another `op` is one that the runtime does not know."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i, name in enumerate(("first", "second")):
        weights.append(numpy_helper.from_array(rng.standard_normal((channels, channels, 3, 3)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node(op, [f"x{i}", f"w{i}"], [f"c{i}"], name=name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, 16, 16]) for name in ("x0", "x2")]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run: trial 0 has its file and a full recovery, 1 was rejected, 2 failed, 3 is a copy of 0."""
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    write_json(folder.config, parse_config({"budget": {"speedup": 2.0}, "target": {"threads": 1}}, "test").to_json())
    write(folder.baseline)
    for final in (False, True):
        path = folder.candidate(0, final=final) / MODEL_FILE
        write(path)
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=["maximize", "minimize", "minimize"])
    rejected = {"outcome": {"rejected": "over the latency budget, 0.9 ms > 0.5 ms"}}
    for attributes in ({"outcome": {"rejected": ""}}, rejected):
        study.add_trial(create_trial(state=TrialState.COMPLETE, values=[90.0, 1.0, 1.0], user_attrs=attributes))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"error": "LoweringError: no export"}))
    study.add_trial(create_trial(state=TrialState.COMPLETE, values=[90.0, 1.0, 1.0], user_attrs={"copy_of": 0}))
    return folder.root


def write_tokens(path: Path, batch: int | str = "n") -> Path:
    """Write an embedding of 20 words, a product with a matrix and the mean over 8 positions: (n, 8) int64 -> (n, 32)."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["words", "tokens"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("ReduceMean", ["h"], ["y"], axes=[1], keepdims=0),
    ]
    weights = {"words": (20, 64), "w": (64, 32)}
    kept = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, [batch, 8])
    graph = helper.make_graph(nodes, "tokens", [tokens], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 32])], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("batch", ["n", 4])
def test_explain_runs_a_model_of_tokens(tmp_path: Path, batch: int | str) -> None:
    done = typed_here(tmp_path, "explain", write_tokens(tmp_path / "tokens.onnx", batch), "--runs", 5)
    assert done.returncode == 0, done.stderr
    assert "first" in done.stdout


def test_explain_takes_the_items_that_a_run_keeps(run: Path) -> None:
    folder = RunFolder(run)
    for path in (folder.baseline, folder.candidate(0, final=True) / MODEL_FILE):
        write_tokens(path)
    np.savez(folder.samples, tokens=np.full((3, 8), 19))
    done = typed_here(run.parent, "explain", run, "--trial", 0, "--runs", 5)
    assert done.returncode == 0, done.stderr
    np.savez(folder.samples, tokens=np.full((3, 8), 20))  # beyond the table: that it fails shows that these are what it runs
    assert "out of data bounds" in typed_here(run.parent, "explain", run, "--trial", 0, "--runs", 5).stderr


def test_explain_names_the_odd_channels_when_a_file_has_them(tmp_path: Path) -> None:
    done = typed_here(tmp_path, "explain", write(tmp_path / "odd.onnx", channels=31), "--runs", 5)
    assert done.returncode == 0, done.stderr
    assert "odd channels" in done.stdout
    assert "first, second" in done.stdout


def test_explain_compares_with_the_baseline_when_a_second_file_is_given(tmp_path: Path) -> None:
    files = write(tmp_path / "odd.onnx"), write(tmp_path / "even.onnx")
    done = typed_here(tmp_path, "explain", files[0], "--baseline", files[1], "--runs", 5, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["predicted_ratio"] == pytest.approx(1.0)
    low, high = value["measured_ratio_ci"]
    assert low <= value["measured_ratio"] <= high
    macs = 32 * 32 * 9 * 16 * 16
    assert [(line["name"], line["baseline_macs"], line["macs"]) for line in value["lines"][:2]] == [
        ("first", macs, macs),
        ("second", macs, macs),
    ]


@pytest.mark.parametrize("trial", [0, 3], ids=["trained", "copy"])
def test_explain_compares_with_the_runs_baseline_when_a_trial_is_named(run: Path, trial: int) -> None:
    done = typed_here(run.parent, "explain", run, "--trial", trial, "--runs", 5)
    assert done.returncode == 0, done.stderr
    assert "Against the baseline: measured" in done.stdout
    assert "second" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "--trial", "9"], 2, "0 to 3"),
        (["run", "--trial", "1"], 2, "over the latency budget"),
        (["run", "--trial", "2"], 2, "no export"),
        (["run"], 2, "--trial"),
        (["unknown.onnx"], 1, "ONNX Runtime must load the file"),
        (["unknown.onnx", "--trial", "1"], 2, "belongs to a run"),
        (["text.onnx"], 2, "must be an ONNX model"),
        (["absent.onnx"], 2, "must be readable"),
        (["good.onnx", "--baseline", "text.onnx"], 2, "must be an ONNX model"),
        (["."], 2, "config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_explain_says_what_is_wrong_when_there_is_nothing_to_explain(run: Path, arguments: list[str], code: int, says: str) -> None:
    where = run.parent
    (where / "text.onnx").write_text("no protobuf")
    write(where / "unknown.onnx", op="Convolve")
    write(where / "good.onnx")
    done = typed_here(where, "explain", *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
