"""What `verify_bundle` reveals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from paretopress.deploy import bundle_run
from paretopress.deploy.verify import Verification, verify_bundle
from paretopress.errors import BundleError

Array = np.ndarray[Any, Any]
ELSEWHERE = "riscv64 elsewhere"


def test_verify_bundle_returns_what_it_found_when_intact(bundle: Path, sha256: Callable[[Path], str]) -> None:
    assert verify_bundle(bundle) == Verification(sha256(bundle / "model.onnx"), 0.0, 10, ())


@pytest.mark.parametrize("name", ["README.md", "model.onnx", "run.py", "selfcheck.npz", "manifest.json"])
def test_verify_bundle_raises_when_a_file_is_missing(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name) as caught:
        verify_bundle(bundle)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["README.md", "model.onnx", "run.py", "selfcheck.npz"])
def test_verify_bundle_raises_when_one_byte_is_altered(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} must have sha256"):
        verify_bundle(bundle)


def test_verify_bundle_raises_when_a_figure_in_the_manifest_is_altered(bundle: Path) -> None:
    path = bundle / "manifest.json"
    text = path.read_text(encoding="utf-8")
    assert text.count("91.5") == 1
    path.write_text(text.replace("91.5", "99.5"), encoding="utf-8")
    with pytest.raises(BundleError, match="manifest_sha256"):
        verify_bundle(bundle)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "null"])
def test_verify_bundle_raises_when_the_manifest_is_no_object(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json must"):
        verify_bundle(bundle)


@pytest.mark.parametrize("key", ["schema", "format_version"])
def test_verify_bundle_raises_when_the_schema_is_another(bundle: Path, reseal: Callable[..., None], key: str) -> None:
    reseal(bundle, **{key: 3})
    with pytest.raises(BundleError, match="must have schema 1 and format_version 2"):
        verify_bundle(bundle)


def test_verify_bundle_raises_when_a_manifest_key_is_no_list(bundle: Path, reseal: Callable[..., None]) -> None:
    reseal(bundle, classes=None)
    with pytest.raises(BundleError, match="list named classes"):
        verify_bundle(bundle)


def test_verify_bundle_raises_when_the_named_sha256_is_another(bundle: Path, reseal: Callable[..., None]) -> None:
    reseal(bundle, sha256="0" * 64)
    with pytest.raises(BundleError, match=r"one sha256 of model\.onnx"):
        verify_bundle(bundle)


def test_verify_bundle_raises_when_run_py_is_not_the_packages(bundle: Path, reseal: Callable[..., None]) -> None:
    (bundle / "run.py").write_text("print('self-check passed: trust me')\n", encoding="utf-8")
    reseal(bundle)
    with pytest.raises(BundleError, match=r"run\.py must be the one of this paretopress"):
        verify_bundle(bundle)


def test_verify_bundle_raises_when_the_path_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="must be a folder"):
        verify_bundle(tmp_path / "gone")


def test_verify_bundle_passes_when_outputs_differ_within_the_tolerance(bundle: Path, alter_expected: Callable[..., None]) -> None:
    alter_expected(bundle, lambda scores: scores * np.float32(1.0009))
    found = verify_bundle(bundle)
    assert found.max_difference == pytest.approx(0.0009 / 1.0009, rel=1e-3)
    assert found.warnings == ()


def test_verify_bundle_raises_when_outputs_differ_on_the_same_cpu(bundle: Path, alter_expected: Callable[..., None]) -> None:
    alter_expected(bundle, lambda scores: scores * np.float32(1.002))
    with pytest.raises(BundleError, match=r"within 0\.001 of their range") as caught:
        verify_bundle(bundle)
    assert "do not deploy" in caught.value.hint


@pytest.mark.parametrize("name", ["cpu_family", "__version__"])
def test_verify_bundle_warns_when_outputs_differ_on_another_cpu_or_runtime(
    bundle: Path, alter_expected: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    alter_expected(bundle, lambda scores: scores * np.float32(1.02))
    if name == "cpu_family":
        monkeypatch.setattr(bundle_run, name, lambda: ELSEWHERE)
    else:
        monkeypatch.setattr(onnxruntime, name, ELSEWHERE)
    found = verify_bundle(bundle)
    assert found.max_difference == pytest.approx(0.02 / 1.02, rel=1e-3)
    assert len(found.warnings) == 1
    assert ELSEWHERE in found.warnings[0]


def test_verify_bundle_warns_not_when_outputs_agree_on_another_cpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_run, "cpu_family", lambda: ELSEWHERE)
    assert verify_bundle(bundle).warnings == ()


@pytest.mark.parametrize(("changed", "passes"), [(1, True), (2, False)])
def test_verify_bundle_counts_classes_when_run_on_another_cpu(
    bundle: Path, alter_expected: Callable[..., None], monkeypatch: pytest.MonkeyPatch, changed: int, passes: bool
) -> None:
    def roll_first(scores: Array) -> Array:
        return np.concatenate([np.roll(scores[:changed], 1, axis=1), scores[changed:]])

    alter_expected(bundle, roll_first)
    monkeypatch.setattr(bundle_run, "cpu_family", lambda: ELSEWHERE)
    if passes:
        assert "90.0% of the samples" in verify_bundle(bundle).warnings[0]
    else:
        with pytest.raises(BundleError, match="90% of the samples must keep their argmax"):
            verify_bundle(bundle)


def test_verify_bundle_raises_when_expected_outputs_are_missing(bundle: Path, samples: Array, reseal: Callable[..., None]) -> None:
    np.savez(bundle / "selfcheck.npz", input_0=samples)
    reseal(bundle)
    with pytest.raises(BundleError, match="expected_0"):
        verify_bundle(bundle)


def test_verify_bundle_reads_no_pickle_when_the_self_check_holds_one(bundle: Path, samples: Array, reseal: Callable[..., None]) -> None:
    np.savez(bundle / "selfcheck.npz", allow_pickle=True, input_0=samples, expected_0=np.array([{"a": 1}], dtype=object))
    reseal(bundle)
    with pytest.raises(BundleError, match="allow_pickle=False"):
        verify_bundle(bundle)


def test_verify_bundle_executes_nothing_when_run_py_is_hostile(bundle: Path, reseal: Callable[..., None], tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (bundle / "run.py").write_text(f"open({json.dumps(str(mark))}, 'w')\n", encoding="utf-8")
    reseal(bundle)
    with pytest.raises(BundleError):
        verify_bundle(bundle)
    assert not mark.exists()
