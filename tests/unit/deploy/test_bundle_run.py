"""The runner that ships: as a module, as its command line, and as a subprocess in an isolated interpreter."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundle_alone import run_alone

from paretopress.deploy import bundle_run
from paretopress.deploy.bundle import BundleFacts

Array = np.ndarray[Any, Any]


def test_run_check_prints_one_line_when_intact(bundle: Path, sha256: Callable[[Path], str]) -> None:
    done = run_alone(bundle, "--check")
    digest = sha256(bundle / "model.onnx")
    assert done.stdout == f"self-check passed: 10 samples, difference 0 of the range, model.onnx sha256 {digest}\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_run_check_exits_1_when_the_manifest_is_altered(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("91.5", "99.5"), encoding="utf-8")
    done = run_alone(bundle, "--check")
    assert done.returncode == 1
    assert done.stderr.startswith("self-check failed: manifest.json must have manifest_sha256")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [((2, 1, 3, 2), "float32", "must have shape (N, 1, 2, 2), but got (2, 1, 3, 2)"), ((2, 1, 2, 2), "float64", "must be float32")],
)
def test_run_predict_exits_2_when_shape_or_dtype_is_wrong(
    bundle: Path, tmp_path: Path, shape: tuple[int, ...], dtype: str, reason: str
) -> None:
    np.save(tmp_path / "in.npy", np.zeros(shape, dtype=dtype))
    done = run_alone(bundle, "--predict", str(tmp_path / "in.npy"))
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["model.onnx", "selfcheck.npz", "manifest.json", "README.md"])
def test_main_exits_1_with_one_line_when_a_file_is_missing(bundle: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (bundle / name).unlink()
    assert bundle_run.main(["--check"], bundle) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("self-check failed: ")
    assert name in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", ["model.onnx", "selfcheck.npz"])
def test_load_raises_when_a_file_is_altered(bundle: Path, name: str) -> None:
    with (bundle / name).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(bundle_run.BrokenBundleError, match=f"{name} must have sha256"):
        bundle_run.load(bundle)


def test_main_prints_the_reason_when_the_self_check_fails(
    bundle: Path, alter_expected: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    alter_expected(bundle, lambda scores: -scores)
    assert bundle_run.main(["--check"], bundle) == 1
    assert "self-check failed: outputs must be within 0.001 of their range, but got a difference of 2" in capsys.readouterr().err


def test_main_warns_on_stderr_when_the_cpu_is_another(
    bundle: Path, alter_expected: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alter_expected(bundle, lambda scores: scores * np.float32(1.02))
    monkeypatch.setattr(bundle_run, "cpu_family", lambda: "riscv64 elsewhere")
    assert bundle_run.main(["--check"], bundle) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("self-check passed: 10 samples, difference 0.0196 of the range")
    assert captured.err.startswith("warning: outputs differ by up to 0.0196 of their range, 100.0% of the samples")


def test_predict_returns_the_scores_when_the_input_fits(bundle: Path, samples: Array) -> None:
    outputs = bundle_run.predict(samples[:2], bundle_run.load(bundle))
    assert [output.tolist() for output in outputs] == [[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]]


def test_predict_raises_when_the_batch_is_empty(bundle: Path, samples: Array) -> None:
    with pytest.raises(bundle_run.WrongInputError, match="must have shape"):
        bundle_run.predict(samples[:0], bundle_run.load(bundle))


def test_main_prints_names_indices_and_probabilities_when_predicting(
    bundle: Path, tmp_path: Path, samples: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", samples[1:2])
    assert bundle_run.main(["--predict", str(tmp_path / "in.npy")], bundle) == 0
    # softmax of (0, 2, 0): e^2 / (e^2 + 2) = 0.7870, 1 / (e^2 + 2) = 0.1065
    assert capsys.readouterr().out == "0: dog (1) 0.7870, cat (0) 0.1065, owl (2) 0.1065\n"


def test_main_prints_every_likely_label_when_labels_are_independent(
    write: Callable[..., Path], make_facts: Callable[..., BundleFacts], tmp_path: Path, samples: Array, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(facts=make_facts(independent_labels=True))
    np.save(tmp_path / "in.npy", np.stack([samples[0] + samples[1], -samples[2]]))
    assert bundle_run.main(["--predict", str(tmp_path / "in.npy")], folder) == 0
    # the sigmoid of 2 is 0.8808, that of 0 one half
    assert capsys.readouterr().out == "0: cat (0) 0.8808, dog (1) 0.8808\n1: none; most probable cat (0) 0.5000\n"
    assert "an item may have several, or none" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["nan", "text", "missing", "pickle"])
def test_main_exits_2_when_the_file_holds_no_finite_numbers(
    bundle: Path, tmp_path: Path, samples: Array, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "in.npy"
    if content == "nan":
        np.save(path, samples * np.float32("nan"))
    elif content == "text":
        path.write_text("1, 2, 3", encoding="utf-8")
    elif content == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert bundle_run.main(["--predict", str(path)], bundle) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert str(path) in captured.err


def test_probabilities_are_the_softmax_when_scores_are_logits() -> None:
    scores = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0]])
    assert bundle_run.probabilities(scores) == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_probabilities_are_unchanged_when_rows_sum_to_one() -> None:
    scores = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    assert np.array_equal(bundle_run.probabilities(scores), scores)


def test_main_times_with_the_manifests_threads_when_asked(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle_run.main(["--time", "--runs", "3"], bundle) == 0
    line = capsys.readouterr().out
    assert "batch 1, 3 runs after 20 of warm-up, threads intra_op 1 inter_op 1" in line
    assert line.startswith("p50 ")


def test_time_runs_leaves_out_the_warm_up_when_it_is_slow(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a clock on which the 20 warm-up runs take 9 s each and the timed ones 1, 2, 3 ms: p50 is 2, p90 is 2.8
    durations_s = [9.0] * 20 + [0.001, 0.002, 0.003]
    readings = iter([value for duration in durations_s for value in (0.0, duration)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    assert bundle_run.time_runs(bundle_run.load(bundle), 3).startswith("p50 2.000 ms, p90 2.800 ms,")


@pytest.mark.parametrize(
    ("model_batch", "conditions", "used"), [(5, {"batch": 2}, 5), ("N", {"batch": 2}, 2), ("N", {"batch": 12}, 12), ("N", {}, 1)]
)
def test_time_runs_uses_the_measured_batch_when_the_model_has_none(
    write: Callable[..., Path],
    make_model: Callable[..., Path],
    make_facts: Callable[..., Any],
    model_batch: int | str,
    conditions: dict[str, int],
    used: int,
) -> None:
    folder = write(onnx=make_model(batch=model_batch), facts=make_facts(conditions=conditions))
    assert f"batch {used}," in bundle_run.time_runs(bundle_run.load(folder), 1)


@pytest.mark.parametrize("arguments", [[], ["--check", "--time"], ["--time", "--runs", "0"], ["--time", "--runs", "x"]])
def test_main_exits_2_when_options_are_wrong(bundle: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bundle_run.main(arguments, bundle)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_difference_is_a_share_of_the_range_when_outputs_differ() -> None:
    expected = np.array([[-1.0, 3.0]], dtype=np.float32)
    assert bundle_run.difference(expected, np.array([[-1.0, 4.0]])) == pytest.approx(0.25)


def test_difference_is_nan_when_a_value_is_not_finite() -> None:
    assert np.isnan(bundle_run.difference(np.zeros((1, 2)), np.array([[0.0, np.inf]])))


def test_agreement_is_zero_when_a_value_is_not_finite() -> None:
    assert bundle_run.agreement(np.array([[0.0, 1.0]]), np.array([[0.0, np.inf]])) == 0.0


def test_difference_takes_the_magnitude_when_the_output_is_constant() -> None:
    assert bundle_run.difference(np.full((2, 1), 100.0), np.full((2, 1), 101.0)) == pytest.approx(0.01)


@pytest.mark.parametrize(("shift", "share"), [(0.4, 1.0), (0.6, 0.0)])
def test_agreement_falls_back_to_values_when_there_is_one_score(shift: float, share: float) -> None:
    expected = np.array([[0.0], [10.0]])
    assert bundle_run.agreement(expected, expected + shift) == share


def test_judge_raises_when_the_difference_is_nan_on_another_cpu() -> None:
    limits = {"max_difference_of_range": 1e-3, "min_argmax_agreement": 0.9}
    with pytest.raises(bundle_run.BrokenBundleError, match="90% of the samples"):
        bundle_run.judge(float("nan"), 0.0, limits, ("a", "1"), ("b", "1"))


def test_judge_is_loose_when_the_cpu_family_is_unknown() -> None:
    limits = {"max_difference_of_range": 1e-3, "min_argmax_agreement": 0.9}
    assert "outputs differ" in bundle_run.judge(0.01, 1.0, limits, ("", "1"), ("", "1"))


def test_session_options_sets_enums_and_config_entries_when_named() -> None:
    entry = "session.intra_op.allow_spinning"
    options = bundle_run.session_options({"intra_op_num_threads": 3, "graph_optimization_level": 1, entry: 0})
    assert options.intra_op_num_threads == 3
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.get_session_config_entry(entry) == "0"


def test_run_py_parses_when_python_is_3_9(bundle: Path) -> None:
    assert ast.parse((bundle / "run.py").read_text(encoding="utf-8"), feature_version=(3, 9)).body


def test_manifest_digest_ignores_itself_and_order_when_computed() -> None:
    first, second = {"a": 1, "b": [2.5], "manifest_sha256": "x"}, {"b": [2.5], "a": 1}
    assert bundle_run.manifest_digest(first) == bundle_run.manifest_digest(second)
    assert bundle_run.manifest_digest(json.loads(json.dumps(second))) != bundle_run.manifest_digest({"a": 1, "b": [2.0]})


@pytest.mark.parametrize("batch", [1, 4])
def test_predict_takes_any_number_of_items_when_the_batch_is_fixed(
    write: Callable[..., Path], make_model: Callable[..., Path], samples: Array, tmp_path: Path, batch: int
) -> None:
    folder = write(onnx=make_model(batch=batch))
    np.save(tmp_path / "in.npy", samples[:6])
    done = run_alone(folder, "--predict", str(tmp_path / "in.npy"))
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["cat", "dog", "owl", "cat", "dog", "owl"]
    assert run_alone(folder, "--check").returncode == 0
    assert f"batch {batch}," in run_alone(folder, "--time", "--runs", "5").stdout


def test_main_prints_shares_of_pixels_when_pixels_are_scored(
    write: Callable[..., Path], make_pixel_model: Callable[[], Path], tmp_path: Path
) -> None:
    folder = write(onnx=make_pixel_model())
    np.save(tmp_path / "in.npy", np.array([0.0, 0.0, 1.0, 0.0], dtype=np.float32).reshape(1, 1, 2, 2))
    done = run_alone(folder, "--predict", str(tmp_path / "in.npy"))
    assert done.stdout == "0: cat (0) 0.7500, dog (1) 0.2500, owl (2) 0.0000\n"
