"""Sessions and measurements of tiny ONNX files on this host; no wall time is asserted."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paretopress.errors import ConfigError, LatencyError
from paretopress.runtimes import onnx_runtime
from paretopress.runtimes.onnx_runtime import open_session, random_feed
from paretopress.runtimes.runtime import SessionSettings
from paretopress.targets.local import BASELINE_BLOCKS, LocalTarget, measure
from paretopress.targets.target import Target

SETTINGS = SessionSettings()


def _write(path: Path, dtype: int = TensorProto.FLOAT) -> Path:
    """Write y = x + x, x of shape ("batch", 3, 4, 4)."""
    x = helper.make_tensor_value_info("x", dtype, ["batch", 3, 4, 4])
    y = helper.make_tensor_value_info("y", dtype, ["batch", 3, 4, 4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], name="/add/Add")], "tiny", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return _write(tmp_path / "tiny.onnx")


def test_open_session_runs_when_the_file_is_valid(tiny: Path) -> None:
    session = open_session(tiny, SessionSettings(threads=2))
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 2
    assert session.run(None, {"x": np.ones((1, 3, 4, 4), np.float32)})[0].max() == 2.0


def test_open_session_names_the_file_when_it_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no protobuf")
    with pytest.raises(LatencyError, match=r"INVALID_PROTOBUF.*at broken\.onnx"):
        open_session(path, SETTINGS)


def test_open_session_names_the_file_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"NO_SUCHFILE.*at absent\.onnx"):
        open_session(tmp_path / "absent.onnx", SETTINGS)


@pytest.mark.parametrize(("threads", "inter_op"), [(0, 1), (1, 0), (-2, 1)])
def test_session_settings_raise_when_threads_are_not_positive(threads: int, inter_op: int) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        SessionSettings(threads, inter_op)


def test_random_feed_makes_batch_one_when_dimensions_are_dynamic(tiny: Path) -> None:
    feed = random_feed(tiny, np.random.default_rng(0))
    again = random_feed(open_session(tiny, SETTINGS), np.random.default_rng(0))
    assert feed.keys() == {"x"}
    assert feed["x"].shape == (1, 3, 4, 4)
    assert feed["x"].dtype == np.float32
    assert feed["x"].std() > 0.5
    assert np.array_equal(feed["x"], again["x"])


def test_random_feed_stays_below_a_tables_rows_when_inputs_are_whole(tmp_path: Path) -> None:
    path = _write(tmp_path / "ids.onnx", TensorProto.INT64)
    feed = random_feed(path, np.random.default_rng(0), {"x": 5})
    assert feed["x"].dtype == np.int64
    assert set(feed["x"].ravel().tolist()) == {0, 1, 2, 3, 4}
    assert set(random_feed(path, np.random.default_rng(0))["x"].ravel().tolist()) == {1}


def test_random_feed_raises_when_an_input_is_of_another_type(tmp_path: Path) -> None:
    path = _write(tmp_path / "bytes.onnx", TensorProto.UINT64)
    with pytest.raises(LatencyError, match=r"tensor\(uint64\) at x"):
        random_feed(path, np.random.default_rng(0))


def test_measure_scales_to_the_baseline_when_its_latency_is_given(tiny: Path, tmp_path: Path) -> None:
    other = _write(tmp_path / "other.onnx")
    feed = random_feed(tiny, np.random.default_rng(0))
    before = feed["x"].copy()
    latency = measure(
        other,
        tiny,
        baseline_ms=4.0,
        limit_ms=None,
        settings=SETTINGS,
        feed=feed,
        rng=np.random.default_rng(0),
        blocks=3,
        max_rounds=1,
    )
    assert latency.latency_ms == pytest.approx(4.0 * latency.ratio)
    assert latency.blocks == 12
    assert latency.latency_ci_ms[0] <= latency.latency_ms <= latency.latency_ci_ms[1]
    assert np.array_equal(feed["x"], before)


def test_measure_raises_when_the_baseline_is_another_file(tiny: Path, tmp_path: Path) -> None:
    other = _write(tmp_path / "other.onnx")
    feed = random_feed(tiny, np.random.default_rng(0))
    with pytest.raises(LatencyError, match=r"measured against itself, but got reference=tiny\.onnx at other\.onnx"):
        measure(other, tiny, baseline_ms=None, limit_ms=None, settings=SETTINGS, feed=feed, rng=np.random.default_rng(0))


def test_measure_names_the_file_when_the_feed_does_not_fit(tiny: Path) -> None:
    feed = {"x": np.zeros((1, 5, 4, 4), np.float32)}
    with pytest.raises(LatencyError, match=r"must run its feed.*at tiny\.onnx"):
        measure(tiny, tiny, baseline_ms=1.0, limit_ms=None, settings=SETTINGS, feed=feed, rng=np.random.default_rng(0))


def test_measure_baseline_takes_its_raw_p50_when_measured_against_itself(tiny: Path) -> None:
    feed = random_feed(tiny, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    latency = measure(tiny, tiny, baseline_ms=None, limit_ms=None, settings=SETTINGS, feed=feed, rng=rng, blocks=BASELINE_BLOCKS)
    assert latency.latency_ms == latency.raw_p50_ms > 0.0
    assert latency.blocks % 32 == 0


def test_local_target_keeps_its_settings_when_used_as_a_target(tiny: Path) -> None:
    target: Target = LocalTarget(blocks=3, baseline_blocks=4, max_rounds=1)
    feed = random_feed(tiny, np.random.default_rng(0))
    baseline = target.measure_baseline(tiny, feed=feed, rng=np.random.default_rng(0))
    latency = target.measure(tiny, tiny, baseline_ms=baseline.latency_ms, limit_ms=None, feed=feed, rng=np.random.default_rng(0))
    assert (baseline.blocks, latency.blocks) == (16, 12)
    assert latency.latency_ms == pytest.approx(baseline.latency_ms * latency.ratio)


@pytest.mark.parametrize(("threads", "is_alone"), [(1, False), (2, True)])
def test_measure_keeps_one_session_open_when_sessions_have_workers(
    threads: int, is_alone: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now, most = 0, 0

    def closed() -> None:
        nonlocal open_now
        open_now -= 1

    def counted(path: Path, settings: SessionSettings, **options: Any) -> object:
        nonlocal open_now, most
        session = open_session(path, settings, **options)
        weakref.finalize(session, closed)
        open_now += 1
        most = max(most, open_now)
        return session

    monkeypatch.setattr(onnx_runtime, "open_session", counted)
    feed = {"x": np.ones((1, 3, 4, 4), np.float32)}
    LocalTarget(SessionSettings(threads), baseline_blocks=2, max_rounds=1).measure_baseline(tiny, feed=feed, rng=np.random.default_rng(0))
    assert (open_now, most == 1) == (0, is_alone)
